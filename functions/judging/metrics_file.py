"""metrics.json beside samples or in a run: one section per script that judged them, each with its contract."""

from __future__ import annotations

from pathlib import Path

from functions.errors import InputError
from functions.files import read_json, version, write_json
from functions.judging.contract import join
from functions.locks import SHORT, writing_file
from functions.places import check_file_place
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


def _sections(path: Path) -> dict:
    sections = read_json(path) if path.is_file() else {}
    if not isinstance(sections, dict):
        raise InputError(f"{path}: not an object of sections; move it away or name another file (--out)")
    return sections
