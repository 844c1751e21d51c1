"""Checkpoints of the published code become run folders, run folders become such checkpoints, bit for bit."""

import shutil
import subprocess
import sys
from pathlib import Path

import cases
import pytest
import torch
from torch import nn

import convert
import datasets
import models
import sample
from functions.errors import InputError
from functions.storage import checkpoint, published

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ["--config", *cases.WORLDS["ddpm"]["pretrain"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory, originals):
    """A toy run with an EMA, 4 steps; a copy, as samples are drawn into it."""
    return shutil.copytree(originals["ddpm"].run, tmp_path_factory.mktemp("convert") / "run")


def export(run, out="ckpt.pth"):
    return convert.main([str(run), "--export", "ddim", "--out", str(out)])


def import_(path, *more):
    return convert.main([str(path), *CONFIG, *more])


def states(run):
    return torch.load(export(run), weights_only=True)


def save(content, path="ckpt.pth", **options):
    torch.save(content, path, **options)
    return path


# ---- round trips


def test_ours_to_theirs_to_ours(run):
    again = import_(export(run))
    assert again.parent == Path("results/digits/pretrain")
    for kind in ("raw", "ema"):
        assert cases.same(cases.weights(again, kind), cases.weights(run, kind))
    assert not cases.same(cases.weights(again, "raw"), cases.weights(again, "ema"))
    ours, theirs = cases.load_meta(again), cases.load_meta(run)
    assert ours.pop("source") == checkpoint.sha256_file("ckpt.pth") and theirs.pop("source") is None
    for meta in (ours, theirs):
        del meta["files"], meta["config"]["training"]  # the toy's settings were not repeated
        meta.pop("cost", None)  # nobody knows what theirs cost
        for key in ("indices", "forgotten_before", "pretrained"):  # nor, in a file, what it was trained on
            meta.pop(key, None)
        for key in ("n", "content"):
            meta["data"].pop(key, None)
    assert ours == theirs


def test_without_an_ema(run):
    plain = cases.pretrain("ddpm", "--set", "training.ema=false")
    assert len(states(plain)) == 3
    again = import_("ckpt.pth")
    assert cases.same(cases.weights(again, "raw"), cases.weights(plain, "raw"))
    assert cases.choose_kind(again, "auto") == "raw"


def test_theirs_to_ours_to_theirs(run):
    before = states(run)
    export(import_("ckpt.pth"), "again.pth")
    after = torch.load("again.pth", weights_only=True)
    assert cases.same(after[0], before[0]) and cases.same(after[3], before[3]) and after[2] == before[2]
    assert after[1]["state"] == {}  # a fresh Adam
    torch.optim.Adam(unet(run).parameters()).load_state_dict(after[1])


@pytest.mark.parametrize("raw, ema", [("", ""), ("module.", "module."), ("module._orig_mod.", "_orig_mod.")])
@pytest.mark.parametrize("zipped", [True, False])
def test_wrapped_names_and_old_files(run, raw, ema, zipped):
    raw = {raw + n: t for n, t in cases.weights(run, "raw").items()}
    ema = {ema + n: nn.Parameter(t) for n, t in cases.weights(run, "ema").items()}
    again = import_(save([raw, {}, 3, ema], _use_new_zipfile_serialization=zipped))
    assert all(cases.same(cases.weights(again, k), cases.weights(run, k)) for k in ("raw", "ema"))


# ---- what the published code does with the list, and what our commands do with the folder


def unet(run):
    return models.build(cases.load_meta(run)["model"])


def test_the_published_code_can_load_it(run):
    model, _, step, ema = states(run)
    net = nn.DataParallel(unet(run))
    net.load_state_dict(model, strict=True)
    assert cases.same(net.module.state_dict(), cases.weights(run, "raw"))
    assert list(ema) and {n for n, _ in net.module.named_parameters()} == set(ema)  # their EMAHelper.ema
    assert cases.same(ema, cases.weights(run, "ema"))
    assert step == 3  # the fourth update, counted from 0


def test_adam_goes_on_as_ours_would(run):
    adam = states(run)[1]
    net = unet(run)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.9, 0.999), eps=1e-8)
    optimizer.load_state_dict(adam)
    stored = cases.load_state(run)["optimizers"][0]
    for i, p in enumerate(net.parameters()):
        assert optimizer.state[p]["step"] == 4
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[p][key], stored["state"][i][key])
    assert optimizer.param_groups[0]["lr"] == stored["param_groups"][0]["lr"]
    assert set(adam["param_groups"][0]) == set(published.ADAM_GROUP)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()


def test_another_optimiser_leaves_a_fresh_adam():
    sgd = cases.pretrain("ddpm", "--set", "optim.name=sgd", "--set", "optim.lr=0.001")
    adam = states(sgd)[1]
    assert adam["state"] == {} and adam["param_groups"][0]["lr"] == 0.001
    torch.optim.Adam(unet(sgd).parameters()).load_state_dict(adam)


def test_an_imported_checkpoint_draws_what_the_original_draws(run):
    again = import_(export(run), "--out", "theirs/run")
    assert again == Path("theirs/run")
    argv = [
        "--config",
        "digits_sample.yml",
        "--mode",
        "sample_classes",
        "--classes_to_generate",
        "3",
        "--n_samples_per_class",
        "2",
        "--timesteps",
        "2",
    ]
    pictures = [(sample.main([*argv, "--ckpt_folder", str(r)]) / "3/1.png").read_bytes() for r in (run, again)]
    assert pictures[0] == pictures[1]


def test_an_imported_checkpoint_unlearns_as_the_original_does(run):
    again = import_(export(run))
    losses = [cases.stats(cases.unlearn("ddpm", "finetune", r)) for r in (run, again)]
    assert losses[0] == losses[1]


def test_an_imported_checkpoint_cannot_be_resumed(run):
    again = import_(export(run))
    with pytest.raises(InputError, match=f"--resume {again}: began with another mode: import"):
        cases.pretrain("ddpm", "--resume", str(again))


# ---- CIFAR-10 at its own size needs no CIFAR-10


def test_cifar10_needs_no_download():
    argv = ["--config", "cifar10_pretrain.yml", "--set", "model.ch=8", "--set", "model.num_res_blocks=1"]
    kwargs = {
        "ch": 8,
        "ch_mult": [1, 2, 2, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [16],
        "image_size": 32,
        "in_channels": 3,
        "out_ch": 3,
        "n_classes": 10,
    }
    state = nn.DataParallel(models.UNet(**kwargs)).state_dict()
    folder = convert.main([save([state, {}, 799_999]), *argv])
    assert folder.parent == Path("results/cifar10/pretrain")
    assert checkpoint.resolve(folder).name == "step_0800000"
    meta = cases.load_meta(folder)
    assert meta["model"]["kwargs"].items() >= kwargs.items()
    assert meta["data"]["classes"][:2] == ["airplane", "automobile"] and meta["data"]["shape"] == [3, 32, 32]


@pytest.mark.parametrize("name, size", [("digits", None), ("digits", 16), ("shapes", 4)])
def test_facts_are_what_loading_says(name, size):
    images = datasets.load(name, image_size=size)
    assert datasets.describe(name, image_size=size) == (images.shape, images.classes)


def test_data_sets_without_facts_are_read(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        datasets.describe("folder", str(tmp_path / "nowhere"))


# ---- bad input: one line, and nothing is written


class Exploit:
    """A pickle of it creates the file `owned` when a plain unpickler reads it."""

    def __reduce__(self):
        return (shutil.copyfile, (__file__, "owned"))


@pytest.mark.parametrize(
    "content, message",
    [
        ({"model": 1}, "wanted the list of the published code, got a dict"),
        ([{}, {}], "a list of 2, wanted 3 or 4"),
        ([{}, {}, 0, 0, {}], "a list of 5, wanted 3 or 4"),
        ([{"a": torch.zeros(1)}, {}, 5, 7], "entry 3: wanted a dict of tensors by name, got a int"),
        ([[torch.zeros(1)], {}, 5], "entry 0: wanted a dict of tensors by name, got a list"),
        ([{}, {}, 5], "entry 0: holds no tensors"),
        ([{"a": 3}, {}, 5], "entry 0: a: wanted a tensor by name, got a int"),
        ([{"a": torch.zeros(1)}, {}, {}], "entry 2: wanted the step, got a dict"),
        ([{"a": torch.zeros(1)}, {}, -3], "entry 2: wanted the step, got -3"),
    ],
)
def test_what_is_no_such_list_is_refused(content, message):
    with pytest.raises(InputError, match=rf"ckpt\.pth: {message}"):
        import_(save(content))
    assert not Path("results").exists()


def test_weights_of_another_model_are_counted_and_named(run):
    raw, ema = cases.weights(run, "raw"), cases.weights(run, "ema")
    wider = ["--config", "digits_pretrain.yml", "--set", "model.ch=16"]
    with pytest.raises(InputError, match=r"ckpt\.pth \(raw\): (\d+) tensors do not fit the model: (\S+, ){4}\S+$"):
        convert.main([save([raw, {}, 0]), *wider])
    del ema["conv_in.weight"]
    ema["logvar"] = torch.zeros(1000)
    with pytest.raises(InputError, match=r"\(ema\): 2 tensors do not fit the model: conv_in\.weight, logvar"):
        import_(save([raw, {}, 0, ema]))
    assert not Path("results").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_code_is_named_and_not_run(run, place, zipped):
    content = [cases.weights(run), {}, 0, cases.weights(run, "ema")]
    content[place] = {"state": Exploit()}
    path = save(content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"refused, nothing of it was run: it calls shutil\.copyfile,") as error:
        import_(path)
    assert "\n" not in str(error.value)
    assert not Path("owned").exists() and not Path("results").exists()
    torch.load(path, weights_only=False)  # the exploit is a real one
    assert Path("owned").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_cut_file_is_refused(run, share, zipped):
    path = Path(save([cases.weights(run), {}, 0], _use_new_zipfile_serialization=zipped))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"ckpt\.pth: damaged or not a file of torch\.save") as error:
        import_(path)
    assert "\n" not in str(error.value)
    assert not Path("results").exists()


def test_nothing_is_overwritten(run):
    there = Path("there")
    there.mkdir()
    with pytest.raises(InputError, match="there: already exists"):
        import_(export(run), "--out", "there")
    with pytest.raises(InputError, match="there: already exists"):
        export(run, there)
    assert not list(there.iterdir())


def test_the_default_place_of_an_export(run):
    snapshot = checkpoint.resolve(run)
    out = convert.main([str(run), "--export", "ddim"])
    try:
        assert out == run / "ckpts" / "ckpt.pth"
        assert checkpoint.resolve(run) == snapshot  # the run folder is one as before
        with pytest.raises(InputError, match=r"ckpts/ckpt\.pth: already exists"):
            convert.main([str(snapshot), "--export", "ddim"])  # a snapshot's list lies in the same place
    finally:
        out.unlink()


def test_arguments_that_do_not_go_together(run, originals):
    with pytest.raises(InputError, match="x: --config: missing"):
        convert.main(["x"])
    with pytest.raises(InputError, match="have no meaning with --export"):
        convert.main([str(run), "--export", "ddim", *CONFIG])
    with pytest.raises(InputError, match="x: no such file"):
        import_("x")
    with pytest.raises(InputError, match="world classifier; a published checkpoint is of world ddpm"):
        convert.main(["x", "--config", "digits_classifier.yml"])
    with pytest.raises(InputError, match="world classifier; --export ddim is for ddpm models"):
        export(originals["classifier"].run)


def test_other_commands_say_how_to_convert(run):
    Path("theirs/ckpts").mkdir(parents=True)
    path = export(run, "theirs/ckpts/ckpt.pth")
    line = r"is a published checkpoint: python convert\.py theirs/ckpts/ckpt\.pth --config cifar10_pretrain\.yml"
    for folder in ("theirs", path):
        with pytest.raises(InputError, match=line):
            cases.unlearn("ddpm", "finetune", folder)


def test_help_and_bad_input_at_the_shell(run):
    code = "import sys, convert; convert.parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    save(Exploit())
    command = [sys.executable, str(ROOT / "convert.py"), "ckpt.pth", *CONFIG]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("convert.py: ckpt.pth: refused")
    assert done.stderr.count("\n") == 1 and not Path("owned").exists()


def test_a_disk_that_is_full_leaves_nothing(run, monkeypatch):
    ckpt = export(run)

    def full(*_, **__):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr(checkpoint, "save", full)
    for more in ((), ("--out", "new/run")):
        with pytest.raises(OSError, match="No space left"):
            import_(ckpt, *more)
    assert sorted(p.name for p in Path().iterdir()) == ["ckpt.pth", "ckpt.pth.sha256"]
