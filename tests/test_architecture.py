"""The import rule of the design, read from the sources, and the names that live in two places."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("runners", "models", "datasets", "functions")
GROUND = {"functions.errors", "functions.files", "functions.randomness"}
MAY_IMPORT = {
    "models": {"models", *GROUND},
    "datasets": {"datasets", *GROUND},
    "functions": {"functions", *GROUND},
    "runners": {"runners", "models", "datasets", "functions", *GROUND},
}
TRAINING_SCRIPTS = {"train", "fim"}  # all other top-level scripts judge or sample, and never import runners
SCRIPTS = {p.stem for p in ROOT.glob("*.py")}


def imported(path: Path) -> set[str]:
    """Everything a file imports, anywhere in it, by top-level name; what it imports of GROUND by its whole name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return {name if name in GROUND else name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        ours = imported(path) & {*PACKAGES, *GROUND, *SCRIPTS, "tests", "scripts", "benchmarks"}
        assert ours <= MAY_IMPORT[package], f"{path.name} imports {ours - MAY_IMPORT[package]}"


def test_scripts_import_no_script_and_judges_no_runner():
    for path in ROOT.glob("*.py"):
        names = imported(path)
        assert not names & (SCRIPTS | {"tests"}), f"{path.name} imports a script"
        assert path.stem in TRAINING_SCRIPTS or "runners" not in names, f"{path.name} imports runners"


def test_names_for_argparse_agree_with_the_dicts_of_classes():
    import datasets
    import models
    from functions.config import methods, passes, schema, unlearning
    from functions.config import names as keys
    from functions.curvature.fisher import ESTIMATORS
    from models.cifar import CIFAR_ARCHS
    from models.classifiers import RESNETS
    from runners import MODES
    from runners.methods.forgetting import FORGET_LOSSES

    assert tuple(MODES) == methods.MODES
    assert all(MODES[name].mode == name for name in MODES)
    assert tuple(datasets.DATASETS) == schema.DATASETS
    assert tuple(FORGET_LOSSES) == unlearning.FORGET_LOSSES
    assert tuple(ESTIMATORS) == passes.ESTIMATORS
    assert CIFAR_ARCHS == schema.CIFAR_ARCHS and tuple(RESNETS) == schema.RESNETS
    assert set(keys.UNLEARN_ALIAS.values()) <= set(MODES)
    assert {
        m
        for s in (schema.UNetModel, schema.CNNModel, schema.CifarModel, schema.LibraryModel)
        for m in s.model_fields["name"].annotation.__args__
    } == set(models.MODELS)


def test_config_is_checked_without_torch():
    code = "import sys, train, functions.config.load, functions.storage.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_libraries_import_beside_our_datasets_folder():
    """Some libraries look for the hub package named `datasets`; ours must not confuse them."""
    code = (
        "import diffusers, timm, torchvision, sklearn; from diffusers import DDIMScheduler, DPMSolverMultistepScheduler"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
