"""`bash scripts/*.sh --help`: what it does, its options and its time, before anything is set up."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SHELL = sorted(p.name for p in SCRIPTS.glob("*.sh"))
MADE_OF = {
    "quickstart.sh": "quickstart",
    "compare_digits.sh": "compare_digits",
    "compare_classifiers.sh": "compare_classifiers",
    "dit_shapes.sh": "dit_shapes",
}
TIMED = set(SHELL) - {"help.sh", "setup.sh"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder with the scripts and nothing else."""
    return shutil.copytree(SCRIPTS, tmp_path_factory.mktemp("bare") / "scripts").parent


def shown(folder: Path, script: str, flag: str = "--help") -> str:
    before = sorted(folder.rglob("*"))
    env = {"PATH": "/usr/bin:/bin", "PYTHON": "no-such-python"}
    done = subprocess.run(["bash", f"scripts/{script}", flag], cwd=folder, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and sorted(folder.rglob("*")) == before
    return done.stdout


@pytest.mark.parametrize("script", SHELL)
def test_every_script_explains_itself_and_touches_nothing(bare, script):
    text = shown(bare, script)
    assert len(text.split()) > 15 and not re.search("^#|^set |^cd ", text, re.M)
    assert shown(bare, script, "-h") == text
    if script in TIMED:
        assert f"bash scripts/{script}" in text and re.search("minute|hour|time", text)


@pytest.mark.parametrize("script", MADE_OF)
def test_it_names_every_option_of_the_python_behind_it(bare, script, capsys):
    spec = importlib.util.spec_from_file_location("behind", SCRIPTS / f"{MADE_OF[script]}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit):
        module.main(["--help"])
    options = set(re.findall(r"--\w+", capsys.readouterr().out.split("options:")[1])) - {"--help", "--debug"}
    assert options and options <= set(re.findall(r"--\w+", shown(bare, script)))
