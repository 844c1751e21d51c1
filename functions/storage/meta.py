"""What a checkpoint's `meta.json` says of its run. Torch-free."""

from __future__ import annotations

from pathlib import Path

from functions.files import sha256_bytes, version

PIXELS = {"name": "pixels", "kwargs": {}}  # the encoder of checkpoints whose configs name none


def model_meta(section, data: dict, moments: tuple | None = None) -> dict:
    """`{"name", "kwargs"}` of the config's model for this data set: sizes and classes always come from the data.

    `moments` are the mean and std per channel that the models for small images normalise by.
    """
    channels, size, _ = data["shape"]
    kwargs = {
        **section.model_dump(exclude={"name", "pretrained"}),
        "in_channels": channels,
        "n_classes": data["n_classes"],
    }
    if section.name == "unet":
        kwargs |= {"out_ch": channels, "image_size": size}
    if section.name in ("cnn", "cifar"):
        kwargs |= {"image_size": size}
    if section.name == "cifar" and moments is not None:
        kwargs |= {"mean": list(moments[0]), "std": list(moments[1])}
    return {"name": section.name, "kwargs": kwargs}


def run_meta(
    cfg,
    mode: str,
    data: dict,
    model: dict,
    encoder: dict,
    diffusion: dict | None,
    source: str | None,
    mask: str | None,
    selection: dict | None = None,
) -> dict:
    """What `meta.json` says of a run, beyond its step and files.

    `data` and `model` as their keys in it, `source` the hash of the weights it starts from, `mask` that of its mask,
    `selection` what it forgets as provenance says it.
    """
    return {
        "world": cfg.world,
        "mode": mode,
        "model": model,
        "encoder": encoder,
        "diffusion": diffusion,
        "data": data,
        "forget": cfg.forget and cfg.forget.model_dump(),
        "selection": selection,
        "source": source,
        "mask": mask,
        "config": cfg.model_dump(),
        "version": version(),
    }


def content(images) -> str:
    """SHA-256 of a data set's labels in order and, of a folder, of its files' names: what stored indices refer to."""
    names = [Path(f).parts[-2:] for f in images.decoder.files] if hasattr(images, "decoder") else []
    return sha256_bytes(images.labels.cpu().numpy().tobytes() + repr(names).encode())
