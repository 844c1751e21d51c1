"""Ten classes of shapes, rendered at any size: random colour, place, rotation and background; no download.

`shapes_upright` are the same, none turned, of about one size and near the middle: a generative model learns them with a
small part of the training.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from PIL import Image, ImageDraw

from datasets.images import ImageSet

N = {"train": 5000, "test": 1000}
SIZE = 32
SUPERSAMPLE = 4  # masks are drawn this much larger and averaged down: smooth edges


def load(path: str, split: str, image_size: int | None, seed: int, upright: bool = False) -> ImageSet:
    """5,000 train or 1,000 test images of `image_size` (32) pixels for each `seed`. `path` is not used."""
    images = np.stack([render(seed, split, i, image_size or SIZE, upright) for i in range(N[split])])
    labels = torch.arange(N[split]) % len(OUTLINES)
    name = "shapes_upright" if upright else "shapes"
    return ImageSet(torch.from_numpy(images), labels, tuple(OUTLINES), name, split)


def render(seed: int, split: str, index: int, size: int, upright: bool = False) -> np.ndarray:
    """Image (3, size, size) uint8 of class `index` mod 10; depends on these five arguments alone.

    x = m f + (1 - m) (b + s p): m in [0, 1] is the coverage by the shape, f its colour, b the background's,
    s its slope in a random direction, p the place along it, 0 in the middle. |f - b| >= 0.35 in each channel
    and |s p| < 0.11, so the shape always shows. `upright`: the point of the outline at (1, 0) is at the top.
    """
    u = _uniforms(seed, split, index)
    if upright:
        radius, centre, turns = 0.34 + 0.06 * u[0], 0.45 + 0.1 * u[1:3], 0.75
    else:
        radius, turns = 0.26 + 0.16 * u[0], u[3]
        centre = radius + (1 - 2 * radius) * u[1:3]
    outline = list(OUTLINES.values())[index % len(OUTLINES)]
    m = _coverage(centre + radius * outline @ _rotation(2 * np.pi * turns), size)
    b = u[4:7]
    f = (b + 0.35 + 0.3 * u[7:10]) % 1
    grid = (np.arange(size) + 0.5) / size - 0.5
    direction = 2 * np.pi * u[10]
    p = np.cos(direction) * grid + np.sin(direction) * grid[:, None]  # (H, W)
    background = b[:, None, None] + 0.3 * (u[11:14, None, None] - 0.5) * p
    x = background + m * (f[:, None, None] - background)
    return np.rint(255 * x.clip(0, 1)).astype(np.uint8)


def _uniforms(seed: int, split: str, index: int) -> np.ndarray:
    """16 numbers in [0, 1) from a hash of the arguments: the same on every machine and for every numpy."""
    digest = hashlib.blake2b(f"{seed} {split} {index}".encode(), digest_size=64).digest()
    return np.frombuffer(digest, "<u4") / 2**32


def _coverage(points: np.ndarray, size: int) -> np.ndarray:
    """(H, W) in [0, 1]: share of each pixel inside the polygon `points` (K, 2) = x, y in [0, 1]."""
    large = size * SUPERSAMPLE
    mask = Image.new("L", (large, large))
    ImageDraw.Draw(mask).polygon((points * large - 0.5).ravel().tolist(), fill=255)
    return np.asarray(mask.reduce(SUPERSAMPLE)) / 255


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _arc(start: float, stop: float, radius: float = 1.0, x: float = 0.0, n: int = 48) -> np.ndarray:
    """n points on the circle of `radius` around (x, 0); angles in turns."""
    angle = 2 * np.pi * np.linspace(start, stop, n)
    return np.stack([x + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _corners(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points)


def _star(tips: int, inner: float) -> np.ndarray:
    points = _arc(0, 1, n=2 * tips + 1)[:-1]
    points[1::2] *= inner
    return points


# Outlines (K, 2) inside the unit circle. A hole is cut by running the outer edge, then back along the inner.
OUTLINES = {
    "circle": _arc(0, 1),
    "ring": np.concatenate([_arc(0, 1), _arc(1, 0, 0.55)]),
    "semicircle": _arc(0, 0.5),
    "crescent": np.concatenate([_arc(0.125, 0.875), _arc(0.8, 0.2, 0.743, 0.477)]),
    "triangle": _arc(0, 1, n=4)[:-1],
    "square": _arc(0, 1, n=5)[:-1],
    "bar": _corners((-0.97, -0.24), (0.97, -0.24), (0.97, 0.24), (-0.97, 0.24)),
    "cross": _corners(
        (-0.27, -0.95),
        (0.27, -0.95),
        (0.27, -0.27),
        (0.95, -0.27),
        (0.95, 0.27),
        (0.27, 0.27),
        (0.27, 0.95),
        (-0.27, 0.95),
        (-0.27, 0.27),
        (-0.95, 0.27),
        (-0.95, -0.27),
        (-0.27, -0.27),
    ),
    "star": _star(5, 0.42),
    "arrow": _corners((1, 0), (0.1, 0.85), (0.1, 0.3), (-0.95, 0.3), (-0.95, -0.3), (0.1, -0.3), (0.1, -0.85)),
}
