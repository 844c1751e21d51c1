"""How much memory a run would take, by its parts and at the peak of a step: found by taking a step without values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from datasets.latents import LatentImages
from functions.config.schema import Config, Optim
from functions.errors import InputError
from functions.training.footprint import Held, outline, size
from functions.training.optim import packs
from functions.training.packed import LINE
from models.encoders import Latents
from runners.setup import Materials, outlined

# Settings of training that change what a step holds in ways that only taking it can tell
CHOICES = ({"checkpointing": True}, {"precision": "bf16"}, {"accumulate": 2})
BLOCK, SMALL = 256, 4096  # bitsandbytes: values that share a scale; weights of fewer values keep moments of 32 bits


class Memory(NamedTuple):
    """Bytes on the device: of each part, and the most that is held at once in a step."""

    parts: dict[str, int]
    peak: int


def of_step(runner: type, cfg: Config, materials: Materials) -> Memory:
    """What a run of this config holds. Compiled code may hold less; moments of 8 bits are arithmetic.

    A step is taken on an outline of the model after one that makes the moments; where the sets of an epoch have steps
    of their own, the first of each.
    """
    measured, parts = _measurable(cfg), {}
    model = outlined(cfg, materials.meta["model"], materials.device)
    of = dataclasses.replace(materials, cfg=measured, model=model, preview=None, validate=None)
    with Held() as held:
        parts["weights"] = held.hold([*model.parameters(), *model.buffers()])
        parts["gradients"] = size(p for p in model.parameters() if p.requires_grad)
        parts["autoencoder"] = size(_autoencoder(of))
        parts["data set"] = held.hold(t for t in vars(of.images).values() if isinstance(t, Tensor))
        before = held.now
        run = runner(measured, of)
        run.plain.train()
        parts["moving average"] = 0 if run.ema is None else size(run.ema.module.state_dict().values())
        parts[f"what {run.mode} keeps besides"] = held.now - before - parts["moving average"]
        parts["mask"] = held.hold((run.mask or {}).values())
        parts["moments"] = _make_moments(run, held)
        base = held.peak = held.now
        reached = _watched(run, held)
        for k in _steps(run):
            run._one_step(k)
    parts["activations for the backward pass"] = max(reached) - base
    if cfg.optim.name == measured.optim.name:
        return Memory(parts, held.peak)
    own = moments(cfg, run)
    return Memory({**parts, "moments": own}, held.peak - parts["moments"] + own)


def _measurable(cfg: Config) -> Config:
    """The same without what needs values: a compiler, and another library's moments."""
    cfg = changed(cfg, "training", compile=False)
    if cfg.optim.name == "adamw8bit":
        cfg = changed(cfg, "optim", name="adamw", sparse_moments=_freezes(cfg))
    return cfg


def _autoencoder(m: Materials) -> list[Tensor]:
    """The weights of an autoencoder that steps need; from now on an outline takes the place of the real one."""
    encoder = m.task.encoder if hasattr(m.task, "encoder") else None
    if not isinstance(encoder, Latents) or isinstance(m.images, LatentImages):
        return []
    encoder.vae = outline(encoder.architecture, m.device).eval().requires_grad_(False)
    return list(encoder.vae.parameters())


def _make_moments(run, held: Held) -> int:
    """Take a step of each optimiser with gradients of zero; how many bytes its moments are."""
    before = held.now
    for optimizer in run.optimizers:
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            p.grad = torch.zeros_like(p)
        optimizer.step()
        optimizer.zero_grad()
    return held.now - before


def _watched(run, held: Held) -> list[int]:
    """What is held whenever a backward pass is about to begin, from now on."""
    reached, update, gradients = [held.now], run.update, run.gradients
    run.update = lambda *args: reached.append(held.now) or update(*args)
    run.gradients = lambda loss: reached.append(held.now) or gradients(loss)
    return reached


def _steps(run) -> Iterator[int]:
    """Step 0, and the first of a pass over another set where an epoch has two."""
    yield 0
    second = run.epochs.at(0)[1] and run.epochs.ends[0]
    if second < run.cfg.training.n_iters and run.epochs.at(second)[1] != run.epochs.at(0)[1]:
        yield second


# ---- other settings


def changes(run, found: Memory) -> Iterator[tuple[str, int]]:
    """(setting, by how many bytes it would move the peak) of what could be chosen beside this run's config."""
    cfg = run.cfg
    for choice in CHOICES:
        ((key, value),) = choice.items()
        if getattr(cfg.training, key) == value or (key == "accumulate" and cfg.training.batch_size == 1):
            continue
        try:
            other = of_step(type(run), changed(cfg, "training", **choice), run.materials)
        except InputError:  # not with this model or method
            continue
        yield f"training.{key}={str(value).lower()}", other.peak - found.peak
    yield f"training.ema={str(not cfg.training.ema).lower()}", (1 - 2 * cfg.training.ema) * found.parts["weights"]
    for choice in ({"sparse_moments": True}, {"name": "adamw8bit", "sparse_moments": False}):
        ((key, value), *_) = choice.items()
        if getattr(cfg.optim, key) != value and (key == "name" or (_freezes(cfg) and not packs(cfg.optim))):
            yield (
                f"optim.{key}={str(value).lower()}",
                moments(changed(cfg, "optim", **choice), run) - found.parts["moments"],
            )


def moments(cfg: Config, run) -> int:
    """Bytes of the moments that `optim` asks for, of all of the run's optimisers."""
    counts = [p.numel() for p in run.params]
    if _freezes(cfg) and packs(cfg.optim):
        kept = [int(run.mask[n].sum()) for n in run.names]
        counts = [k + -k % LINE for k in kept]
    return len(run.optimizers) * sum(_moments(n, cfg.optim) for n in counts)


def _moments(n: int, optim: Optim) -> int:
    """Bytes for a weight of n values; a step counter beside them, of 4."""
    if optim.name == "adamw8bit" and n >= SMALL:
        return 2 * (n + 4 * -(-n // BLOCK))
    if optim.name == "sgd":
        return 4 * n * (optim.momentum > 0)
    return 8 * n + 4 * (n > 0)


def _freezes(cfg: Config) -> bool:
    return cfg.unlearn is not None and cfg.unlearn.freezes


def changed(cfg: Config, section: str, **values) -> Config:
    return cfg.model_copy(update={section: getattr(cfg, section).model_copy(update=values)})
