"""Pictures for people. Pillow only."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

TILE, GAP, MARGIN, HEADER = 48, 4, 56, 28  # pixels
RED, INK, PAPER = (200, 30, 30), (30, 30, 30), (255, 255, 255)


def before_after(
    before: Sequence[Sequence[Image.Image]],
    after: Sequence[Sequence[Image.Image]],
    names: Sequence[str],
    forgotten: int,
) -> Image.Image:
    """Rows are classes; left before, right after, from the same noise; row `forgotten` is framed."""
    columns = len(before[0])
    half = columns * (TILE + GAP)
    width, row = MARGIN + 2 * half + MARGIN // 2, TILE + 2 * GAP
    page = Image.new("RGB", (width, HEADER + len(names) * row + GAP), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    starts = (MARGIN, MARGIN + half + MARGIN // 4)
    for x, title in zip(starts, ("before", "after")):
        pen.text((x, 4), title, fill=INK, font=font)
    for r, name in enumerate(names):
        y = HEADER + r * row
        pen.text((GAP * 2, y + TILE // 2 - 8), name, fill=RED if r == forgotten else INK, font=font)
        for x, images in zip(starts, (before[r], after[r])):
            for k, image in enumerate(images):
                tile = image.convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST)
                page.paste(tile, (x + k * (TILE + GAP), y))
        if r == forgotten:
            pen.rectangle(
                (MARGIN - GAP, y - GAP, width - MARGIN // 4 + GAP - 1, y + TILE + GAP - 1), outline=RED, width=3
            )
    return page
