"""Every method x {mask, no mask} x {CNN with BatchNorm, small ViT}, through the command line, on a hundred digits."""

import json
from pathlib import Path

import cases
import pytest
import torch

import train
from functions.config import names as keys
from functions.config.methods import METHODS
from functions.config.unlearning import Unlearning
from functions.errors import InputError
from functions.storage.artifacts import load_mask

VIT = "{img_size: 8, patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2}"
MODELS = {
    "cnn": ["--set", "model={name: cnn, width: 4}"],
    "vit": ["--arch", "vit_tiny_patch16_224", "--set", f"model.options={VIT}"],
}
UNLEARNING = [m for m, section in METHODS.items() if issubclass(section, Unlearning)]
TOY = ["--batch_size", "8", "--epochs", "1"]
LIMITED = {"sfron": ["--set", "training.n_iters=6"], "sa": ["--set", "training.n_iters=4"], "iu": ["--set", "iu.k=12"]}


@pytest.fixture(scope="module", params=list(MODELS))
def original(request, tmp_path_factory):
    """(folder of a toy original, mask, Fisher), made once for each model."""
    folder = tmp_path_factory.mktemp(request.param)
    indices = folder / "hundred.json"
    indices.write_text(json.dumps(list(range(0, 1500, 15))))
    run = train.main(
        [
            "--mode",
            "pretrain",
            "--dataset",
            "digits",
            *MODELS[request.param],
            "--epochs",
            "3",
            "--batch_size",
            "16",
            "--set",
            f"data.indices={indices}",
            "--save_dir",
            str(folder / "origin"),
        ]
    )
    start = ["--model_path", str(run), "--forget_fraction", "0.2"]
    train.main(["--mode", "generate_mask", *start, "--save_dir", str(folder / "mask")])
    train.main(["--mode", "generate_fisher", *start, "--save_dir", str(folder / "fisher")])
    return run, start, folder


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("mode", UNLEARNING)
def test_every_method_with_and_without_a_mask(original, mode, masked):
    run, start, folder = original
    more = ["--mask_path", str(folder / "mask" / "with_0.5.safetensors")] if masked else []
    if mode == "sfron" and masked:
        more += ["--set", "unlearn.mask_mode=strict"]
    if mode == "sa":
        more += ["--set", f"sa.fisher_path={folder / 'fisher' / 'remain_fisher.safetensors'}"]
    out = train.main(["--mode", mode, *start, *TOY, *LIMITED.get(mode, []), *more, "--save_dir", f"{mode}"])
    before, after = (cases.load_weights(r, "raw") for r in (run, out))
    assert before.keys() == after.keys()
    mask = load_mask(folder / "mask" / "with_0.5.safetensors", None, None)
    moved = sum(int((after[n] != before[n]).sum()) for n in mask)
    total = sum(m.numel() for m in mask.values())
    assert moved > total * (0.01 if mode == "salun_soft" else 0.2)
    if masked:
        assert all(torch.equal(after[n][~m], before[n][~m]) for n, m in mask.items())
        assert moved <= total // 2
    meta = cases.load_meta(out)
    assert meta["forget"]["fraction"] == 0.2 and meta["selection"]["name"] == "random0.2_s0"
    if masked or mode == "sa":  # the mask's cost, and the Fisher's
        assert meta["prepared"]["backward"] >= 18 * masked + 72 * (mode == "sa")
    else:
        assert "prepared" not in meta


@pytest.mark.parametrize("name, mode", keys.UNLEARN_ALIAS.items())
def test_published_names_of_methods(original, name, mode, capsys):
    _, start, _ = original
    train.main(["--unlearn", name, *start, *TOY, *LIMITED.get(mode, []), "--save_dir", "out"])
    assert cases.load_meta("out")["mode"] == mode
    assert f"--unlearn {name} means --mode {mode}" in capsys.readouterr().out


def test_retrain_takes_architecture_and_split_of_its_original(original):
    run, start, _ = original
    again = train.main(["--unlearn", "retrain", *start, "--epochs", "1", "--batch_size", "16", "--save_dir", "again"])
    assert cases.load_meta(again)["model"] == cases.load_meta(run)["model"]
    theirs, ours = cases.load_indices(run), cases.load_indices(again)
    assert torch.equal(torch.cat([ours["forget"], ours["remain"]]).sort().values, theirs["remain"])
    assert torch.equal(ours["val"], theirs["val"])
    with pytest.raises(InputError, match="--mask_path: has no meaning in mode retrain"):
        train.main(["--unlearn", "retrain", *start, "--mask_path", "x", "--save_dir", "masked"])
    assert not Path("masked").exists()


# ---- splits and forget sets


def test_forget_remain_and_validation_are_disjoint_and_all_there_is(original):
    run, start, _ = original
    out = train.main(["--mode", "finetune", *start, *TOY, "--save_dir", "out"])
    found, origin = cases.load_indices(out), cases.load_indices(run)
    assert {k: len(v) for k, v in found.items()} == {"forget": 18, "remain": 72, "val": 10}
    together = torch.cat(list(found.values())).sort().values
    assert torch.equal(together, torch.arange(0, 1500, 15))
    assert torch.equal(torch.cat([found["forget"], found["remain"]]).sort().values, origin["remain"])
    assert json.loads(Path("out/logs/forget_indices.json").read_text()) == found["forget"].tolist()


def forget_set(*words, start):
    out = train.main(["--mode", "ga", *start, *TOY, *words, "--set", "results=here"])
    return cases.load_indices(out)["forget"]


def test_the_forget_set_depends_on_the_seed_and_the_split_on_the_original(original):
    run, _, _ = original
    start = ["--model_path", str(run)]
    one = forget_set("--num_indexes_to_replace", "20", "--class_to_replace", "-1", start=start)
    other = forget_set("--num_indexes_to_replace", "20", "--seed", "1", start=start)
    same = forget_set("--num_indexes_to_replace", "20", "--seed", "1", "--set", "seeds.forget=0", start=start)
    assert len(one) == len(other) == 20
    assert not torch.equal(one, other) and torch.equal(one, same)
    folders = [p.name for p in Path("here/digits").iterdir()]
    assert sorted(folders) == ["forget_random20_s0", "forget_random20_s1"]
    (out, *_) = Path("here/digits/forget_random20_s1/ga").iterdir()
    assert torch.equal(cases.load_indices(out)["val"], cases.load_indices(run)["val"])
    assert len(forget_set("--num_indexes_to_replace", "3", "--class_to_replace", "4", start=start)) == 3


def test_a_forget_set_by_index_file_comes_back_from_a_run(original):
    run, start, _ = original
    first = train.main(["--mode", "ga", *start, *TOY, "--save_dir", "first"])
    again = train.main(
        [
            "--mode",
            "ga",
            "--model_path",
            str(run),
            "--forget_idx",
            f"{first}/logs/forget_indices.json",
            *TOY,
            "--save_dir",
            "again",
        ]
    )
    one, two = (cases.load_indices(r) for r in (first, again))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert cases.load_meta(again)["selection"]["name"] == "idx-forget_indices"
    assert torch.equal(*(cases.load_weights(r, "raw")["mean"] for r in (first, again)))


BAD_SELECTIONS = {
    "everything": (["--forget_fraction", "1.0"], r"forget\.fraction.*|leaves none to remain"),
    "none": (["--num_indexes_to_replace", "0"], r"forget\.count: got 0"),
    "too many": (["--num_indexes_to_replace", "91"], r"91 is not in 1\.\.90"),
    "two ways": (["--num_indexes_to_replace", "3", "--forget_fraction", "0.1"], r"forget: got count and fraction"),
    "never trained on": (["--forget_idx", "unseen.json"], r"unseen\.json: index 1 is not among the examples"),
    "out of range": (["--forget_idx", "range.json"], r"range\.json: index 1500 is not in 0\.\.1499"),
    "repeated": (["--forget_idx", "twice.json"], r"twice\.json: index \d+ is listed more than once"),
    "another data set": (["--forget_idx", "other.json"], r"other\.json: .*shapes"),
}


@pytest.mark.parametrize("words, line", BAD_SELECTIONS.values(), ids=BAD_SELECTIONS)
def test_bad_forget_sets_are_one_line_and_write_nothing(original, words, line):
    run, _, _ = original
    seen = int(cases.load_indices(run)["remain"][0])
    Path("unseen.json").write_text("[1]")
    Path("range.json").write_text("[1500]")
    Path("twice.json").write_text(f"[{seen}, {seen}]")
    Path("other.json").write_text(json.dumps({"dataset": "shapes", "indices": [seen]}))
    with pytest.raises(ValueError, match=line) as caught:
        train.main(["--mode", "ga", "--model_path", str(run), *words, *TOY, "--save_dir", "out"])
    assert isinstance(caught.value, InputError) and "\n" not in str(caught.value)
    assert not Path("out").exists()


# ---- other bad input


def test_a_checkpoint_of_another_architecture_says_which_weights(original):
    _, start, _ = original
    with pytest.raises(InputError, match=r"model: the checkpoint has .*\d+ tensors do not fit the model: \w+.*"):
        train.main(["--mode", "ga", *start, *TOY, "--arch", "resnet20s", "--save_dir", "out"])


def test_weights_that_become_nan_are_never_written(original):
    _, start, _ = original
    with pytest.raises(InputError, match=r"a weight is NaN, infinite or near it at step 1.*--alpha"):
        train.main(["--unlearn", "wfisher", *start, *TOY, "--set", "iu.k=8", "--alpha", "1e38", "--save_dir", "out"])
    assert not list(Path("out").glob("ckpts/step_*"))


def test_a_mask_for_other_images_is_refused(original):
    run, _, folder = original
    with pytest.raises(InputError, match="made for forget set random0.2_s0"):
        train.main(
            [
                "--mode",
                "ga",
                "--model_path",
                str(run),
                "--forget_fraction",
                "0.3",
                *TOY,
                "--mask_path",
                str(folder / "mask" / "with_0.5.safetensors"),
                "--save_dir",
                "out",
            ]
        )


def test_save_dir_is_never_written_over(original):
    _, start, _ = original
    Path("out").mkdir()
    train.main(["--mode", "ga", *start, *TOY, "--save_dir", "out"])  # empty: fine
    with pytest.raises(InputError, match="--save_dir out: is not empty; choose another, or --resume out"):
        train.main(["--mode", "ga", *start, *TOY, "--save_dir", "out"])
    train.main(["--mode", "ga", *start, *TOY, "--save_dir", "out", "--resume", "out"])


def test_the_data_set_comes_from_the_model_and_needs_a_classifier():
    with pytest.raises(InputError, match="no such folder"):
        train.main(["--mode", "ga", "--model_path", "nowhere", "--num_indexes_to_replace", "3"])
