"""Who may import whom, read from the sources; no circle anywhere; and how long files and functions get."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# what models and datasets may import too, and the only such modules of functions
GROUND = "arrays errors files finite imagenet interrupts locks memory pictures places progress records randomness"
# room of functions -> the rooms it imports, all of them and no other: none runs back up
ROOMS = {
    "errors": "",
    "files": "errors",
    "pictures": "errors files",
    "imagenet": "errors",
    "interrupts": "",
    "locks": "errors files",
    "records": "errors files",
    "randomness": "",
    "progress": "",
    "finite": "errors",
    "arrays": "errors",
    "memory": "errors",
    "places": "errors",
    "tasks": "variance",
    "variance": "",
    "config": "errors imagenet interrupts places",
    "training": "errors progress tasks config",
    "curvature": "errors progress tasks",
    "storage": "errors files finite imagenet locks records config curvature",
    "sampling": "errors files finite arrays memory locks pictures progress records randomness tasks config training storage",
    "judging": "arrays errors files finite imagenet locks places progress records randomness config storage sampling",
    "experiments": "errors files locks records config",
}
# Arrows that run back up and are on their way out. Whoever removes one here takes it from this list.
LEAVING = set()
PACKAGES = {"functions": "", "models": "functions", "datasets": "functions", "runners": "models datasets functions"}
TRAINING_SCRIPTS = {
    "train",
    "fim",
    "encode_dataset",
}  # all other scripts, top-level and in scripts/, judge or sample: never runners
SCRIPTS = {p.stem for p in ROOT.glob("*.py")}
MODULES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for folder in (*PACKAGES, "scripts", "benchmarks")
    for p in sorted((ROOT / folder).rglob("*.py"))
} | {p.stem: p for p in ROOT.glob("*.py")}


def running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, also those inside functions, but not what only a type checker reads."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from running(child)


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports, anywhere in it: `from functions import tasks` names functions.tasks."""
    names = set()
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = {f"{node.module}.{a.name}" for a in node.names}
            names |= {name if name in MODULES else node.module for name in inside}
    assert not {name for name in names if name.split(".")[0] in {"tests", "conftest"}}, f"{path}: imports tests"
    return names & set(MODULES)


GRAPH = {name: imported(path) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    """The room of a module of functions, which for the ground floor is the module's own name."""
    return module.split(".")[1]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The first circle a depth-first walk comes upon, its start repeated at the end; none: []."""
    done = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        found = next(filter(None, (walk(n, [*path, node]) for n in sorted(graph[node]))), [])
        done.add(node)
        return found

    return next(filter(None, (walk(node, []) for node in sorted(graph))), [])


def test_a_circle_is_found():
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d", "b"]
    assert circle({"a": set(), "b": {"b"}}) == ["b", "b"]


def test_packages_import_only_what_they_may():
    for module, names in GRAPH.items():
        package = module.split(".")[0]
        if package not in PACKAGES:
            continue
        wrong = {n for n in names if n.split(".")[0] not in {package, *PACKAGES[package].split()}}
        if package in ("models", "datasets"):
            wrong |= {n for n in names if n.startswith("functions") and n not in ground()}
        assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


def ground() -> set[str]:
    return {f"functions.{name}" for name in GROUND.split()}


def test_rooms_import_exactly_what_the_table_says():
    inside = {m: names for m, names in GRAPH.items() if m.count(".") and m.startswith("functions.")}
    found = {(room(m), room(n)) for m, names in inside.items() for n in names if n.startswith("functions.")}
    found = {(one, other) for one, other in found if one != other}
    wanted = {(one, other) for one, others in ROOMS.items() for other in others.split()}
    assert {room(m) for m in inside} == set(ROOMS)
    assert found - wanted - LEAVING == set(), "not in the table"
    assert wanted | LEAVING <= found, "in the table, and nowhere in the code"


def test_no_circle_among_packages_rooms_and_modules():
    assert circle({one: set(others.split()) for one, others in PACKAGES.items()}) == []
    assert circle({one: set(others.split()) for one, others in ROOMS.items()}) == []
    assert circle(GRAPH) == []


def test_scripts_import_no_script_and_judges_no_runner():
    for name in GRAPH:
        if name in SCRIPTS:
            assert not GRAPH[name] & SCRIPTS, f"{name} imports a script"
        if name in SCRIPTS - TRAINING_SCRIPTS or name.startswith("scripts."):
            assert not {n for n in GRAPH[name] if n.split(".")[0] == "runners"}, f"{name} imports runners"


# ---- lengths


def sources(*folders: str) -> list[Path]:
    return [*ROOT.glob("*.py"), *(p for folder in folders for p in (ROOT / folder).rglob("*.py"))]


def n_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_files_are_short():
    files = sources(*PACKAGES, "scripts", "benchmarks", "tests")
    assert [f"{p.relative_to(ROOT)}: {n_lines(p)}" for p in files if n_lines(p) > 450] == []


def test_scripts_parse_call_and_print():
    """What others would import lives in functions/."""
    assert [f"{p.name}: {n_lines(p)}" for p in ROOT.glob("*.py") if n_lines(p) >= 150] == []


def test_half_of_the_functions_have_at_most_8_lines():
    files = sources(*PACKAGES, "scripts")
    defs = (n for p in files for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.FunctionDef))
    assert statistics.median(n.end_lineno - n.lineno + 1 for n in defs) <= 8


# ---- names in two places


def test_names_for_argparse_agree_with_the_dicts_of_classes():
    import datasets
    import models
    from functions.config import checks, methods, passes, schema, unlearning
    from functions.config import names as keys
    from functions.curvature.fisher import ESTIMATORS
    from functions.storage.meta import DIT_SIZES
    from models.cifar import CIFAR_ARCHS
    from models.classifiers import RESNETS
    from runners import MODES
    from runners.methods.forgetting import FORGET_LOSSES

    assert tuple(MODES) == methods.MODES
    assert all(MODES[name].mode == name for name in MODES)
    assert tuple(datasets.DATASETS) == schema.DATASETS and datasets.ON_DISK == checks.ON_DISK
    assert tuple(FORGET_LOSSES) == unlearning.FORGET_LOSSES
    assert tuple(ESTIMATORS) == passes.ESTIMATORS
    assert tuple(DIT_SIZES) == schema.DIT_SIZES
    assert CIFAR_ARCHS == schema.CIFAR_ARCHS and tuple(RESNETS) == schema.RESNETS
    assert set(keys.UNLEARN_ALIAS.values()) <= set(MODES)
    assert {
        m
        for s in (schema.UNetModel, schema.DiTModel, schema.CNNModel, schema.CifarModel, schema.LibraryModel)
        for m in s.model_fields["name"].annotation.__args__
    } == set(models.MODELS)


def test_config_is_checked_without_torch():
    """And every script's --help comes at once."""
    names = ", ".join(
        [*sorted(SCRIPTS), "functions.config.load", "functions.storage.run", "functions.sampling.contract"]
    )
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_libraries_import_beside_our_datasets_folder():
    """Some libraries look for the hub package named `datasets`; ours must not confuse them."""
    code = (
        "import diffusers, timm, torchvision, sklearn; from diffusers import DDIMScheduler, DPMSolverMultistepScheduler"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
