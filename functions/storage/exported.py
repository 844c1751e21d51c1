"""Weights for programs that know nothing of Palimpsest: a diffusers model, or a plain torch file and a JSON.

A DiT becomes what `exported_dit` says. The U-Net concatenates the embeddings of time and label, (4 ch, 4 ch), where
UNet2DModel adds two of one width. Both are one thing: [temb, 0] + [0, cemb], at width 8 ch. The
label's two layers are applied once to every label and kept as a table of n_classes + 1 rows, the last of which is the
null condition.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from functions.errors import InputError
from functions.files import sha256_file, stream_atomic, umask, write_json
from functions.storage import exported_dit

NAMES = (  # ours -> theirs, inside blocks
    *((r"\.block\.(\d+)\.", r".resnets.\1."), (r"\.attn\.(\d+)\.", r".attentions.\1.")),
    *((r"^mid\.block_1\.", "mid_block.resnets.0."), (r"^mid\.block_2\.", "mid_block.resnets.1.")),
    (r"^mid\.attn_1\.", "mid_block.attentions.0."),
    *((r"\.downsample\.", ".downsamplers.0."), (r"\.upsample\.", ".upsamplers.0.")),
    *((r"\.temb_cemb_proj\.", ".time_emb_proj."), (r"\.nin_shortcut\.", ".conv_shortcut.")),
    *((r"\.norm\.", ".group_norm."), (r"\.([qkv])\.", r".to_\1."), (r"\.proj_out\.", ".to_out.0.")),
    (r"^norm_out\.", "conv_norm_out."),
)
EMBEDDINGS = ("temb.", "cemb.", "classes_emb.", "null_classes_emb")
INPUT = {
    "ddpm": "2 x - 1 for images x in [0, 1], noised",
    "dit": "latents, noised: the encoder's scale times a draw of its autoencoder's posterior of 2 x - 1, x in [0, 1]",
    "classifier": "images in [0, 1], normalised inside",
}
# of the outputs' largest value; what is left is rounding: sines of timesteps near 1000 differ by up to 6e-5
SAME = 1e-3


def unet_config(model: nn.Module, described: dict) -> dict:
    """The arguments of diffusers.UNet2DModel for a U-Net as `meta.json` describes it.

    Raises InputError that names what UNet2DModel has no word for.
    """
    kwargs = described["kwargs"]
    groups = sorted({m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)})
    wrong = []
    if len(groups) > 1:
        found = ", ".join(map(str, groups))
        wrong.append(
            f"model.ch {kwargs['ch']}: its norms have {found} groups, UNet2DModel has one number for all "
            "(32, where ch is a multiple of 128)"
        )
    if kwargs["ch_mult"][0] != 1:
        wrong.append(f"model.ch_mult {kwargs['ch_mult']}: UNet2DModel's first level is as wide as conv_in")
    if not kwargs["resamp_with_conv"]:
        wrong.append("model.resamp_with_conv false: UNet2DModel has no plain pooling")
    if wrong:
        raise InputError(f"--export diffusers: {'; '.join(wrong)}. --export weights writes any model")
    attends = [kwargs["image_size"] >> i in kwargs["attn_resolutions"] for i in range(len(kwargs["ch_mult"]))]
    return {
        "sample_size": kwargs["image_size"],
        "in_channels": kwargs["in_channels"],
        "out_channels": kwargs["out_ch"],
        "time_embedding_dim": 8 * kwargs["ch"],
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "block_out_channels": [kwargs["ch"] * m for m in kwargs["ch_mult"]],
        "layers_per_block": kwargs["num_res_blocks"],
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "downsample_padding": 0,
        "dropout": kwargs["dropout"],
        "attention_head_dim": None,  # one head
        "norm_num_groups": groups[0],
        "norm_eps": 1e-6,
        "num_class_embeds": kwargs["n_classes"] + 1,
    }


@torch.no_grad()
def unet_weights(model: nn.Module) -> dict[str, Tensor]:
    """A U-Net's weights under UNet2DModel's names."""
    found, levels = {}, len(model.up)
    for name, tensor in model.state_dict().items():
        if name.startswith(EMBEDDINGS):
            continue
        for ours, theirs in NAMES:
            name = re.sub(ours, theirs, name)
        name = re.sub(r"^down\.", "down_blocks.", name)
        name = re.sub(r"^up\.(\d+)", lambda level: f"up_blocks.{levels - 1 - int(level[1])}", name)
        found[name] = tensor[:, :, 0, 0] if ".attentions." in name and tensor.ndim == 4 else tensor
    return {**found, **_embeddings(model)}


def _embeddings(model: nn.Module) -> dict[str, Tensor]:
    """[temb, 0] from the timestep and [0, cemb] from a table of all labels."""
    one, two = model.temb.dense
    labels = torch.cat([model.classes_emb.weight, model.null_classes_emb[None]])
    table = model.cemb(labels)
    return {
        "time_embedding.linear_1.weight": torch.cat([one.weight, torch.zeros_like(one.weight)]),
        "time_embedding.linear_1.bias": torch.cat([one.bias, torch.zeros_like(one.bias)]),
        "time_embedding.linear_2.weight": torch.block_diag(two.weight, torch.zeros_like(two.weight)),
        "time_embedding.linear_2.bias": torch.cat([two.bias, torch.zeros_like(two.bias)]),
        "class_embedding.weight": torch.cat([torch.zeros_like(table), table], dim=1),
    }


def save_diffusers(out: Path, model: nn.Module, meta: dict) -> None:
    """The new folder `out`, whole or absent: what `from_pretrained` there loads, and `about.json`.

    Raises RuntimeError where the installed diffusers computes something else from it than the model does.
    """
    name = meta["model"]["name"]
    if name not in TWINS:
        raise InputError(f"--export diffusers: a model named {name}; only the U-Net and the DiT have a twin there")
    with _new_folder(out) as folder:
        TWINS[name](folder, model, meta)
        write_json(folder / "about.json", about(meta))


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder under a temporary name, that gets the name `out` at the end or is removed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield temporary
        temporary.chmod(0o777 & ~umask())
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save_unet(folder: Path, model: nn.Module, meta: dict) -> None:
    """`unet/` and `scheduler/`."""
    from diffusers import DDIMScheduler, UNet2DModel

    unet = UNet2DModel(**unet_config(model, meta["model"]))
    unet.load_state_dict(unet_weights(model))
    difference = _difference(model.eval(), unet.eval())
    if not difference <= SAME:
        raise RuntimeError(f"the exported UNet2DModel differs from the model by {difference:.1e} of its output")
    d = meta["diffusion"]
    betas = {"beta_start": d["beta_start"], "beta_end": d["beta_end"], "beta_schedule": "linear"}
    scheduler = DDIMScheduler(num_train_timesteps=d["timesteps"], **betas, clip_sample=False)
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")


@torch.no_grad()
def _difference(model: nn.Module, unet: nn.Module) -> float:
    """Of their outputs for every label and the null condition, as a share of the largest."""
    n, g = model.n_classes + 1, torch.Generator().manual_seed(0)
    x = torch.randn(n, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size, generator=g)
    t, c = torch.arange(n) * 37 % 1000, torch.arange(n)
    wanted = model(x, t, c)
    return float((unet(x, t, class_labels=c).sample - wanted).abs().max() / wanted.abs().max())


def save_weights(out: Path, model: nn.Module, meta: dict) -> None:
    """`out` (.pth): name -> tensor, for `torch.load(..., weights_only=True)`; what they are of in a .json beside it."""
    with stream_atomic(out) as file:
        torch.save(dict(model.state_dict()), file)
    write_json(out.with_suffix(".json"), {**about(meta), "sha256": sha256_file(out)})


def about(meta: dict) -> dict:
    """What one has to know of a model to use it."""
    data = {key: meta["data"][key] for key in ("dataset", "classes", "shape")}
    kept = {key: meta[key] for key in ("world", "model", "encoder", "diffusion", "forget", "mode", "step")}
    return {**kept, "data": data, "input": INPUT[meta["world"]]}


# model -> what fills a folder of diffusers with it
TWINS = {"unet": _save_unet, "dit": exported_dit.save}
FORMS = {"diffusers": ("diffusers", save_diffusers), "weights": ("weights.pth", save_weights)}
