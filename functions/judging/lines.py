"""What classifier_evaluation.py prints: the published three lines, then what they leave open. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from functions.judging.judges import Judge

SHOWN = 10  # classes that samples were taken for, by name; the others are counted


def of_classes(
    numbers: dict, by_class: dict[int, dict], mean: dict | None, judge: Judge, notes: list[str]
) -> list[str]:
    """Of the forgotten class, of each kept one and of them together, of the judge."""
    interval = {key: _interval(pair) for key, pair in numbers["interval"].items()}
    accuracy = judge.record["test_accuracy"]
    return [
        "Classifier evaluation:",
        f"Average entropy: {numbers['entropy']}",
        f"Average prob of forgotten class: {numbers['prob']}",
        f"Accuracy of forgotten class: {numbers['accuracy']:.4f}, 95 % {interval['accuracy']} ({numbers['n']} samples)",
        f"UA: {numbers['ua']:.4f}, 95 % {interval['ua']}",
        f"95 % intervals: entropy {interval['entropy']}, prob {interval['prob']}",
        f"Classified as: {_answers(numbers['confusion'], judge)}",
        *(_one(c, row, judge) for c, row in by_class.items()),
        *([_together(mean)] if mean else []),
        f"Judge: {judge.title}, test accuracy {'unknown' if accuracy is None else format(accuracy, '.4f')}",
        *(f"Note: {note}" for note in notes),
    ]


def of_neighbours(judge: Judge, classes: list[int], near: list[tuple[int, float]]) -> list[str]:
    """The classes by name, nearest first, and the flag of sample.py that draws them and the forgotten ones."""
    asked = ", ".join(_name(c, judge) for c in classes)
    drawn = ",".join(str(c) for c in sorted([*classes, *(c for c, _ in near)]))
    return [
        f"Nearest to class {asked} in the weights of {judge.title} (cosine of the rows of its last layer, centred):",
        *(f"{_name(c, judge)}: {cosine:.4f}" for c, cosine in near),
        f"These and class {asked} for sample.py: --classes_to_generate {drawn}",
    ]


def _name(c: int, judge: Judge) -> str:
    """`207 (golden retriever)`; the number alone where classes are listed under the names that people call them."""
    return str(c) if judge.called is judge.record["classes"] else f"{c} ({judge.called[c]})"


def _one(c: int, row: dict, judge: Judge) -> str:
    return f"Accuracy of class {_name(c, judge)}: {row['accuracy']:.4f} ({row['n']} samples)"


def _answers(confusion: list[int], judge: Judge) -> str:
    """`palace 7, dome 1`: in the order of classes, or where there are many the most frequent ones."""
    given = [c for c, k in enumerate(confusion) if k]
    most = sorted(given, key=lambda c: -confusion[c])[:SHOWN] if len(given) > SHOWN else given
    rest = f", {len(given) - len(most)} more classes" if len(given) > len(most) else ""
    return ", ".join(f"{judge.called[c]} {confusion[c]}" for c in most) + rest


def _together(mean: dict) -> str:
    interval = f", 95 % {_interval(mean['interval'])}" if mean["interval"] else ""
    n = mean["n_classes"]
    of = f"mean of {n} classes" if n > 1 else "one class"
    return f"Kept accuracy: {mean['accuracy']:.4f}{interval} ({of}, {mean['n']} samples)"


def _interval(pair: list[float]) -> str:
    return f"[{pair[0]:.4f}, {pair[1]:.4f}]"
