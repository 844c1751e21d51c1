"""The commands of the second published README, ours, at toy size: a stand-in for ImageNet with five classes, an untrained
autoencoder, and a DiT-XL/2 that is 16 wide. Rows of docs/command_map.md name these tests.
"""

import shlex
from pathlib import Path

import cases
import dits
import pytest
import torch
from toys import write

import generate_fisher_mask
import train
from functions.config.load import load_config
from functions.errors import InputError
from functions.storage.artifacts import load_mask, load_tensors
from functions.storage.meta import DIT_SIZES

WNIDS = {"n02099601": 207, "n02123045": 281, "n01440764": 0, "n04285008": 817, "n07753592": 954}
XL = {"hidden_size": 16, "depth": 2, "num_heads": 2}
# the README's variables
VARIABLES = {"data_path": "imagenet", "d": "imagenet", "bz": "1", "ckpt": "DiT-XL-2-256x256.pt", "cls": "207"}
VARIABLES |= {"mask_path": "masks", "iters": "3", "thresholds": "0.5 1 3 5 10"}
TOY = " --image-size 64 --vae vae --num-workers 0"

FISHER = (
    "python train.py --config dit_xl2_imagenet.yml --mode generate_fisher --model DiT-XL/2 --data-path $data_path "
    "--batch-size $bz --ckpt $ckpt --n-iters $iters --forget-class $cls --mask-path $mask_path"
)
MASK = "python generate_fisher_mask.py --mask-path $mask_path --forget-class $cls --thresholds $thresholds"
FORGET = (
    "python train.py --config dit_xl2_imagenet.yml --mode sfron --model DiT-XL/2 --data-path $d --batch-size $bz "
    "--ckpt $ckpt --n-iters 600 --snapshot-every 50 --lr 1e-4 --forget-class $cls --method ron --unlearn-loss ga "
    "--forget-alpha 1e-3 --decay-forget-alpha --remain-alpha 1.0 --mask-path $mask_path"
)


def run(command: str, **variables: str):
    """A command of the README with its variables, in this process."""
    for name, value in sorted({**VARIABLES, **variables}.items(), key=lambda v: -len(v[0])):
        command = command.replace(f"${name}", value)
    python, script, *argv = shlex.split(command)
    assert python == "python"
    return {"train.py": train, "generate_fisher_mask.py": generate_fisher_mask}[script].main(argv)


def forget(more: str = "", **variables: str) -> Path:
    """The third command, two steps of it."""
    return run(
        FORGET.replace("--n-iters 600", "--n-iters 2") + TOY + " --set training.preview=off " + more, **variables
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The folder where the README's commands are typed, after the first two."""
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("dit")
    for wnid, c in WNIDS.items():
        for k in range(2):
            write(
                folder / "imagenet" / "train" / wnid / f"{wnid}_{k}.JPEG",
                [[(c + 40 * k + x + y) % 256 for x in range(80)] for y in range(70)],
            )
    torch.manual_seed(0)
    blocks = {"block_out_channels": [4] * 4, "layers_per_block": 1, "norm_num_groups": 2, "sample_size": 64}
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    AutoencoderKL(latent_channels=4, scaling_factor=0.5, **blocks, **kinds).save_pretrained(folder / "vae")
    torch.save(dits.weights(**XL, in_channels=4, image_size=8, n_classes=1000), folder / VARIABLES["ckpt"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(DIT_SIZES, "XL", XL)
        assert run(FISHER + TOY) == Path("masks/207")
        run(MASK)
    return folder


@pytest.fixture(autouse=True)
def there(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    monkeypatch.setitem(DIT_SIZES, "XL", XL)


def test_generate_fisher():
    for side in ("forget", "remain"):
        fisher, made = load_tensors(f"masks/207/{side}_fisher.safetensors")
        assert (made["n"], made["n_iters"], made["batch_size"], made["estimator"]) == (3, 3, 1, "per_example")
        assert made["forget"]["label"] == 207 and "pos_embed" not in fisher
        assert fisher["y_embedder.embedding_table.weight"].shape == (1001, 16)
        # of labels that were never seen nothing is known: 207's row for the forget set, the others' for the rest
        seen = fisher["y_embedder.embedding_table.weight"].sum(1).nonzero().flatten().tolist()
        assert seen == [207] if side == "forget" else 207 not in seen and set(seen) <= set(WNIDS.values())


@pytest.mark.parametrize("thresholds", ["0.5 1 3 5 10", "'0.5 1 3 5 10'", "0.5 '1 3' 5 10 1"])
def test_generate_mask(thresholds):
    paths = run(MASK, thresholds=thresholds)
    assert paths == [Path(f"masks/207/fisher_{gamma}.safetensors") for gamma in (0.5, 1.0, 3.0, 5.0, 10.0)]
    kept = [sum(int(m.sum()) for m in load_mask(path, None, None).values()) for path in paths]
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[-1] > 0


def test_generate_mask_without_a_threshold_or_a_place_has_the_readmes(monkeypatch):
    monkeypatch.setattr(generate_fisher_mask, "MASKS", "masks")
    paths = run("python generate_fisher_mask.py --forget-class 'golden retriever'")
    assert [p.name for p in paths] == [f"fisher_{gamma}.safetensors" for gamma in (0.5, 1.0, 3.0, 5.0, 10.0)]


def test_a_class_without_images_here():
    with pytest.raises(InputError, match="208"):
        run(FISHER + TOY, cls="208")
    assert not Path("masks/208").exists()


def test_several_classes():
    run(FISHER + TOY, cls="tench")
    run(FISHER + TOY, cls="207,tench")
    paths = run(MASK, cls="207 tench 0,207", thresholds="1")
    assert paths == [Path(f"masks/{name}/fisher_1.0.safetensors") for name in ("207", "0", "0+207")]
    made = [load_tensors(path)[1]["forget"]["label"] for path in paths]
    assert made == [207, 0, [0, 207]]
    with pytest.raises(
        InputError, match=r"--mask_path masks: 281: no such folder there \(--forget_class\); there are 0, "
    ):
        run(MASK, cls="207 281")


def test_forget(capsys):
    """Every flag of the command is what the run's config says; the mask is the one of threshold 1."""
    out = forget()
    assert out.parent == Path("results/imagenet/forget_207/sfron")
    assert "--mask_path masks: taking masks/207/fisher_1.0.safetensors" in capsys.readouterr().out
    meta = cases.load_meta(out)
    cfg = meta["config"]
    said = {"method": "ron", "loss": "ga", "forget_alpha": 1e-3, "decay_forget_alpha": True, "remain_alpha": 1.0}
    said |= {"mask_path": "masks/207/fisher_1.0.safetensors", "threshold": None, "forget_clip": 1.0}
    assert {key: cfg["unlearn"][key] for key in said} == said
    training = {key: cfg["training"][key] for key in ("n_iters", "batch_size", "preview_freq")}
    assert training == {"n_iters": 2, "batch_size": 1, "preview_freq": 50}
    assert cfg["optim"]["lr"] == 1e-4 and cfg["data"]["path"] == "imagenet" and cfg["forget"]["label"] == 207
    assert cfg["model"] == {
        "name": "dit",
        "size": "XL",
        "patch_size": 2,
        "hidden_size": None,
        "depth": None,
        "num_heads": None,
    }
    assert meta["model"]["kwargs"]["n_classes"] == 1000 and meta["data"]["classes"][207] == "n02099601"
    assert [line["alpha"] for line in cases.stats(out)][-1] == pytest.approx(5e-4)  # 1e-3 (1 + cos(pi / 2)) / 2
    original = torch.load(VARIABLES["ckpt"])
    after = cases.load_weights(out, "raw")
    assert after.keys() == original.keys() and torch.equal(after["pos_embed"], original["pos_embed"])
    assert not torch.equal(after["blocks.0.mlp.fc1.weight"], original["blocks.0.mlp.fc1.weight"])


def test_the_readmes_own_numbers_are_the_configs():
    """Without a flag: what the README recommends."""
    flags = {"ckpt_folder": "x", "label_to_forget": 207}
    cfg = load_config("dit_xl2_imagenet.yml", "sfron", flags=flags)
    assert (cfg.training.n_iters, cfg.training.batch_size, cfg.training.preview_freq, cfg.optim.lr) == (
        600,
        1,
        50,
        1e-4,
    )
    u = cfg.unlearn
    assert (u.method, u.loss, u.forget_alpha, u.decay_forget_alpha, u.remain_alpha) == ("ron", "ga", 1e-3, True, 1.0)
    # the state is the published one, without which the weight would say nothing
    assert (u.forget_clip, u.optimizer_state, cfg.optim.grad_clip, cfg.optim.weight_decay) == (1.0, "shared", None, 0.0)
    f = load_config("dit_xl2_imagenet.yml", "generate_fisher", flags=flags).fisher
    assert (f.n_iters, f.batch_size, f.mask_path, f.draws, f.guidance) == (2000, 1, "mask", 1, 0.0)
    assert load_config("dit_xl2_imagenet_512.yml", "sfron", flags=flags).data.image_size == 512


def test_a_mask_is_a_file_or_another_of_the_folder():
    """And a class goes by its name too."""
    name = "'golden retriever'"
    file = forget("--save_dir file", mask_path="masks/207/fisher_5.0.safetensors")
    other = forget("--save_dir other --threshold 5", cls=name)
    assert cases.load_meta(file)["files"] == cases.load_meta(other)["files"]
    with pytest.raises(InputError, match=r"masks/207/fisher_2\.0\.safetensors: no such file .*there are fisher_0\.5\."):
        forget("--threshold 2")


def test_the_other_published_flags():
    out = forget("--results-dir elsewhere --num-classes 1000 --grad-clip 0.5 --log-every 1 --seed 3")
    cfg = cases.load_meta(out)["config"]
    assert out.parts[0] == "elsewhere" and len(cases.stats(out)) == 2
    assert (cfg["unlearn"]["forget_clip"], cfg["training"]["log_freq"], cfg["seeds"]["seed"]) == (0.5, 1, 3)
    assert (cfg["data"]["image_size"], cfg["data"]["n_workers"], cfg["encoder"]["vae"]) == (64, 0, "vae")
    with pytest.raises(InputError, match=r"data\.n_classes: got 10; imagenet has 1000 \(--num_classes\)"):
        forget("--num-classes 10")
    flags = {"ckpt_folder": "x", "label_to_forget": 207}
    for name in ("ema", "mse"):
        cfg = load_config("dit_xl2_imagenet.yml", "sfron", flags={**flags, "vae": name})
        assert cfg.encoder.vae == f"stabilityai/sd-vae-ft-{name}"


@pytest.mark.parametrize("method, loss", [("joint", "ga"), ("ron", "rl"), ("ron", "adaga")])
def test_the_other_methods_and_losses(method, loss, capsys):
    command = FORGET.replace("--method ron", f"--method {method}").replace(
        "--unlearn-loss ga", f"--unlearn-loss {loss}"
    )
    out = run(command.replace("600", "2") + TOY + " --set training.preview=off")
    meta = cases.load_meta(out)["config"]["unlearn"]
    assert (meta["method"], meta["loss"]) == (method, {"rl": "relabel"}.get(loss, loss))
    assert ("rl means 'relabel' for world 'dit'" in capsys.readouterr().out) == (loss == "rl")


def test_previews_come_as_often_as_asked():
    out = forget("--snapshot-every 1 --set training.preview=1")
    assert len(list((out / "previews").glob("*.png"))) == 2


@pytest.mark.parametrize(
    "words, others, line",
    [
        ("$cls", "1000", r"label_to_forget: 1000 is not a class of imagenet, which has 1000 classes \(0\.\.999\)"),
        ("$cls", "'golden retriver'", r"\(did you mean 'golden retriever'\?\)"),
        ("$cls", "n02099610", r"\(did you mean 'n02099601'\?\)"),
        (
            "$cls",
            "208",
            r"masks/fisher_1\.0\.safetensors: no such file .*; there are masks of (0, 0\+207, )?207 \(--label",
        ),
        ("vae --num", "nowhere --num", r"nowhere: no config\.json"),
        ("vae --num", f"{cases.VAE} --num", r"toy_vae: takes 1-channel images"),
        ("--ckpt $ckpt", "", r"ckpt_folder: missing.*--ckpt"),
        ("DiT-XL/2", "DiT-XL/3", r"--model DiT-XL/3: no such DiT; wanted .* \(did you mean 'DiT-XL/2'\?\)"),
        ("DiT-XL/2", "DiT-B/4", r"DiT-XL/2.*asked for: .*DiT-B/4"),
    ],
)
def test_no_checkpoint_and_other_models_classes_and_autoencoders(words, others, line):
    with pytest.raises(InputError, match=line) as caught:
        run((FORGET + TOY).replace(words, others))
    assert "\n" not in str(caught.value)
