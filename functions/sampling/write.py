"""Finished images to PNGs: a folder per class, or one picture with a row per class."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from functions.config.schema import Sampling
from functions.errors import InputError
from functions.files import temporary_name, write_json
from functions.locks import writing_file
from functions.pictures import any_below
from functions.sampling import sheet
from functions.sampling.contract import GENERATION, drawing
from functions.training import distributed

Pairs = Sequence[tuple[int, int]]  # (class c, number k) of images
Batches = Iterable[tuple[Pairs, Tensor]]  # with their images (N,C,H,W) in [0,1]
WRITERS = 4  # threads that compress PNGs while the next batch is drawn


def to_uint8(images: Tensor, minmax: bool) -> Tensor:
    """(N,C,H,W) in [0,1] -> 0..255 rounded, on the host; `minmax`: each image stretched by its own extremes first."""
    if minmax:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp(min=1e-5)
    return (images * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def write_folder(out: Path, wanted: Pairs, draw: Callable[[Pairs], Batches], made: dict, cfg: Sampling) -> None:
    """The `wanted` images, as `draw` makes them, into the folder `out`, with their contract `made`.

    Processes of torchrun share the images; other processes with the same contract may be at it too.
    """
    with distributed.held_by_first(lambda: drawing(out, made)) as others:
        # beside another process from the other end: the two meet once
        own = distributed.share(wanted[::-1] if others else wanted)
        try:
            write_images(out, draw(own), cfg.minmax)
        except InputError:
            # the model draws no images: where there are none, other settings may be asked for next
            if not any_below(out):
                (out / GENERATION).unlink(missing_ok=True)
            raise
        distributed.agree({"command": "sample"})  # nobody leaves before all have written


def write_picture(
    out: Path,
    wanted: Pairs,
    sides: Mapping[str, Callable[[Pairs], Batches]],
    rows: Sequence[sheet.Row],
    made: dict,
    cfg: Sampling,
) -> None:
    """The `wanted` images as each of `sides` draws them, beside one another under their titles, a row for each class.

    By the first process, one side after the other; `made` in a JSON beside the picture.
    """
    with distributed.held_by_first(lambda: writing_file(out)):
        if distributed.rank() == 0:
            pages = {}
            for title, draw in sides.items():
                pixels = torch.cat([to_uint8(images, cfg.minmax) for _, images in draw(wanted)]).numpy()
                pages[title] = sheet.images_of(pixels, cfg.n_samples_per_class)
            sheet.save(sheet.sheet(pages, rows), out)
            write_json(out.with_suffix(".json"), made)
        distributed.agree({"command": "sample"})


def write_images(folder: Path, batches: Batches, minmax: bool) -> None:
    """`<folder>/<c>/<k>.png` for pairs (c, k), by threads, while the next batch is drawn.

    A write that fails raises its OSError before another batch is written.
    """
    done, pending = 0, []
    with ThreadPoolExecutor(WRITERS) as pool:
        for pairs, images in batches:
            for future in pending:
                future.result()
            for c in {c for c, _ in pairs}:
                (folder / str(c)).mkdir(parents=True, exist_ok=True)
            pixels = to_uint8(images, minmax).numpy()
            pending = [pool.submit(save_png, folder / str(c) / f"{k}.png", p) for (c, k), p in zip(pairs, pixels)]
            done += len(pairs)
            if not sys.stderr.isatty():  # where the progress bar is off
                print(f"{folder}: {done} images drawn", flush=True)
        for future in pending:
            future.result()


def save_png(path: Path, pixels: np.ndarray) -> None:
    """(C,H,W) uint8 as grey (C = 1) or RGB, under a temporary name first: a kill never leaves half a PNG."""
    temporary = temporary_name(path)
    try:
        sheet.as_image(pixels).save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
