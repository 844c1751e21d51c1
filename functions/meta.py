"""The parts of a checkpoint's `meta.json` that come from the config and the data set alone. Torch-free."""

from __future__ import annotations

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
