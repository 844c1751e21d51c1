"""Classifier runs beside the retrained model: which belong together, their numbers, and what those mean in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import sklearn
import torch
from torch import Tensor, nn

from functions.errors import InputError
from functions.files import version
from functions.judging import membership
from functions.judging.forgetting import GAPS, average_gap, divergences, forgetting_numbers, gaps
from functions.judging.logits import ClassifierRun, logits_of, read_run, require_same_forgetting
from functions.judging.metrics_file import replace_section
from functions.storage.contract import contract


class Judged(NamedTuple):
    """What was found of a run: its numbers, logits of the forget set (N,K), and fingerprints of the images by part."""

    numbers: dict
    forget: Tensor
    images: dict[str, str]


def comparable_runs(
    paths: list[str], original: str | None, retrain: str | None, weights: str, on: str
) -> dict[str, ClassifierRun]:
    """All rows by the folder as named, original and retrained first, each with the forget set it is judged by.

    Raises InputError where `retrain` names no retrained model, where runs did not forget the same, and where there is
    no forget set, or on `val` no validation part, to judge by.
    """
    named = [path for path in (original, retrain, *paths) if path]
    runs = {path: read_run(path, weights) for path in dict.fromkeys(named)}
    reference = runs.get(retrain)
    if reference and reference.meta["mode"] != "retrain":
        raise InputError(f"{retrain}: a run of mode {reference.meta['mode']}, wanted a retrained model (--retrain)")
    for path, run in runs.items():
        if reference:
            runs[path] = run = require_same_forgetting(run, reference)
        if not len(run.indices.get("forget", ())):
            raise InputError(f"{path}: forgot nothing; --retrain names the run whose forget set it is judged by")
        if on == "val" and not len(run.indices["val"]):
            raise InputError(f"{path}: set no validation images aside, --on val has nothing to judge by")
    return runs


def judge(
    run: ClassifierRun,
    parts: dict[str, tuple[object, str]],
    build: Callable[[dict], nn.Module],
    ordered: Callable[..., Iterator],
    batch_size: int,
    device: torch.device,
) -> Judged:
    """`parts`: images and their fingerprint of `train` and, unless the validation part stands for it, of `test`.

    `build` is models.build, `ordered` is datasets.ordered.
    """
    logits, labels = {}, {}
    for part, (images, print_of_images) in parts.items():
        logits[part] = logits_of(run, images, print_of_images, build, ordered, batch_size, device)
        labels[part] = images.labels.cpu()
    held_out = [of["test"] if "test" in parts else of["train"][run.indices["val"]] for of in (logits, labels)]
    numbers = forgetting_numbers(logits["train"], labels["train"], run.indices, *held_out, run.forgotten_classes)
    forget = logits["train"][run.indices["forget"]]
    return Judged(numbers | {"RTE": run.minutes}, forget, {part: of[1] for part, of in parts.items()})


def distances(found: Judged, target: Judged | None) -> dict:
    """KL, JS and average gap to the retrained model, its own numbers, and a note of what the gap lacks.

    None without a retrained model.
    """
    if target is None:
        return dict.fromkeys(("D_KL", "JS", "average_gap", "retrained"))
    if found.images != target.images:
        raise InputError("--retrain: was judged by other images than the runs; --data_path names one place for all")
    goal = target.numbers
    same = {key: goal[key] for key in (*GAPS, "SVC_MIA_forget_efficacy", "entropy_lr_mia")}
    gap, over = average_gap(found.numbers, goal), gaps(found.numbers)
    lacks = [f"avg. gap: of {', '.join(over)} alone"] if len(over) < len(GAPS) else []
    return {
        **divergences(target.forget, found.forget),
        "average_gap": gap,
        "retrained": same,
        "notes": found.numbers["notes"] + lacks,
    }


def attacks(n: dict[str, int]) -> tuple[dict[str, str], dict]:
    """What the protocol says of each attack on sets of `n` images, and the record of the draw, where SVC-MIA drew."""
    chosen = membership.drawn(n["retain"], n["test"])
    svc = membership.SVC_MIA if chosen is None else membership.SVC_MIA_DRAWN
    draw = None if chosen is None else {"seed": membership.DRAW_SEED, "n": len(chosen), "of": n["test"]}
    rules = {"SVC_MIA_forget_efficacy": svc, "entropy_lr_mia": membership.ENTROPY_LR}
    return rules, {"svc_nonmembers": draw} if draw else {}


def write_classification(
    path: Path, run: ClassifierRun, found: Judged, on: str, weights: str, retrain: str | None
) -> None:
    """Section "classification", or "classification_val", of the metrics.json at `path`; the others stay."""
    data, (rules, draw) = run.meta["data"], attacks(found.numbers["n"])
    protocol = {"dataset": data["dataset"], "shape": data["shape"], "on": on, "weights": weights, "attacks": rules}
    record = {
        "run": str(run.path),
        "weights": run.kind,
        "sha256": run.sha256,
        "retrain": retrain,
        "forget": run.meta["forget"],
        "images": found.images,
        "n": found.numbers["n"],
        "scikit-learn": sklearn.__version__,
        "version": version(),
        **draw,
    }
    name = "classification" if on == "test" else "classification_val"
    replace_section(path, name, {**found.numbers, "contract": contract(protocol, record)})


def explanation(found: dict[str, dict], target: dict | None, on: str) -> list[str]:
    """What the attacks' numbers mean, all of them with the retrained model's, `target`, beside them, and the notes."""
    lines = ["Judged on the VALIDATION part in place of the test part."] if on == "val" else []
    attacked = {path: numbers for path, numbers in found.items() if numbers["MIA"] is not None}
    if attacked:
        lines += _attacks(attacked, target)
    return lines + [f"Note: {path}: {note}" for path, numbers in found.items() for note in numbers["notes"]]


def _attacks(found: dict[str, dict], target: dict | None) -> list[str]:
    svc = {path: numbers["SVC_MIA_forget_efficacy"] for path, numbers in found.items()}
    entropy = {path: {"entropy-LR": numbers["entropy_lr_mia"]} for path, numbers in found.items()}
    lines = _attack(
        "SVC-MIA: share of forgotten images called non-member",
        svc,
        target and target["SVC_MIA_forget_efficacy"],
        "confidence",
        wrong_target=1,
    )
    lines += _attack(
        "Entropy-LR MIA, the opposite direction: share of forgotten images called member",
        entropy,
        target and {"entropy-LR": target["entropy_lr_mia"]},
        "entropy-LR",
        wrong_target=0,
    )
    return lines


def _attack(title: str, scores: dict[str, dict], goal: dict | None, key: str, wrong_target: int) -> list[str]:
    """An attack's direction and target, then each run's scores with the retrained model's beside them."""
    known = "no --retrain: no target is known"
    if goal:
        known = f"the retrained model has {goal[key]:.4f} ({key}), that is the target, not {wrong_target}"
    lines = [f"{title}; {known}"]
    for path, of in scores.items():
        cells = [f"{k} {v:.4f}" + (f" (retrained {goal[k]:.4f})" if goal else "") for k, v in of.items()]
        lines.append(f"  {path}: {', '.join(cells)}")
    return lines
