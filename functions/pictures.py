"""Pictures on disk: the one walk that finds them, and the one rule of which can be read. Torch-free.

A picture belongs to the folder in which it stands, whether it is a file or a link to one. EXIF orientation is not
applied, as no published code does.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from functions.errors import InputError
from functions.files import check_png, integers_first, natural

# in any case
SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".jp2"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
# What lies beside pictures and nobody takes for one: records, lists, what systems leave.
BESIDE = {".json", ".jsonl", ".txt", ".csv", ".tsv", ".md", ".yml", ".yaml", ".xml", ".html", ".db", ".ini"}
BESIDE |= {".safetensors", ".npz"}
GREY = {"1", "L"}
COLOUR = {"RGB", "P", "CMYK", "YCbCr"}
ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
# What Pillow raises for a file that is not, or no longer, an image.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    zlib.error,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
# 8192 x 8192, 200 MB as RGB. Pillow warns of more, and of twice as many says no: here the warning is an error.
Image.MAX_IMAGE_PIXELS = 1 << 26
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

FOLDER, LINK, PICTURE, NOTHING = "folder", "link", "picture", "nothing"
HIDDEN, DANGLING, SPECIAL, COUNTED, OTHER = (
    "hidden",
    "links that lead nowhere",
    "no regular files",
    "links to a folder that is counted already",
    "of another type",
)


def find(root: Path | str) -> list[Path]:
    """All pictures below a folder, in no order; a line on stderr says what was left out, and why.

    Links are followed; a folder that several lead to, or that a link leads back to, is counted once, where it stands
    itself. Only regular files are pictures: a pipe named 1.png would wait for ever. Raises OSError for a folder that
    cannot be read.
    """
    found, left = _walk(Path(root))
    if left and int(os.environ.get("RANK", "0")) == 0:
        said = (f"{len(paths)} {why} ({os.path.relpath(min(paths), root)})" for why, paths in sorted(left.items()))
        print(f"{root}: left out {', '.join(said)}", file=sys.stderr)
    return found


def any_below(root: Path | str) -> Path | None:
    """A picture below a folder, if there is one."""
    return next(iter(sorted(_walk(Path(root))[0], key=natural)), None)


def folders(root: Path | str) -> list[str]:
    """Names of the folders in a folder: links count, hidden ones and links back to it or above don't; in label order.

    Integers come first, numerically: labels and index lists hang on this order.
    """
    above = _above(Path(root))
    kinds = {entry.name: (_kind(entry), entry.path) for entry in os.scandir(root)}
    names = [
        n for n, (kind, path) in kinds.items() if kind == FOLDER or (kind == LINK and _identity(path) not in above)
    ]
    return sorted(names, key=integers_first)


def _walk(root: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """(pictures, {why: what was left out}). Folders first and links after them, so that what stands there counts."""
    found, left = [], {}
    waiting, links, seen = [root], [], _above(root)
    bar = tqdm(desc="looking for pictures", unit=" folders", disable=None, delay=2, leave=False)
    while waiting or links:
        if not waiting:
            links.sort(key=natural, reverse=True)
            waiting.append(links.pop())
        folder = waiting.pop()
        if folder != root and _identity(folder) in seen:
            left.setdefault(COUNTED, []).append(folder)
            continue
        seen.add(_identity(folder))
        bar.update()
        for entry in os.scandir(folder):
            kind, path = _kind(entry), folder / entry.name
            whither = {FOLDER: waiting, LINK: links, PICTURE: found}
            if kind != NOTHING:
                (whither[kind] if kind in whither else left.setdefault(kind, [])).append(path)
    bar.close()
    return found, left


def _kind(entry: os.DirEntry) -> str:
    """FOLDER, LINK to one, PICTURE, NOTHING that anybody would count, or why it is left out."""
    suffix, hidden = os.path.splitext(entry.name)[1].lower(), entry.name.startswith(".") or entry.name == "__MACOSX"
    if entry.is_dir(follow_symlinks=False):
        return HIDDEN if hidden else FOLDER
    if hidden:
        return HIDDEN if suffix in SUFFIXES else NOTHING
    if entry.is_symlink():
        try:
            mode = entry.stat().st_mode
        except OSError:
            return DANGLING
        if stat.S_ISDIR(mode):
            return LINK
    if suffix in SUFFIXES:
        return PICTURE if entry.is_file() else SPECIAL
    return NOTHING if suffix in BESIDE or not suffix else OTHER


def _above(root: Path) -> set[tuple[int, int]]:
    """The folder and all that hold it: where a link back up would lead."""
    real = root.resolve()
    return {_identity(folder) for folder in (real, *real.parents)}


def _identity(folder: Path | str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


# ---- what of a file can be read


@contextmanager
def opened(path: Path | str) -> Iterator[Image.Image]:
    """The picture, open; whatever Pillow raises for it meanwhile becomes one line that names the file."""
    try:
        with Image.open(path) as image:
            yield image
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{path}: not a readable image ({' '.join(str(error).split())})") from None


def is_grey(image: Image.Image, path: Path | str) -> bool:
    """Whether it is grey rather than in colour, from its header; palettes and CMYK are colour.

    Raises InputError for transparency, for more than 8 bits, and for modes that have no one meaning as RGB.
    """
    if image.mode in ALPHA or "transparency" in image.info:
        raise InputError(
            f"{path}: has an alpha channel (mode {image.mode}), which no network here reads; flatten it onto a "
            "background first"
        )
    if image.mode not in GREY | COLOUR:
        raise InputError(f"{path}: mode {image.mode} is not supported; wanted 8-bit grey, palette or RGB")
    return image.mode in GREY


def size(path: Path | str) -> tuple[int, int]:
    """(width, height), from its header."""
    with opened(path) as image:
        return image.size


def read(path: Path | str, wanted: tuple[int, int] | None = None, of: Path | str = "") -> Image.Image:
    """The picture in mode L where it is grey, otherwise RGB.

    With `wanted`, the size of the picture `of`, raises InputError for one of another size before it is decoded.
    """
    with opened(path) as image:
        if wanted is not None and image.size != wanted:
            found, other = ("x".join(map(str, s)) for s in (image.size, wanted))
            raise InputError(f"{path}: {found} pixels, but {of} has {other}: one size wanted")
        if image.format == "PNG":
            check_png(Path(path).read_bytes())
        return image.convert("L" if is_grey(image, path) else "RGB")
