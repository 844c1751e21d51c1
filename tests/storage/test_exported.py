"""Models for programs that know nothing of ours: diffusers' U-Net, plain weights, and the page that shows their use."""

import json
import re
import shlex
import shutil
from pathlib import Path

import cases
import dits
import pytest
import torch
from torch import nn

import convert
import models
from functions.errors import InputError
from functions.storage import checkpoint, exported

PAGE = Path(__file__).resolve().parents[2] / "docs" / "use_the_model_elsewhere.md"
# 32 groups need channels of 128; everything else is small
KWARGS = {
    **{"ch": 128, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "image_size": 8, "dropout": 0.1},
    **{"in_channels": 1, "out_ch": 1, "n_classes": 10, "resamp_with_conv": True},
}


def make_run(folder: str, kinds=("raw", "ema"), **kwargs) -> Path:
    """A run folder of a random U-Net."""
    described = {"name": "unet", "kwargs": {**KWARGS, **kwargs}}
    meta = cases.meta() | {
        "world": "ddpm",
        "mode": "sfron",
        "model": described,
        "encoder": {"name": "pixels", "kwargs": {}},
        "diffusion": {"timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "p_uncond": 0.1, "reduction": "sum"},
        "data": {"dataset": "digits", "n_classes": 10, "shape": [1, 8, 8], "classes": list("0123456789")},
        "forget": {"label": 3, "count": None, "fraction": None, "index_file": None},
    }
    weights = {}
    for seed, kind in enumerate(kinds):
        torch.manual_seed(seed)
        model = models.build(described)
        for p in model.parameters():  # norms and biases too: nothing that is 0 or 1 by chance
            nn.init.normal_(p, std=0.05) if p.ndim > 1 else nn.init.normal_(p, mean=0.5, std=0.5)
        weights[kind] = model.state_dict()
    checkpoint.save(folder, 7, weights, {}, meta, keep=1)
    return Path(folder)


def ours(run: Path, kind: str) -> nn.Module:
    model = models.build(cases.load_meta(run)["model"]).eval()
    model.load_state_dict(cases.load_weights(run, kind))
    return model


def outputs_agree(run: Path, out: Path, kind: str) -> None:
    from diffusers import UNet2DModel

    unet, model = UNet2DModel.from_pretrained(out / "unet").eval(), ours(run, kind)
    g = torch.Generator().manual_seed(5)
    x, c = torch.randn(11, 1, 8, 8, generator=g), torch.arange(11)  # label 10 is the null condition
    t = torch.randint(0, 1000, (11,), generator=g)
    with torch.no_grad():
        wanted, found = model(x, t, c), unet(x, t, class_labels=c).sample
    assert (wanted - wanted.flip(0)).abs().max() > 0.01  # it does depend on its inputs
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("kwargs", [{}, {"ch_mult": [1, 1, 2], "num_res_blocks": 2, "attn_resolutions": [8, 2]}])
def test_diffusers_computes_the_same_class_labels_included(kwargs):
    run = make_run("run", **kwargs)
    out = convert.main([str(run), "--export", "diffusers"])
    assert out == run / "diffusers"
    outputs_agree(run, out, "ema")
    about = json.loads((out / "about.json").read_text())
    assert about["step"] == 7 and about["forget"]["label"] == 3 and about["data"]["classes"][3] == "3"
    with pytest.raises(InputError, match="already exists"):
        convert.main([str(run), "--export", "diffusers"])
    raw = convert.main([str(run), "--export", "diffusers", "--weights", "raw", "--out", "raw"])
    outputs_agree(run, raw, "raw")


def test_its_schedule_is_ours():
    from diffusers import DDIMScheduler

    from functions.tasks import linear_alpha_bar

    run = make_run("run", kinds=("raw",), ch_mult=[1], attn_resolutions=[])
    convert.main([str(run), "--export", "diffusers"])
    scheduler = DDIMScheduler.from_pretrained(run / "diffusers" / "scheduler")
    torch.testing.assert_close(scheduler.alphas_cumprod, linear_alpha_bar(1000, 1e-4, 0.02).float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"ch": 32}, r"model\.ch 32: its norms have 8, 16, 32 groups, UNet2DModel has one number for all"),
        ({"ch_mult": [2, 2]}, r"model\.ch_mult \[2, 2\]: UNet2DModel's first level"),
        ({"resamp_with_conv": False}, r"model\.resamp_with_conv false: UNet2DModel has no plain pooling"),
    ],
)
def test_what_has_no_twin_is_refused_by_name(kwargs, message):
    run = make_run("run", kinds=("raw",), **kwargs)
    with pytest.raises(InputError, match=message):
        convert.main([str(run), "--export", "diffusers"])
    assert [p.name for p in run.iterdir()] == ["ckpts"]
    assert convert.main([str(run), "--export", "weights"]).is_file()


def test_a_classifier_has_no_twin_in_diffusers(originals):
    run = shutil.copytree(originals["classifier"].run, "run")
    with pytest.raises(InputError, match="a model named cnn; only the U-Net"):
        convert.main([str(run), "--export", "diffusers"])


def test_another_diffusers_that_computes_something_else_is_no_export(monkeypatch):
    run = make_run("run", kinds=("raw",), ch_mult=[1], attn_resolutions=[])
    right = exported.unet_config
    monkeypatch.setattr(exported, "unet_config", lambda *a: {**right(*a), "norm_eps": 1.0})
    with pytest.raises(RuntimeError, match="differs from the model by"):
        convert.main([str(run), "--export", "diffusers"])
    assert [p.name for p in run.iterdir()] == ["ckpts"]


def test_plain_weights_are_the_models(originals):
    run = shutil.copytree(originals["ddpm"].run, "run")
    for kind in ("auto", "raw"):
        out = convert.main([str(run), "--export", "weights", "--weights", kind, "--out", f"{kind}.pth"])
        found = torch.load(out, weights_only=True)
        wanted = cases.load_weights(run, "ema" if kind == "auto" else kind)
        assert found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_the_page_runs_as_it_stands(originals):
    """Its commands and its Python, in its order, in one program."""
    make_run("RUN", ch_mult=[1], attn_resolutions=[])
    shutil.copytree(originals["classifier"].run, "CLASSIFIER")
    dits.make_run("DIT")
    blocks, names = re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), re.S), {}
    assert len(blocks) >= 12
    for kind, text in blocks:
        if kind == "bash":
            for command in text.splitlines():
                python, script, *argv = shlex.split(command)
                assert (python, script) == ("python", "convert.py")
                convert.main(argv)
        else:
            exec(text, names)
    assert names["images"].shape == (3, 1, 8, 8) and names["images"].isfinite().all()
    assert names["pictures"].shape == (3, 1, 8, 8) and names["drawn"].shape == (2, 8, 8, 1)
    assert len(names["names"]) == 4 and names["noise"].shape == (2, 1, 8, 8)
