"""Pictures for people, never read by a program: rows of images with the names of their classes, forgotten ones marked.

Pillow draws; matplotlib lends its font, which has Latin, Greek, Cyrillic and more. Torch-free.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from functions.config.classes import called
from functions.files import write_atomic

TILE = 64  # pixels: an image's longer side at least
GAP, EDGE, LABEL = 4, 12, 170  # between images, around the page, the widest label
SIZE, SMALL = 16, 13  # of letters
LINES = 2  # that a long name may take
INK, GREY, PAPER = (30, 30, 30), (110, 110, 110), (255, 255, 255)
RED = (213, 94, 0)  # vermilion: told from black and grey with every kind of colour blindness
MARK = "forgotten"  # and the word, for those who see no colour


class Row(NamedTuple):
    """A row of the page: its class, what that is called, and whether it was to be forgotten."""

    c: int
    name: str
    forgotten: bool = False


Images = Sequence[Sequence[Image.Image]]  # rows of one size


def spread_classes(n: int, most: int, forgotten: Sequence[int]) -> list[int]:
    """At most `most` of 0..n-1, evenly spread, a forgotten one in place of its neighbour, as far as there is room."""
    if n <= most:
        return list(range(n))
    chosen = [round(i * (n - 1) / max(most - 1, 1)) for i in range(most)]
    shown = forgotten[:most]
    for label in shown:
        if label not in chosen:
            free = [i for i in range(most) if chosen[i] not in shown]
            chosen[min(free, key=lambda i: abs(chosen[i] - label))] = label
    return sorted(chosen)


def nearest_classes(n: int, most: int, forgotten: Sequence[int]) -> list[int]:
    """At most `most` of 0..n-1: the forgotten ones, then those whose numbers are nearest; evenly spread without one.

    In ImageNet's order near classes are alike: beside 207, golden retriever, lie other retrievers.
    """
    if not forgotten:
        return spread_classes(n, most, forgotten)
    return sorted(range(n), key=lambda c: (min(abs(c - f) for f in forgotten), c))[:most]


def rows_of(classes: Sequence[int], names: Sequence[str], forgotten: Sequence[int]) -> list[Row]:
    """A row for each of `classes`; `names` are those of all classes."""
    names = called(names)
    return [Row(c, names[c], c in forgotten) for c in classes]


def images_of(pixels: np.ndarray, columns: int) -> list[list[Image.Image]]:
    """(rows * columns, C, H, W) uint8 as rows of pictures."""
    return [[as_image(p) for p in pixels[i : i + columns]] for i in range(0, len(pixels), columns)]


def as_image(pixels: np.ndarray) -> Image.Image:
    """(C, H, W) uint8 as grey (C = 1) or RGB."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def sheet(sides: Mapping[str, Images], rows: Sequence[Row]) -> Image.Image:
    """The sides beside one another under their titles; forgotten rows are framed and say so.

    Images keep their pixels: enlarged by a whole number, nearest neighbours.
    """
    first = next(iter(sides.values()))
    width, height = first[0][0].size
    scale = -(-TILE // max(width, height))
    tile = (scale * width, scale * height)
    step = (tile[0] + GAP, tile[1] + GAP)
    side = max(len(first[0]) * step[0], *(_width(title, SIZE) for title in sides), 0) + EDGE
    labels = [_fitted(row) for row in rows]
    lines = [(line, points) for words, points in labels for line in words]
    margin = EDGE + max(_width(*line) for line in [*lines, (MARK, SMALL)]) + EDGE
    head = EDGE + SIZE + EDGE
    size = (margin + len(sides) * side, head + len(rows) * (step[1] + GAP) + EDGE)
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    for s, title in enumerate(sides):
        pen.text((margin + s * side, EDGE), title, fill=GREY, font=font(title, SIZE))
    for r, (row, (words, points)) in enumerate(zip(rows, labels)):
        y = head + r * (step[1] + GAP)
        if row.forgotten:
            frame = (EDGE // 2, y - GAP, size[0] - EDGE // 2 - 1, y + tile[1] + GAP - 1)
            pen.rectangle(frame, outline=RED, width=2)
            pen.text((EDGE, y + tile[1] // 2 + 3), MARK, fill=RED, font=font(MARK, SMALL))
        height = len(words) * (points + 4)
        top = y + tile[1] // 2 - (height if row.forgotten else height // 2)
        for i, line in enumerate(words):
            place = (EDGE, top + i * (points + 4))
            pen.text(place, line, fill=RED if row.forgotten else INK, font=font(line, points))
        for s, images in enumerate(sides.values()):
            for k, image in enumerate(images[r]):
                large = image.convert("RGB").resize(tile, Image.Resampling.NEAREST)
                page.paste(large, (margin + s * side + k * step[0], y))
    return page


def save(page: Image.Image, path: Path) -> None:
    """As a PNG, whole or absent."""
    file = io.BytesIO()
    page.save(file, format="PNG")
    write_atomic(path, file.getvalue())


# ---- letters


def _fitted(row: Row) -> tuple[list[str], int]:
    """The lines of a row's name, as large and as long as there is room; its number where no font has the letters."""
    name = " ".join(row.name.split())
    if font(name, SIZE) is None:
        name = f"class {row.c}"
    if _width(name, SIZE) <= LABEL:
        return [name], SIZE
    lines = [""]
    for word in name.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if _width(longer, SMALL) <= LABEL:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = [line for line in lines if line]
    return [_cut(line, cut=len(lines) > LINES and i == LINES - 1) for i, line in enumerate(lines[:LINES])], SMALL


def _cut(line: str, cut: bool) -> str:
    """With dots at its end where something was left out, or it is wider than there is room."""
    line += "…" * cut
    while _width(line, SMALL) > LABEL:
        line = line.removesuffix("…")[:-1] + "…"
    return line


def _width(text: str, size: int) -> int:
    return int(font(text, size).getlength(text)) + 1


@functools.lru_cache(maxsize=1024)
def font(text: str, size: int) -> ImageFont.FreeTypeFont | None:
    """matplotlib's own, or the first of this machine's that has every letter of `text`; None where none has."""
    import matplotlib

    own = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    if _has(own, text):
        return ImageFont.truetype(own, size)
    found = next((path for path in _installed() if _has(path, text)), None)
    return found and ImageFont.truetype(found, size)


@functools.cache
def _installed() -> list[str]:
    """The font files of this machine. Only names in other scripts need the search, which takes a while."""
    from matplotlib import font_manager

    return sorted(font_manager.findSystemFonts())


def _has(path: Path | str, text: str) -> bool:
    return {ord(letter) for letter in text} <= _letters(str(path))


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """The characters that a font file has shapes for; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):
        return frozenset()
