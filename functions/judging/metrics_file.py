"""metrics.json beside samples or in a run: one section per script that judged them, each with its contract."""

from __future__ import annotations

from pathlib import Path

from functions.errors import InputError
from functions.files import version, write_json
from functions.judging.contract import join
from functions.locks import SHORT, writing_file
from functions.places import check_file_place
from functions.records import Record, read_record
from functions.sampling.contract import read_generation


def metrics_path(samples: Path | str, out: Path | str | None = None) -> Path:
    """`--out`, or metrics.json in the sample folder, or `<name>.metrics.json` beside an `.npz`."""
    samples = Path(samples)
    if out:
        return Path(out)
    return samples / "metrics.json" if samples.is_dir() else samples.with_suffix(".metrics.json")


def write_section(path: Path, name: str, numbers: dict, samples: Path | str, protocol: dict, record: dict) -> None:
    """Replace section `name` of the file, keep the others. The contract joins how samples were made and judged."""
    record = {"samples": str(samples), **record, "version": version()}
    replace_section(path, name, {**numbers, "contract": join(read_generation(samples), protocol, record)})


def replace_section(path: Path, name: str, content: dict) -> None:
    """Section `name` of the file anew; the others stay. Raises InputError where the file holds no sections."""
    with writing_file(path, SHORT):
        write_json(path, {**_sections(path), name: content})


def check_metrics_file(path: Path) -> None:
    """Raises InputError where a section could not be written at the end of the work: asked before it."""
    check_file_place(path, "--out")
    _sections(path)


def read_section(path: Path, name: str) -> dict:
    """What one script found. Raises InputError where the file is damaged or lacks the section."""
    found = read_record(path, Record, "judge again").get(name)
    if not isinstance(found, dict) or not isinstance(found.get("contract"), dict):
        raise InputError(f"{path}: {name}: no such section, or one without its contract; judge again")
    return found


def _sections(path: Path) -> dict:
    return read_record(path, Record, "move it away or name another file (--out)") if path.is_file() else {}
