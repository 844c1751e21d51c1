"""scripts/setup.sh with Pythons that only pretend: which one it takes, what it says, two at once, and no network."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "dirname", "cmp", "cp", "mv", "rm", "mkdir", "sleep", "df", "awk")
# A Python of version %VERSION: `-m venv` copies it, `-m pip` notes that it was asked; the rest is for the real Python.
FAKE = f"""#!/bin/bash
case "$*" in
  --version) echo "Python %VERSION" ;;
  "-c import sys; "*) [[ %VERSION != 3.10.* ]] ;;
  "-m venv "*) echo "$*" >> venvs; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip install --quiet uv") exit 1 ;;
  "-m pip "*) sleep "${{PIP_SECONDS:-0}}"; echo %VERSION >> installs; exit "${{PIP_STATUS:-0}}" ;;
  *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def folder(tmp_path):
    """A checkout with no more than setup.sh reads, and a `bin` with the tools that it calls, but no Python."""
    for name in ("scripts", "bin"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text("torch>=2.11\n")
    for name in TOOLS:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    return tmp_path


def python(folder: Path, name: str = "python3", version: str = "3.12.1") -> None:
    path = folder / "bin" / name
    path.write_text(FAKE.replace("%VERSION", version))
    path.chmod(0o755)


def start(folder: Path, **environment: str) -> subprocess.Popen:
    env = {"PATH": str(folder / "bin"), **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(["bash", "scripts/setup.sh"], cwd=folder, env=env, **pipes)


def setup(folder: Path, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    process = start(folder, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_nothing_is_done_once_the_stamp_fits(folder):
    python(folder)
    assert setup(folder)[0] == 0
    (folder / "bin" / "python3").unlink()
    assert setup(folder, PYTHON="no-such-python") == (0, "", "")
    assert lines(folder / "installs") == ["3.12.1"]
    # another list, or an environment whose Python is gone, is installed again
    python(folder)
    (folder / "requirements.txt").write_text("torch>=2.12\n")
    assert setup(folder)[0] == 0
    (folder / ".venv" / "bin" / "python").unlink()
    assert setup(folder)[0] == 0
    assert len(lines(folder / "installs")) == 3


@pytest.mark.parametrize(
    ("there", "asked", "taken"),
    [
        ({"python3": "3.11.2", "python3.13": "3.13.1"}, None, "3.11.2"),
        ({"python3": "3.10.9", "python3.12": "3.12.1"}, None, "3.12.1"),
        ({"python3": "3.12.1", "mine": "3.13.0"}, "mine", "3.13.0"),
    ],
)
def test_the_first_python_that_is_new_enough_is_taken(folder, there, asked, taken):
    for name, version in there.items():
        python(folder, name, version)
    code, out, _ = setup(folder, **({"PYTHON": asked} if asked else {}))
    assert (code, lines(folder / "installs")) == (0, [taken])
    assert f"with Python {taken}" in out


@pytest.mark.parametrize(
    ("there", "asked", "words"),
    [
        ({}, None, "no python3 here"),
        ({"python3": "3.10.9"}, None, "Python 3.10.9 here"),
        ({"python3": "3.12.1"}, "no-such-python", "no no-such-python here"),
        ({"python3": "3.12.1", "old": "3.10.9"}, "old", "Python 3.10.9 here"),
    ],
)
def test_what_is_missing_is_one_line(folder, there, asked, words):
    for name, version in there.items():
        python(folder, name, version)
    code, out, err = setup(folder, **({"PYTHON": asked} if asked else {}))
    assert (code, out) == (1, "")
    assert err == f"setup: {words}; wanted Python 3.11 or newer (PYTHON=... names another)\n"


def test_an_environment_of_an_old_python_is_made_anew_and_one_that_was_interrupted_goes_on(folder):
    python(folder)
    assert setup(folder, PIP_STATUS="1")[0] == 1
    assert not (folder / ".venv" / ".installed_requirements").exists()
    assert setup(folder)[0] == 0
    (folder / ".venv" / "bin" / "python").write_text(FAKE.replace("%VERSION", "3.10.9"))
    (folder / "requirements.txt").write_text("torch>=2.12\n")
    assert setup(folder)[0] == 0
    assert lines(folder / "venvs") == ["-m venv --clear .venv", "-m venv .venv", "-m venv --clear .venv"]


def test_what_cannot_be_installed_says_how_much_room_there_is(folder):
    python(folder)
    code, _, err = setup(folder, PIP_STATUS="1")
    assert code == 1 and err.startswith("setup: could not install (see above); ")
    assert err.endswith(" free here, about 8 GB wanted. Run it again: what is there is kept\n")


def test_the_second_of_two_waits_and_finds_everything_done(folder):
    python(folder)
    first = start(folder, PIP_SECONDS="2")
    while first.poll() is None and not (folder / "venvs").exists():
        time.sleep(0.01)
    code, out, _ = setup(folder)
    assert (code, out) == (0, "setup: another setup is at work here; waiting for it\n")
    first.communicate(timeout=10)
    assert first.returncode == 0 and lines(folder / "installs") == ["3.12.1"]
