"""Worlds: what a config must know of each before anything is loaded. A new world is a row. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """What has a meaning in a world, and how its random labels are called."""

    models: tuple[str, ...]  # the values of model.name
    rl: str  # the forget objective that the published name `rl` means here
    diffusion: bool  # has timesteps and noise: the section `diffusion`, draws, sums over t
    conditional: bool  # the model takes a condition: predictions for another one, guidance
    samples: bool  # the model draws samples
    boundaries: bool  # the model decides between classes


WORLDS = {
    "ddpm": World(models=("unet",), rl="match", diffusion=True, conditional=True, samples=True, boundaries=False),
    "dit": World(models=("dit",), rl="relabel", diffusion=True, conditional=True, samples=True, boundaries=False),
    "classifier": World(
        models=("cnn", "cifar", "torchvision", "timm"),
        rl="relabel",
        diffusion=False,
        conditional=False,
        samples=False,
        boundaries=True,
    ),
}


def worlds_with(property: str) -> str:
    """The worlds of which this is true, for messages."""
    return ", ".join(name for name, world in WORLDS.items() if getattr(world, property))
