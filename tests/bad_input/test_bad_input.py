"""The table: every row ends with one line, an exit code that is neither 0 nor a bug's, and nothing left behind."""

import importlib
import shlex
import sys
from pathlib import Path

import pytest

from bad_input import files
from bad_input.rows import ROWS
from functions.config.cli import BUG, run_main

ROOT = Path(__file__).resolve().parents[2]
# rows whose fault lies where others are at work
KNOWN: set[str] = set()


@pytest.fixture(scope="module")
def typed(tmp_path_factory, originals) -> Path:
    """The folder where the rows are typed."""
    folder = tmp_path_factory.mktemp("bad input")
    files.make(folder, originals)
    return folder


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below with its size and time."""
    found = ((p, p.lstat()) for p in folder.rglob("*"))
    return {str(p.relative_to(folder)): (stat.st_size, stat.st_mtime_ns if not p.is_dir() else 0) for p, stat in found}


def main_of(script: str):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module(script.removeprefix("scripts/")).main
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("command, line", [pytest.param(*row, id=f"{i}-{row[0][:60]}") for i, row in enumerate(ROWS)])
def test_a_row(typed, command, line, monkeypatch, capfd):
    if command in KNOWN:
        pytest.xfail("known")
    script, *words = shlex.split(command)
    main = main_of(script)
    monkeypatch.chdir(typed)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
    before = listing(typed)
    capfd.readouterr()
    code = run_main(lambda _: main(words))
    lines = capfd.readouterr().err.splitlines()
    assert code not in (0, BUG), lines
    assert len(lines) == 1 and len(lines[0]) <= 1100 and line in lines[0], lines
    assert listing(typed) == before


def test_the_table_is_long_and_each_row_is_its_own():
    commands = [command for command, _ in ROWS]
    assert len(set(commands)) == len(commands) >= 300
    scripts = {command.split()[0] for command in commands}
    python = {p.stem for p in ROOT.glob("*.py")} | {f"scripts/{p.stem}" for p in (ROOT / "scripts").glob("*.py")}
    assert scripts == python
