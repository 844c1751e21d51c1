"""Compare unlearning methods on classifiers of digits: a small CNN (random 10 %, one class; five seeds) and ResNet-18.

Each seed is a repetition from the start: its own original, forget set and retrained model; the class is the seed's
number. A second retrained model, of another initialisation and order, gives the floor: the gap that retraining has.
Every stage is a script of the toolkit, run once and recorded under OUT/stages; what was stopped goes on where it was.

--tune runs the trials of each method on validation seeds instead, judged on validation images, never on the test set,
and writes OUT/constants.json: for each method the trial of the smallest average gap. The comparison runs a copy of it.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from functions.config.cli import Parser, a_path, run_main, whole
from functions.errors import InputError
from functions.experiments import plot, tables
from functions.experiments.stages import Stages
from functions.files import read_json, write_atomic, write_json
from functions.locks import SHORT, writing_file
from functions.places import check_folder_place

CONSTANTS = Path(__file__).with_name("classifier_constants.json")
CONFIG = "digits_classifier.yml"
MODELS = {"cnn": [], "resnet18": ["--arch", "resnet18"]}
SCENARIOS = {"random": lambda seed: ["--forget_fraction", 0.1], "class": lambda seed: ["--label_to_forget", seed % 10]}


class Case(NamedTuple):
    """One repetition: a model, what it forgets, and the seed of everything."""

    model: str
    scenario: str
    seed: int

    def __str__(self) -> str:
        return f"{self.model}_{self.scenario}_s{self.seed}"

    @property
    def forget(self) -> list[object]:
        return SCENARIOS[self.scenario](self.seed)


FINAL = [
    *(Case("cnn", scenario, seed) for scenario in SCENARIOS for seed in range(5)),
    *(Case("resnet18", "random", seed) for seed in range(2)),
]
VALIDATION = [
    *(Case("cnn", scenario, seed) for scenario in SCENARIOS for seed in (100, 101)),
    Case("resnet18", "random", 100),
]


def grid(flag: str, values: list[float], other: str, others: list[float]) -> list[list[object]]:
    """All pairs of two flags' values: six trials."""
    return [[flag, v, other, o] for v in values for o in others]


# Six trials for each method, for both models, in place of what configs/classifier/digits_classifier.yml says.
TRIALS: dict[str, list[list[object]]] = {
    "finetune": grid("--lr", [0.01, 0.03, 0.1], "--epochs", [5, 10]),
    "l1_sparse": grid("--alpha", [3e-5, 1e-4, 5e-4], "--lr", [0.01, 0.03]),
    "ga": grid("--lr", [1e-4, 1e-3, 5e-3], "--epochs", [5, 10]),
    "neggrad": grid("--forget_alpha", [0.03, 0.1, 0.3], "--lr", [3e-3, 0.01]),
    "rl": grid("--lr", [1e-3, 3e-3, 0.01], "--epochs", [5, 10]),
    "salun": grid("--lr", [1e-3, 3e-3, 0.01], "--epochs", [5, 10]),
    "salun_soft": grid("--lr", [1e-3, 3e-3, 0.01], "--epochs", [5, 10]),
    "iu": [["--alpha", step] for step in (1, 3, 10, 30, 100, 300)],
    "fisher_forget": [["--alpha", alpha] for alpha in (1e-10, 1e-9, 1e-8, 3e-8, 1e-7, 1e-6)],
    "boundary_expand": grid("--lr", [1e-4, 1e-3, 5e-3], "--epochs", [5, 10]),
    "boundary_shrink": grid("--lr", [1e-4, 1e-3, 5e-3], "--epochs", [5, 10]),
    "scrub": grid("--lr", [1e-3, 5e-3, 0.02], "--epochs", [3, 6]),
    "bad_teacher": grid("--lr", [3e-4, 1e-3, 3e-3], "--epochs", [5, 10]),
    "sfron": grid("--lr", [3e-3, 0.01], "--forget_alpha", [1.0, 5.0, 25.0]),
}
# A second round, three more for each, placed after the first had been seen: where its best lay on an edge.
# (rate, epochs)
PAIRS = {
    "rl": {"cnn": [(1e-4, 5), (3e-4, 5), (0.03, 10)], "resnet18": [(1e-4, 5), (3e-4, 5), (3e-4, 10)]},
    "finetune": {"cnn": [(0.2, 5), (0.2, 10), (0.1, 15)], "resnet18": [(0.05, 5), (0.05, 10), (0.03, 15)]},
    "boundary_expand": {"cnn": [(5e-4, 5), (2e-3, 5), (1e-3, 15)]},
    "boundary_shrink": {"cnn": [(3e-4, 5), (3e-4, 10), (2e-3, 10)]},
    "scrub": {"cnn": [(0.01, 6), (0.05, 3), (0.05, 6)]},
    "bad_teacher": {"cnn": [(1e-4, 5), (1e-4, 10), (0.01, 10)]},
    "ga": {"cnn": [(2e-4, 10), (3e-4, 10), (5e-3, 3)]},
}
PAIRS |= {"salun": PAIRS["rl"], "salun_soft": {"cnn": PAIRS["rl"]["cnn"]}}
MORE: dict[str, dict[str, list]] = {
    **{
        method: {m: [["--lr", lr, "--epochs", e] for lr, e in of] for m, of in by_model.items()}
        for method, by_model in PAIRS.items()
    },
    "l1_sparse": {"cnn": [["--alpha", a, "--lr", lr] for a, lr in ((1e-3, 0.03), (1e-3, 0.1), (5e-4, 0.1))]},
    "neggrad": {"cnn": [["--forget_alpha", a, "--lr", lr] for a, lr in ((0.3, 1e-3), (1.0, 1e-3), (1.0, 3e-3))]},
    "iu": {"cnn": [["--alpha", step] for step in (0.3, 2, 5)]},
    "fisher_forget": {"cnn": [["--alpha", alpha] for alpha in (3e-9, 2e-8, 5e-8)]},
    "sfron": {
        "cnn": [["--lr", lr, "--forget_alpha", a] for lr, a in ((3e-3, 50.0), (1e-3, 25.0), (1e-3, 100.0))],
        "resnet18": [["--lr", 0.01, "--forget_alpha", a] for a in (100.0, 300.0, 1000.0)],
    },
}
METHODS = {"cnn": list(TRIALS), "resnet18": ["finetune", "rl", "salun", "sfron"]}
MODE = {"rl": "salun"}  # SalUn without a mask
TITLES = {
    "pretrain": "original",
    "retrain": "retrained",
    "floor": "retrained again (floor)",
    "finetune": "FT",
    "l1_sparse": "l1-sparse",
    "ga": "GA",
    "neggrad": "NegGrad+",
    "rl": "RL",
    "salun": "SalUn",
    "salun_soft": "SalUn-soft",
    "iu": "IU",
    "fisher_forget": "FF",
    "boundary_expand": "boundary expand",
    "boundary_shrink": "boundary shrink",
    "scrub": "SCRUB",
    "bad_teacher": "bad teacher",
    "sfron": "SFR-on",
}

COLUMNS = [
    *(tables.Column(key, f"{key} %", 1) for key in ("UA", "RA", "TA", "TA_forgotten", "MIA")),
    *(tables.Column(f"gap_{key}", f"Δ{key}", 1) for key in ("UA", "RA", "TA", "MIA")),
    tables.Column("average_gap", "avg. gap", 2),
    tables.Column("JS", "JS", 3),
    tables.Column("seconds", "seconds", 1),
    tables.Column("passes", "1000 images forward + backward", 1),
]
COLUMNS[3] = tables.Column("TA_forgotten", "TA of the class %", 1)


class Pieces:
    """The stages of a comparison below OUT. Each method returns the run folder that later ones need."""

    def __init__(self, out: Path) -> None:
        self.out, self.stages = out, Stages(out / "stages")

    def train(self, name: str, mode: str, seed: int, *words: object) -> Path:
        import train

        folder = self.out / "runs" / name
        return self.stages.run(
            name, train, "--config", CONFIG, "--mode", mode, "--seed", seed, *words, "--save_dir", folder, root=folder
        )

    def original(self, case: Case) -> Path:
        """One for both scenarios of a seed."""
        name = f"{case.model}_s{case.seed}_original"
        return self.train(name, "pretrain", case.seed, *MODELS[case.model])

    def retrained(self, case: Case) -> Path:
        start = ["--model_path", self.original(case), *case.forget]
        return self.train(f"{case}_retrain", "retrain", case.seed, *start)

    def floor(self, case: Case) -> Path:
        """The same split and forget set; another initialisation, another order."""
        other = [f"seeds.{part}={1000 + case.seed}" for part in ("init", "order")]
        sets = [word for setting in other for word in ("--set", setting)]
        start = ["--model_path", self.original(case), *case.forget]
        return self.train(f"{case}_floor", "retrain", case.seed, *start, *sets)

    def unlearned(self, case: Case, method: str, words: list[object], name: str = "") -> Path:
        """A run of `method` with its mask, where it takes one, made first."""
        start = ["--model_path", self.original(case), *case.forget]
        mask = {"salun": self.saliency_mask, "sfron": self.fisher_mask}.get(method, lambda case: [])(case)
        return self.train(f"{case}_{method}{name}", MODE.get(method, method), case.seed, *start, *mask, *words)

    def saliency_mask(self, case: Case) -> list[object]:
        start = ["--model_path", self.original(case), *case.forget]
        folder = self.train(f"{case}_saliency", "generate_mask", case.seed, *start)
        return ["--mask_path", folder / "with_0.5.safetensors"]

    def fisher_mask(self, case: Case) -> list[object]:
        import generate_fisher_mask

        start = ["--model_path", self.original(case), *case.forget]
        folder = self.train(f"{case}_fisher", "generate_fisher", case.seed, *start)
        (mask,) = self.stages.run(f"{case}_ratio", generate_fisher_mask, "--ckpt_folder", folder, "--threshold", 1.0)
        return ["--mask_path", mask]

    def judged(self, case: Case, run: Path, on: str) -> dict[str, float]:
        """One row's numbers, beside those of this case's retrained model."""
        import evaluate
        from functions.judging.metrics_file import read_section
        from functions.storage.checkpoint import Snapshot

        numbers = self.out / "metrics" / f"{run.name}_for_{case}.json"
        self.stages.run(
            f"evaluate_{run.name}_for_{case}",
            evaluate,
            run,
            "--retrain",
            self.retrained(case),
            "--on",
            on,
            "--out",
            numbers,
        )
        section = "classification" if on == "test" else "classification_val"
        found, meta = read_section(numbers, section), Snapshot.open(run).meta
        keys = ("UA", "RA", "TA", "TA_forgotten", "MIA", "average_gap", "JS")
        row = {key: found[key] for key in keys if found[key] is not None}
        row |= {
            f"gap_{key}": abs(found[key] - found["retrained"][key]) for key in ("UA", "RA", "TA", "MIA") if key in row
        }
        if meta["mode"] != "pretrain":
            spent = [meta["cost"], *([meta["prepared"]] if meta.get("prepared") else [])]
            row["seconds"] = sum(s["seconds"] for s in spent)
            row["passes"] = sum(s["forward"] + s["backward"] for s in spent) / 1000
        return {**row, "contract": found["contract"]}


def chosen_words(constants: dict, case: Case, method: str) -> list[object]:
    """What the trials chose for a method, model and scenario."""
    try:
        return constants[case.model][case.scenario][method]
    except (KeyError, TypeError):
        raise InputError(f"constants: nothing for {case.model}, {case.scenario}, {method}; --tune chooses") from None


def compare(pieces: Pieces, cases: list[Case], methods: list[str], constants: dict) -> list[tables.Row]:
    """A row per model, scenario and method, repetitions as ±."""
    found: dict[tuple, list[dict]] = {}
    for case in cases:
        runs = {"pretrain": pieces.original, "retrain": pieces.retrained, "floor": pieces.floor}
        rows = {name: run(case) for name, run in runs.items()}
        for method in (m for m in METHODS[case.model] if m in methods):
            rows[method] = pieces.unlearned(case, method, chosen_words(constants, case, method))
        for name, run in rows.items():
            found.setdefault((case.model, case.scenario, name), []).append(pieces.judged(case, run, "test"))
    contracts = {f"{key}, {i}": n["contract"] for key, all_of in found.items() for i, n in enumerate(all_of)}
    tables.require_one_protocol(contracts)
    return [
        tables.Row((model, scenario, TITLES[name]), {c.key: [n[c.key] for n in all_of if c.key in n] for c in COLUMNS})
        for (model, scenario, name), all_of in found.items()
    ]


def tune(pieces: Pieces, cases: list[Case], methods: list[str]) -> list[dict]:
    """Every trial's average gap on the validation seeds."""
    trials: list[dict] = []
    for model, scenario in dict.fromkeys((c.model, c.scenario) for c in cases):
        own = [c for c in cases if (c.model, c.scenario) == (model, scenario)]
        for method in (m for m in METHODS[model] if m in methods):
            for i, words in enumerate(TRIALS[method] + MORE[method][model]):
                gaps = [
                    pieces.judged(c, pieces.unlearned(c, method, words, f"_trial{i}"), "val")["average_gap"]
                    for c in own
                ]
                trials.append(
                    {
                        "model": model,
                        "scenario": scenario,
                        "method": method,
                        "words": words,
                        "gap": round(statistics.fmean(gaps), 4),
                    }
                )
    return trials


def with_earlier(trials: list[dict], path: Path) -> list[dict]:
    """These trials, and those of other pieces of the list that the file holds."""
    name = lambda t: (t["model"], t["scenario"], t["method"], str(t["words"]))
    new = {name(t) for t in trials}
    earlier = read_json(path)["trials"] if path.is_file() else []
    order = {(m, s, k): i for i, (m, s, k) in enumerate((m, s, k) for m in MODELS for s in SCENARIOS for k in TRIALS)}
    return sorted([t for t in earlier if name(t) not in new] + trials, key=lambda t: order[name(t)[:3]])


def choose(trials: list[dict]) -> dict:
    """{model: {scenario: {method: words}}} of the smallest gap; the first of equals."""
    best: dict[tuple, dict] = {}
    for t in trials:
        key = (t["model"], t["scenario"], t["method"])
        if key not in best or t["gap"] < best[key]["gap"]:
            best[key] = t
    chosen: dict = {}
    for (model, scenario, method), t in best.items():
        chosen.setdefault(model, {}).setdefault(scenario, {})[method] = t["words"]
    return chosen


def main(argv: list[str] | None = None) -> None:
    p = Parser(description=__doc__)
    p.add_argument("--out", type=a_path, default="results/classifiers", help="where everything goes")
    p.add_argument("--tune", action="store_true", help="the trials on validation seeds, in place of the comparison")
    p.add_argument("--constants", type=a_path, default=str(CONSTANTS), help="what --tune chose")
    p.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="only these, to run in pieces")
    p.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    p.add_argument(
        "--methods",
        nargs="+",
        choices=TRIALS,
        default=list(TRIALS),
        metavar="METHOD",
        help=f"only these rows: {', '.join(TRIALS)}",
    )
    p.add_argument(
        "--n_seeds", type=whole(1, 1000), metavar="N", help="only the first N seeds of each model and scenario"
    )
    args = p.parse_args(argv)
    check_folder_place(args.out, "--out")
    pieces = Pieces(Path(args.out))
    cases = [c for c in (VALIDATION if args.tune else FINAL) if c.model in args.models and c.scenario in args.scenarios]
    if args.n_seeds is not None:
        order = {c: [o.seed for o in cases if o[:2] == c[:2]].index(c.seed) for c in cases}
        cases = [c for c in cases if order[c] < args.n_seeds]
    if not cases:
        raise InputError(
            f"--models {' '.join(args.models)} --scenarios {' '.join(args.scenarios)}: no such case; "
            "resnet18 only forgets at random"
        )
    if args.tune:
        trials = tune(pieces, cases, args.methods)
        with writing_file(pieces.out / "constants.json", SHORT):  # other pieces of the list may end now
            trials = with_earlier(trials, pieces.out / "constants.json")
            chosen = choose(trials)
            write_json(pieces.out / "constants.json", {**chosen, "trials": trials})
        for t in trials:
            best = chosen[t["model"]][t["scenario"]][t["method"]] == t["words"]
            what = " ".join(map(str, t["words"]))
            print(f"{t['model']:9} {t['scenario']:7} {t['method']:16} {what:35} {t['gap']:6.2f}{' *' * best}")
        print(f"Saved {pieces.out / 'constants.json'}")
        return
    rows = compare(pieces, cases, args.methods, read_json(args.constants))
    labels = ("model", "forgets", "method")
    for suffix, form in ((".md", tables.markdown), (".tex", tables.latex), (".csv", tables.to_csv)):
        write_atomic(pieces.out / f"comparison{suffix}", form(labels, COLUMNS, rows))
    print(tables.shown(labels, COLUMNS, rows))
    print(f"Saved {pieces.out / 'comparison.md'}, .tex and .csv")
    plot.main([str(pieces.out / "comparison.csv")])


if __name__ == "__main__":
    sys.exit(run_main(main))
