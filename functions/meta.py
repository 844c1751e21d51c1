"""What a checkpoint's `meta.json` says of its run. Torch-free."""

from __future__ import annotations

from functions.files import version

ENCODER = {"name": "pixels", "kwargs": {}}


def model_meta(section, data: dict) -> dict:
    """`{"name", "kwargs"}` of the config's model for this data set: sizes and classes always come from the data."""
    channels, size, _ = data["shape"]
    kwargs = {
        **section.model_dump(exclude={"name", "pretrained"}),
        "in_channels": channels,
        "n_classes": data["n_classes"],
    }
    if section.name == "unet":
        kwargs |= {"out_ch": channels, "image_size": size}
    if section.name == "cnn":
        kwargs |= {"image_size": size}
    return {"name": section.name, "kwargs": kwargs}


def run_meta(
    cfg, mode: str, data: dict, model: dict, diffusion: dict | None, source: str | None, mask: str | None
) -> dict:
    """What `meta.json` says of a run, beyond its step and files.

    `data` and `model` as their keys in it, `source` the hash of the weights it starts from, `mask` that of its mask.
    """
    return {
        "world": cfg.world,
        "mode": mode,
        "model": model,
        "encoder": ENCODER,
        "diffusion": diffusion,
        "data": data,
        "forget": cfg.forget and cfg.forget.model_dump(),
        "source": source,
        "mask": mask,
        "config": cfg.model_dump(),
        "version": version(),
    }
