"""DiT for others: the published .pt, or diffusers' DiTTransformer2DModel, with an autoencoder that is here a pipeline.

diffusers keeps the embeddings of t and c in every block, and spaces the frequencies of t otherwise, which no config
says: `as_published` makes a loaded one the model that it was.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from functions import imagenet
from functions.errors import InputError
from functions.files import sha256_file, stream_exported
from functions.finite import check_finite
from functions.storage.checkpoint import FILES, Snapshot
from functions.storage.dit_files import CLASS, CONFIG, WEIGHTS, to_diffusers
from functions.storage.tensors import write_tensors

SAME = 1e-5  # of the outputs' largest value; on a CPU the two are equal to the bit
VAE_FILES = (CONFIG, f"{WEIGHTS}.safetensors")


def export(snapshot: Snapshot, source: str, out: Path, weights: str) -> str:
    """The published file: one state dict, or of `both` the dict of training code; what was written, in words.

    Raises InputError where the snapshot is no DiT, or has no such weights.
    """
    meta = snapshot.meta
    if meta["model"]["name"] != "dit":
        raise InputError(f"{source}: a model named {meta['model']['name']}; --export dit is for DiTs")
    kinds = tuple(FILES) if weights == "both" else (snapshot.kind(weights),)
    found = {kind: snapshot.weights(kind) for kind in kinds}
    for kind, tensors in found.items():
        check_finite(f"{out}: not written: {kind} weights", tensors)
    content = found[kinds[0]] if len(kinds) == 1 else {"model": found["raw"], "ema": found["ema"]}
    with stream_exported(out) as file:
        torch.save(content, file)
    return f"{' and '.join(kinds)} weights at step {meta['step']}"


def transformer_config(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of DiTTransformer2DModel. Raises InputError for what it has no word for."""
    if kwargs.get("mlp_ratio", 4) != 4:
        raise InputError(f"--export diffusers: mlp_ratio {kwargs['mlp_ratio']}: {CLASS} has 4")
    return {
        "num_attention_heads": kwargs["num_heads"],
        "attention_head_dim": kwargs["hidden_size"] // kwargs["num_heads"],
        "in_channels": kwargs["in_channels"],
        "out_channels": kwargs["in_channels"] * (1 + kwargs["learned_variance"]),
        "num_layers": kwargs["depth"],
        "sample_size": kwargs["image_size"],
        "patch_size": kwargs["patch_size"],
        "num_embeds_ada_norm": kwargs["n_classes"],
        "norm_type": "ada_norm_zero",
        "norm_eps": 1e-6,
        "activation_fn": "gelu-approximate",
    }


def as_published(transformer: nn.Module) -> nn.Module:
    """A DiTTransformer2DModel as the DiT that it was exported from: sines of t, labels undropped, one embedding."""
    emb = transformer.transformer_blocks[0].norm1.emb
    emb.time_proj.downscale_freq_shift = 0
    emb.class_embedder.dropout_prob = 0.0
    for block in transformer.transformer_blocks[1:]:
        block.norm1.emb = emb
    return transformer


def save(folder: Path, model: nn.Module, meta: dict[str, Any]) -> None:
    """`transformer/` and `scheduler/`, and what makes them a DiTPipeline where the autoencoder's folder is here.

    Raises RuntimeError where the installed diffusers computes something else from them than the model does.
    """
    import diffusers

    kwargs, d = meta["model"]["kwargs"], meta["diffusion"]
    config = transformer_config({"learned_variance": True, **kwargs})
    tensors = to_diffusers(model.state_dict(), kwargs["depth"])
    difference = _difference(model.eval(), config, tensors)
    if not difference <= SAME:
        raise RuntimeError(f"the exported {CLASS} differs from the model by {difference:.1e} of its output")
    about = {"_diffusers_version": diffusers.__version__}
    _write_json(folder / "transformer" / CONFIG, {"_class_name": CLASS, **about, **config})
    with stream_exported(folder / "transformer" / f"{WEIGHTS}.safetensors") as file:
        write_tensors(file, tensors, {"format": "pt"})
    betas = {"beta_start": d["beta_start"], "beta_end": d["beta_end"], "beta_schedule": "linear"}
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=d["timesteps"], **betas, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    if _copy_autoencoder(folder / "vae", meta["encoder"]):
        parts = {"scheduler": "DDIMScheduler", "transformer": CLASS, "vae": "AutoencoderKL"}
        parts = {name: ["diffusers", of] for name, of in parts.items()}
        index = {"_class_name": "DiTPipeline", **about, "id2label": labels(meta["data"]["classes"]), **parts}
        _write_json(folder / "model_index.json", index)


def labels(classes: list[str]) -> dict[str, str]:
    """Number -> names, separated by commas, as DiTPipeline's `get_label_ids` knows them: of ImageNet in English."""
    names = classes
    if imagenet.is_imagenet(classes):
        names = [", ".join((first, *more[1:])) for first, more in zip(imagenet.names(), imagenet.synonyms())]
    return {str(c): name for c, name in enumerate(names)}


def _copy_autoencoder(folder: Path, encoder: dict[str, Any]) -> bool:
    """Whether the autoencoder that the model was trained with lies in a folder here; then it is copied."""
    place = Path(encoder["kwargs"].get("vae", ""))
    if encoder["name"] != "latents" or not all((place / name).is_file() for name in VAE_FILES):
        return False
    wanted = encoder["kwargs"]["sha256"]
    if wanted is not None and sha256_file(place / VAE_FILES[1]) != wanted:
        raise InputError(f"{place / VAE_FILES[1]}: another autoencoder than the one that the model was trained with")
    folder.mkdir(parents=True)
    for name in VAE_FILES:
        shutil.copyfile(place / name, folder / name)
    return True


@torch.no_grad()
def _difference(model: nn.Module, config: dict[str, Any], tensors: dict[str, Tensor]) -> float:
    """Of their outputs, as a share of the largest, for the first and last label and the null label."""
    from diffusers import DiTTransformer2DModel

    theirs = DiTTransformer2DModel(**config)
    theirs.load_state_dict(tensors, assign=True)
    as_published(theirs.eval())
    if not torch.equal(theirs.pos_embed.pos_embed, model.pos_embed):
        raise RuntimeError(f"the exported {CLASS} has other position embeddings than the model")
    c = torch.tensor([0, model.n_classes - 1, model.n_classes])
    g, side = torch.Generator().manual_seed(0), config["sample_size"]
    x, t = torch.randn(3, config["in_channels"], side, side, generator=g), torch.tensor([1, 500, 998])
    wanted = model(x, t, c)
    return float((theirs(x, t, c).sample - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Without a seal, which their readers would take for a key of theirs; the hash lies beside the file."""
    with stream_exported(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
