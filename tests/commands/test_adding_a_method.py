"""docs/adding_a_method.md does what it says: its blocks make a method, in six files, on every world."""

import filecmp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/adding_a_method.md").read_text()
TREE = ("functions", "runners", "models", "datasets", "configs", "tests")
STEP = re.compile(
    r"(?:\*\*`(?P<file>[^`]+)`\*\*|The same file), (?:a new file|after `(?P<after>[^`]+)`):\n\n"
    r"```\w+\n(?P<block>.*?)```\n",
    re.DOTALL,
)


def insert(text: str, after: str, block: str) -> str:
    """The block below the one line that reads `after`."""
    lines = text.splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if line.rstrip("\n") == after]
    assert len(places) == 1, f"{len(places)} lines {after!r}"
    return "".join([*lines[: places[0] + 1], block, *lines[places[0] + 1 :]])


def apply(root: Path) -> None:
    """Every block of the page, in order."""
    steps, file = list(STEP.finditer(PAGE)), None
    assert len(steps) == len(re.findall(r"^```(?:python|yaml)$", PAGE, re.MULTILINE))
    for step in steps:
        file = root / (step["file"] or file)
        if step["after"] is None:
            assert not file.exists()
            file.write_text(step["block"])
        else:
            file.write_text(insert(file.read_text(), step["after"], step["block"]))


def changed(root: Path) -> set[str]:
    """The files of the copy that are new or different."""
    files = {p.relative_to(root).as_posix() for name in TREE for p in (root / name).rglob("*") if p.is_file()}
    files = {f for f in files if "__pycache__" not in f}
    return {f for f in files if not (ROOT / f).is_file() or not filecmp.cmp(root / f, ROOT / f, shallow=False)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tree with the method of the page."""
    root = tmp_path_factory.mktemp("tree")
    for name in TREE:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    for script in (*ROOT.glob("*.py"), ROOT / "pyproject.toml"):
        shutil.copy(script, root)
    apply(root)
    return root


def python(root: Path, *words: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(root), str(root / "tests")])
    return subprocess.run(
        [sys.executable, *words], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )


def test_the_method_touches_six_files(tree):
    assert changed(tree) == {
        "runners/methods/bounded_ascent.py",
        "functions/config/methods.py",
        "runners/__init__.py",
        "configs/classifier/classifier.yml",
        "configs/dit/dit.yml",
        "tests/cases.py",
    }


RUN = """
import cases, torch
torch.set_num_threads(1)
once = ["--set", "training.snapshot_freq=4"]
for world in cases.WORLDS:
    origin = cases.pretrain(world, *once)
    before = cases.weights(origin, "ema" if world == "ddpm" else "raw")
    run = cases.unlearn(world, "bounded_ascent", origin, *once, "--set", "unlearn.margin=1e3", "--set", "optim.lr=1e-3")
    stats = cases.stats(run)
    assert len(stats) == 4 and set(stats[0]) == {"step", "lr", "forget", "remain"}, stats
    assert not cases.same(before, cases.weights(run))
    still = cases.unlearn(
        world, "bounded_ascent", origin, *once, "--set", "unlearn.margin=1e-6", "--set", "unlearn.remain_alpha=0.0",
        "--set", "unlearn.bn_mode=freeze", "--set", "optim.weight_decay=0.0",
    )
    assert cases.same(before, cases.weights(still)), "pushed beyond the margin"
print("ran on", *cases.WORLDS)
"""


def test_it_runs_on_every_world(tree):
    done = python(tree, "-c", RUN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ran on ddpm dit classifier"


def test_the_suite_takes_it_in(tree):
    """Names in two places agree, every key is read, every config of classifiers has its block."""
    tests = [
        "test_architecture.py",
        "config/test_config.py",
        "config/test_classifier_flags.py",
        "config/test_sections.py",
    ]
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "bounded_ascent or agree or dead or every_mode"]
    done = python(tree, *words, *(str(tree / "tests" / t) for t in tests))
    assert done.returncode == 0, done.stdout
