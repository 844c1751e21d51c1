"""Checkpoints of DiT: published files and diffusers folders, under the published names, and which model they are of.

A file is a state dict, in .safetensors or of torch.save, or a dict of training code with `model`, `ema` or both. A
folder is diffusers' DiTTransformer2DModel, or a pipeline with one in `transformer`. There every block has its own copy
of the embeddings of t and c, q, k and v lie apart, and the positions are not kept: they are computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from functions.config.names import DIT_FILE
from functions.errors import InputError
from functions.files import check_exported, read_json
from functions.storage.checkpoint import check_fit
from functions.storage.meta import DIT_SIZES, check_model
from functions.storage.pickles import load_torch, tensors_by_name
from functions.storage.published import Weights
from functions.storage.tensors import plain_names

Build = Callable[[dict], nn.Module]  # models.build

CONFIG, CLASS = "config.json", "DiTTransformer2DModel"
WEIGHTS = "diffusion_pytorch_model"
FILES = (f"{WEIGHTS}.safetensors", f"{WEIGHTS}.bin")
TOKENS = 2**16  # of one image: its positions are computed, and no weights bound them
PUBLISHED_STEP = re.compile(r"\d{7}")  # how training code names what it saves
SHARED = {  # the embeddings, ours -> theirs in every block
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
INNER = {
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
SIZES = {  # what differs between sizes -> the flag, or the key, that sets it
    "hidden_size": "--model",
    "depth": "--model",
    "num_heads": "--model",
    "patch_size": "--model",
    "image_size": "--image_size",
    "in_channels": "encoder.vae",
    "n_classes": "data.dataset",
    "learned_variance": "diffusion.learned_variance",
    "mlp_ratio": "",
}


class Published(NamedTuple):
    """`kwargs` are the arguments of the model, `num_heads` None where no config tells: shapes do not."""

    weights: Weights
    kwargs: dict[str, Any]
    step: int
    file: Path  # that holds the weights


def holds_dit(path: Path | str) -> bool:
    """Whether this is a file, or a folder as diffusers writes it, and no run folder."""
    path = Path(path)
    return path.is_file() or (path.is_dir() and _folder(path) is not None)


def _folder(path: Path) -> Path | None:
    """The folder itself, or its `transformer`, whichever has a config and is no autoencoder's."""
    return next((p for p in (path / "transformer", path) if (p / CONFIG).is_file()), None)


def weights_file(path: Path | str) -> Path:
    """The file that holds the weights: `path`, or one in the folder. Raises InputError where there is none."""
    path = Path(path)
    if path.is_file():
        return path
    folder = _folder(path)
    if folder is None:
        wanted = f"a published file, such as {DIT_FILE}, or a folder of diffusers ({CONFIG} and {FILES[0]})"
        raise InputError(f"{path}: {'no DiT there' if path.exists() else 'no such file or folder'}; wanted {wanted}")
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if found is None:
        several = (folder / f"{FILES[0]}.index.json").is_file()
        how = "; its weights are in several files: save_pretrained(..., max_shard_size='100GB')" if several else ""
        raise InputError(f"{folder}: lacks {FILES[0]}{how}")
    return found


def load(path: Path | str, build: Build) -> Published:
    """What a file or a folder holds. Weights are mapped from it as far as its format allows.

    Raises InputError where it is missing, damaged, holds code, or no DiT.
    """
    file = weights_file(path)
    check_exported(file)
    if file != Path(path):
        return _from_folder(file, build)
    weights = {kind: plain_names(tensors) for kind, tensors in _sets(file).items()}
    found = {kind: kwargs_of(tensors, f"{file} ({kind})") for kind, tensors in weights.items()}
    if found.get("ema", found["raw"]) != found["raw"]:
        raise InputError(f"{file}: model and ema are of two sizes: {said(found['raw'])}; {said(found['ema'])}")
    step = int(file.stem) if PUBLISHED_STEP.fullmatch(file.stem) else 0
    return Published(weights, found["raw"], step, file)


def _sets(file: Path) -> Weights:
    """`raw`, and `ema` where there are both; a lone set is `raw`."""
    if file.suffix == ".safetensors":
        return {"raw": _mapped(file)}
    content = load_torch(file, file, mapped=True)
    if isinstance(content, list):
        raise InputError(f"{file}: a list, as the published DDPM code saves; wanted a DiT's state dict")
    sets = {name: content[name] for name in ("model", "ema") if isinstance(content, dict) and content.get(name)}
    if not sets:
        return {"raw": tensors_by_name(content, file)}
    tensors = [tensors_by_name(found, f"{file}: {name}") for name, found in sets.items()]
    return dict(zip(("raw", "ema"), tensors))


def _mapped(file: Path) -> dict[str, Tensor]:
    try:
        return tensors_by_name(safetensors.torch.load_file(file), file)
    except SafetensorError as error:
        raise InputError(f"{file}: damaged or not a safetensors file ({error})") from None


# ---- which model it is


def kwargs_of(tensors: dict[str, Tensor], source: str) -> dict[str, Any]:
    """The arguments of the model that the shapes are of, but for its heads. Raises InputError where it is no DiT."""
    if any(name.startswith("transformer_blocks.") for name in tensors):
        raise InputError(f"{source}: tensors of diffusers; name their folder, where {CONFIG} says what they are of")
    try:
        width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
        _, tokens, _ = tensors["pos_embed"].shape
        kwargs = {
            "patch_size": patch,
            "hidden_size": width,
            "depth": 1 + max(int(m[1]) for m in map(re.compile(r"blocks\.(\d{1,9})\.").match, tensors) if m),
            "in_channels": channels,
            "image_size": math.isqrt(tokens) * patch,
            "n_classes": len(tensors["y_embedder.embedding_table.weight"]) - 1,
            "learned_variance": len(tensors["final_layer.linear.weight"]) == 2 * channels * patch**2,
            "mlp_ratio": len(tensors["blocks.0.mlp.fc1.weight"]) // width,
        }
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        lacks = f": lacks {error.args[0]}" if isinstance(error, KeyError) else ""
        raise InputError(f"{source}: {len(tensors)} tensors that are no DiT's{lacks}") from None
    check_model({"name": "dit", "kwargs": {**kwargs, "num_heads": 1}}, source)
    return {**kwargs, "num_heads": None}


def usual_heads(kwargs: dict[str, Any]) -> int | None:
    """The folder's, or those of the published model of this width and depth."""
    return kwargs["num_heads"] or DIT_SIZES.get(size_of(kwargs), {}).get("num_heads")


def size_of(kwargs: dict[str, Any]) -> str | None:
    """XL, L, B, S, or None."""
    named = (n for n, of in DIT_SIZES.items() if all(kwargs[k] == of[k] for k in ("hidden_size", "depth")))
    return next(named, None)


def said(kwargs: dict[str, Any], factor: int = 8) -> str:
    """`DiT-XL/2 for 256x256 images, 1000 classes`; `factor`: of sides of images to those of latents."""
    size, patch, side = size_of(kwargs), kwargs["patch_size"], kwargs["image_size"] * factor
    free = f"a DiT of width {kwargs['hidden_size']} and depth {kwargs['depth']}, patches of {patch},"
    name = f"DiT-{size}/{patch}" if size else free
    variance = "" if kwargs["learned_variance"] else ", no learned variance"
    channels = "" if kwargs["in_channels"] == 4 else f", {kwargs['in_channels']} channels"
    return f"{name} for {side}x{side} images, {kwargs['n_classes']} classes{channels}{variance}"


def check_size(found: dict[str, Any], wanted: dict[str, Any], source: Path | str, factor: int) -> None:
    """Raises InputError where the file is not of the model that is wanted: what it fits, and what says otherwise."""
    wanted = {"mlp_ratio": 4, **wanted}
    differ = [key for key in SIZES if found[key] != wanted[key] and found[key] is not None]
    if differ:
        where = ", ".join(dict.fromkeys(SIZES[key] for key in differ if SIZES[key]))
        fits = f"is {said(found, factor)}, and fits nothing else"
        keys = ", ".join(f"{key} {found[key]} and not {wanted[key]}" for key in differ)
        raise InputError(f"{source}: {fits}; asked for: {said(wanted, factor)} ({keys}{where and f'; {where}'})")


# ---- diffusers


def twins(depth: int) -> dict[str, tuple[str, ...]]:
    """Our names -> theirs: several for q, k, v, whose rows follow one another here, and for what all blocks share."""
    blocks = range(depth)
    layers = {ours: (theirs,) for ours, theirs in OUTER.items()}
    for ours, theirs in SHARED.items():
        layers[ours] = tuple(f"transformer_blocks.{i}.norm1.emb.{theirs}" for i in blocks)
    for i in blocks:
        layers[f"blocks.{i}.attn.qkv"] = tuple(f"transformer_blocks.{i}.attn1.to_{part}" for part in "qkv")
        layers |= {f"blocks.{i}.{ours}": (f"transformer_blocks.{i}.{theirs}",) for ours, theirs in INNER.items()}
    found = {}
    for ours, theirs in layers.items():
        for leaf in ("weight",) if ours == "y_embedder.embedding_table" else ("weight", "bias"):
            found[f"{ours}.{leaf}"] = tuple(f"{name}.{leaf}" for name in theirs)
    return found


def to_diffusers(tensors: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """A DiT's weights under their names, without copies. `pos_embed` has none."""
    found = {}
    for ours, theirs in twins(depth).items():
        parts = tensors[ours].chunk(3) if ".qkv." in ours else (tensors[ours],) * len(theirs)
        found.update(zip(theirs, parts))
    return found


def from_diffusers(tensors: dict[str, Tensor], depth: int, source: Path | str) -> dict[str, Tensor]:
    """The inverse. Raises InputError for other names, and where blocks' copies of an embedding differ."""
    table = twins(depth)
    wrong = sorted(tensors.keys() ^ {name for theirs in table.values() for name in theirs})
    if wrong:
        what = f"do not fit a {CLASS} of {depth} blocks as {CONFIG} has it"
        raise InputError(f"{source}: {len(wrong)} tensors {what}: {', '.join(wrong[:5])}")
    found = {}
    for ours, theirs in table.items():
        parts = [tensors[name] for name in theirs]
        if ".qkv." not in ours:
            for name, part in zip(theirs[1:], parts[1:]):
                if not torch.equal(part, parts[0]):
                    raise InputError(f"{source}: {name} differs from {theirs[0]}: a DiT has one of it for all blocks")
        found[ours] = torch.cat(parts) if ".qkv." in ours else parts[0]
    return found


def _from_folder(file: Path, build: Build) -> Published:
    """The weights of a DiTTransformer2DModel, with the positions that it computes."""
    kwargs = _read_config(file.parent / CONFIG)
    theirs = _mapped(file) if file.suffix == ".safetensors" else tensors_by_name(load_torch(file, file, True), file)
    tensors = from_diffusers(theirs, kwargs["depth"], file)
    # what a config says is only text: before memory is taken for it, the weights have to be of those sizes
    with torch.device("meta"):
        own = build({"name": "dit", "kwargs": kwargs}).state_dict()
    check_fit({name: t for name, t in own.items() if name != "pos_embed"}, tensors, f"{file}: as {CONFIG} has it")
    # of a model of one block: the positions are those of any
    tensors["pos_embed"] = build({"name": "dit", "kwargs": {**kwargs, "depth": 1}}).pos_embed.detach()
    return Published({"raw": tensors}, {**kwargs, "mlp_ratio": 4}, 0, file)


def _read_config(path: Path) -> dict[str, Any]:
    """The arguments of our model for theirs. Raises InputError for what ours has no word for."""
    check_exported(path)
    config = read_json(path)
    if not isinstance(config, dict) or config.get("_class_name") != CLASS:
        raise InputError(f"{path}: is not of a {CLASS}")
    get = lambda key, default: config.get(key) if config.get(key) is not None else default
    heads, channels = get("num_attention_heads", 16), get("in_channels", 4)
    sizes = {"heads": heads, "attention_head_dim": get("attention_head_dim", 72), "channels": channels}
    sizes["out_channels"] = get("out_channels", channels)
    if wrong := [key for key, n in sizes.items() if type(n) is not int or not 0 < n < 2**16]:
        raise InputError(f"{path}: {wrong[0]}: got {sizes[wrong[0]]!r:.40}; wanted a size")
    kwargs = {
        "patch_size": get("patch_size", 2),
        "hidden_size": heads * sizes["attention_head_dim"],
        "depth": get("num_layers", 28),
        "num_heads": heads,
        "in_channels": channels,
        "image_size": get("sample_size", 32),
        "n_classes": get("num_embeds_ada_norm", 1000),
        "learned_variance": sizes["out_channels"] == 2 * channels,
    }
    check_model({"name": "dit", "kwargs": kwargs}, path)
    if (tokens := (kwargs["image_size"] // kwargs["patch_size"]) ** 2) > TOKENS:
        raise InputError(f"{path}: sample_size {kwargs['image_size']}: {tokens:,} tokens; at most {TOKENS:,}")
    odd = {"norm_type": "ada_norm_zero", "activation_fn": "gelu-approximate", "attention_bias": True}
    odd |= {"norm_elementwise_affine": False, "dropout": 0.0}
    if wrong := [key for key, value in odd.items() if get(key, value) != value]:
        raise InputError(f"{path}: {wrong[0]} {config[wrong[0]]!r:.40}: a DiT has {odd[wrong[0]]}")
    return kwargs
