"""Small DiTs of digits whose every weight is something, as run folders and as the files that others save."""

from __future__ import annotations

import argparse
from pathlib import Path

import cases
import torch
from torch import nn

import models
from functions.storage import checkpoint

CLASSES = list("0123456789")
# latents of digits: 2 x 4 x 4
KWARGS = {"patch_size": 2, "hidden_size": 48, "depth": 3, "num_heads": 4, "in_channels": 2, "image_size": 4}
KWARGS |= {"n_classes": 10, "learned_variance": True}
MODEL = "model={name: dit, patch_size: 2, hidden_size: 48, depth: 3, num_heads: 4}"
CONFIG = ["--config", *cases.DIT, "--set", MODEL]
DIFFUSION = {"timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "p_uncond": 0.1, "reduction": "mean"}
ENCODER = {"vae": str(cases.VAE), "in_channels": 1, "channels": 2, "factor": 2}


def described(**kwargs) -> dict:
    return {"name": "dit", "kwargs": {**KWARGS, **kwargs}}


def weights(seed: int = 0, **kwargs) -> dict[str, torch.Tensor]:
    """Random ones, none 0 or 1 by chance; the positions as they are."""
    torch.manual_seed(seed)
    model = models.build(described(**kwargs))
    for name, p in model.named_parameters():
        if name != "pos_embed":
            nn.init.normal_(p, std=0.2)
    return model.state_dict()


def model(tensors: dict[str, torch.Tensor], **kwargs) -> nn.Module:
    found = models.build(described(**kwargs)).eval().requires_grad_(False)
    found.load_state_dict(tensors)
    return found


def make_run(folder: Path | str, kinds=("raw", "ema"), classes=CLASSES, **kwargs) -> Path:
    """A run folder of random weights with latents of the toy autoencoder."""
    described_ = described(n_classes=len(classes), **kwargs)
    encoder = models.encoder_meta("latents", vae=str(cases.VAE))
    learned = described_["kwargs"]["learned_variance"]
    meta = cases.meta() | {
        "world": "dit",
        "mode": "pretrain",
        "model": described_,
        "encoder": encoder,
        "diffusion": {**DIFFUSION, "learned_variance": learned},
        "data": {"dataset": "digits", "n_classes": len(classes), "shape": [1, 8, 8], "classes": list(classes)},
        "forget": None,
    }
    kwargs = described_["kwargs"]
    tensors = {kind: weights(seed, **kwargs) for seed, kind in enumerate(kinds)}
    checkpoint.save(folder, 7, tensors, {"optimizers": []}, meta, keep=1)
    return Path(folder)


def training_file(path: Path | str, zipped: bool = True) -> Path:
    """What published training code saves: wrapped names, the optimiser's state and the settings beside the weights."""
    raw, ema = weights(0), weights(1)
    net = model(raw).requires_grad_(True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    settings = argparse.Namespace(model="DiT-XL/2", lr=1e-4, forget_class=207, mask_path=None, thresholds=[0.5, 1])
    content = {"model": {f"module.{n}": t for n, t in raw.items()}, "ema": ema, "opt": optimizer.state_dict()}
    torch.save({**content, "args": settings}, path, _use_new_zipfile_serialization=zipped)
    return Path(path)
