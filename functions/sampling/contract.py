"""The contract of drawn images: which checkpoint may draw them, and samples.json, which says how they were made.

Torch-free.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from functions.arrays import read_member
from functions.config.schema import Config
from functions.config.worlds import WORLDS, worlds_with
from functions.errors import InputError
from functions.files import version, write_json
from functions.locks import remove_leftovers, sharers, sharing_folder
from functions.pictures import any_below
from functions.records import Count, Record
from functions.storage.contract import Contract, contract, read_contract

MOST = 2_000_000  # images of one command: ImageNet's 1000 classes of 500 are a quarter
GENERATION = "samples.json"  # written by sample.py beside its images
ARRAYS = ("arr_0.npy", "arr_1.npy")  # images and labels in its `.npz`


class Drawn(Record):
    classes: list[Count] | None = None
    seed: int | None = None
    weights: str | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    names: list[str] | None = None


class How(Record):
    n_per_class: Count | None = None


class Generation(Contract):
    protocol: How
    record: Drawn


def check_checkpoint(cfg: Config, meta: dict) -> None:
    """The checkpoint decides what is drawn; a config made for something else is refused."""
    folder = cfg.ckpt_folder
    found = {"world": meta["world"], "data.dataset": meta["data"]["dataset"], "diffusion": meta["diffusion"]}
    diffusion = cfg.diffusion and cfg.diffusion.model_dump()
    asked = {"world": cfg.world, "data.dataset": cfg.data.dataset, "diffusion": diffusion}
    if not (meta["world"] in WORLDS and WORLDS[meta["world"]].samples):
        wanted = f"only models of world {worlds_with('samples')} draw"
        raise InputError(f"{folder}: a checkpoint of world {meta['world']}; {wanted}")
    for key, value in found.items():
        if asked[key] != value:
            raise InputError(f"{folder}: {key}: the checkpoint has {value}, the config {asked[key]}")
    side, sides = cfg.data.image_size, meta["data"]["shape"][1:]
    if isinstance(side, int) and [side, side] != sides:
        own = "x".join(map(str, sides[::-1]))
        raise InputError(f"{folder}: data.image_size: the checkpoint draws {own} pixels, the config says {side}")


def generation_contract(cfg: Config, meta: dict, kind: str, checkpoint: str, classes: list[int]) -> dict:
    """How these images are made: by the `kind` weights (ema or raw) whose hash is `checkpoint`.

    Settings that their sampler does not read are null, so that they part nothing. Raises InputError for more images
    than one command can keep account of.
    """
    s = cfg.sampling
    if (n := len(classes) * s.n_samples_per_class) > MOST:
        raise InputError(
            f"sampling.n_samples_per_class: {s.n_samples_per_class:,} of {len(classes)} classes are {n:,} images; at "
            f"most {MOST:,} in one command (--n_samples_per_class, --classes_to_generate)"
        )
    general = s.sample_type == "generalized"
    protocol = {
        "sampler": s.sample_type,
        "steps": s.timesteps,
        "eta": s.eta if general else None,
        "skip_type": s.skip_type if general else None,
        "guidance": s.cond_scale,
        "weights": s.weights,
        "n_per_class": s.n_samples_per_class,
        "range": "minmax" if s.minmax else "clamp",
        "train_mode": s.train_mode,
    }
    if s.guided_channels != "all":  # older folders do not say
        protocol["guided_channels"] = s.guided_channels
    record = {
        "seed": cfg.seeds.seed,
        "weights": kind,
        "checkpoint": checkpoint,
        "step": meta["step"],
        "dataset": meta["data"]["dataset"],
        "classes": classes,
        "names": meta["data"].get("classes"),  # of all, by number; older checkpoints lack them
        "version": version(),
    }
    return contract(protocol, record)


def read_generation(samples: Path | str) -> dict | None:
    """The contract in samples.json of the folder, or of the folder above (a class folder was named); None if neither.

    An `.npz` of ours has it inside. Raises InputError where it is broken or its hash is not its protocol's.
    """
    folder = Path(samples).resolve()
    if folder.suffix == ".npz" and (text := _inside(Path(samples))) is not None:
        return read_contract(Path(samples), "write it again", Generation, text)
    beside = [path for path in (folder / GENERATION, folder.parent / GENERATION) if path.is_file()]
    return read_contract(beside[0], "sample again", Generation) if beside else None


def _inside(npz: Path) -> bytes | None:
    """The samples.json in an `.npz`; None where it has none. Raises InputError where something else is missing."""
    if not npz.is_file():
        return None
    text, names = read_member(npz, GENERATION)
    other = [name for name in names if name != GENERATION and not name.endswith(".npy")]
    if other or (text is not None and {*names} != {GENERATION, *ARRAYS}):
        raise InputError(f"{npz}: damaged: it holds {', '.join(sorted(names))[:200]}")
    return text


@contextlib.contextmanager
def drawing(folder: Path, wanted: dict) -> Iterator[list[str]]:
    """Take part in drawing into `folder`, whose samples.json then says how; yields who else does.

    Raises InputError where its images are made another way.
    """

    def join(others: list[str]) -> None:
        classes = check_folder(folder, wanted)
        made = {**wanted, "record": {**wanted["record"], "classes": classes}}
        if not others:
            for path in (folder, *folder.iterdir()):
                remove_leftovers(path, "*" if path != folder else f"{GENERATION}*")
        if not (folder / GENERATION).is_file() or read_generation(folder)["record"].get("classes") != classes:
            write_json(folder / GENERATION, made)

    with sharing_folder(folder, join) as others:
        yield others


def check_folder(folder: Path, wanted: dict) -> list[int]:
    """All classes that the folder will hold. Raises InputError where its images were made another way."""
    if not (folder / GENERATION).is_file():
        if folder.is_dir() and any_below(folder):
            raise InputError(f"{folder}: holds images but no {GENERATION}: move it away")
        return wanted["record"]["classes"]
    found = read_generation(folder)
    for part, keys in (
        ("protocol", {**found["protocol"], **wanted["protocol"]}),
        ("record", ("seed", "weights", "checkpoint")),
    ):
        for key in keys:
            old, new = found[part].get(key), wanted[part].get(key)
            if old != new:
                by = "".join(f", and {other} draws there" for other in sharers(folder)[:1])
                raise InputError(
                    f"{folder}: holds images made with {key} {old}, this command asks for {key} {new}{by}: "
                    "move the folder away, or ask for the same"
                )
    return sorted({*(found["record"].get("classes") or []), *wanted["record"]["classes"]})


def check_complete(samples: Path | str, labels: Iterable[int], chosen: bool = False) -> None:
    """Raises InputError where a folder holds other numbers of images than its samples.json says.

    `labels` are those of the images that are judged; `chosen`: of some of the folder's classes.
    """
    made, name = read_generation(samples), Path(samples).resolve().name
    packed = Path(samples).is_file()
    if made is None or (packed and _inside(Path(samples)) is None):
        return
    n, classes = made["protocol"].get("n_per_class"), made["record"].get("classes")
    if n is None or classes is None:  # of another origin
        return
    if not packed and not (Path(samples) / GENERATION).is_file():  # a class folder was named
        classes = [int(name)] if name.isdecimal() else []
    counts = collections.Counter(labels)
    for c in sorted({*counts} if chosen else {*counts, *classes}):
        if counts[c] != (n if c in classes else 0):
            raise InputError(
                f"{samples}: {counts[c]} images of class {c}, {GENERATION} says {n if c in classes else 0}: still "
                "being drawn, stopped or altered; the command of sample.py again draws what is missing"
            )


def plan(cfg: Config, meta: dict, kind: str, out: Path, n_images: int) -> str:
    """What --dry_run prints after the config."""
    s = cfg.sampling
    calls = -(-n_images // s.batch_size) * s.timesteps
    lines = [
        f"{cfg.ckpt_folder} at step {meta['step']}: {meta['model']['name']}, {kind} weights",
        f"{s.timesteps} steps of {s.sample_type}, guidance {s.cond_scale}, {calls} in all in batches of {s.batch_size}",
        f"would write: {n_images} images of {'x'.join(map(str, meta['data']['shape']))} to {out}",
    ]
    return "\n".join(lines)
