"""The README's first command: the quickstart at toy size, what it calls a success, and its picture."""

import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

import train_classifier
from functions.errors import InputError
from functions.files import read_json
from functions.locks import Busy, writing_folder
from functions.sampling.sheet import TILE

ROOT = Path(__file__).resolve().parents[2]


TOY = ["--pretrain_steps", "3", "--unlearn_steps", "2", "--per_class", "8", "--judge_epochs", "1"]


@pytest.fixture
def quickstart(small_configs):
    """The script's names, over configs that make everything small."""
    return runpy.run_path(str(ROOT / "scripts" / "quickstart.py"))


def commands(out: str) -> list[str]:
    """The scripts that were run."""
    return re.findall(r"^\$ python (\w+)\.py", out, flags=re.MULTILINE)


def test_a_second_one_in_the_same_place_is_refused(quickstart):
    with writing_folder("results/quickstart"), pytest.raises(Busy, match="^results/quickstart: process"):
        quickstart["main"](TOY)


def test_from_nothing_to_table_and_picture_and_each_stage_once(quickstart, capsys, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_classifier, "main", interrupted)
        quickstart["main"]([*TOY, "--label_to_forget", "3"])
    first = capsys.readouterr().out
    assert commands(first) == ["train", "train", "generate_fisher_mask", "train", "train_classifier"]
    assert re.search(r"^1 thread \(.*\)\. From here on it takes about \d+ (s|min)\.$", first, flags=re.MULTILINE)

    quickstart["main"]([*TOY, "--label_to_forget", "3"])
    out = capsys.readouterr().out
    judging = ["sample", "evaluator", "classifier_evaluation", "sample", "evaluator"]
    assert commands(out) == ["train_classifier", "save_base_dataset", *judging, *judging]
    metrics = read_json("results/quickstart/metrics.json")
    for when in ("before", "after"):
        forgotten, kept = metrics["forgotten"][when], metrics["kept"][when]
        assert (forgotten["class"], forgotten["n"]) == (3, 8)
        assert forgotten["ua"] == pytest.approx(1 - forgotten["accuracy"])
        assert {"prob", "entropy"} <= set(forgotten)
        assert {"accuracy", "fid", "precision", "recall", "fid_unguided"} <= set(kept)
        assert sorted(kept["classes"], key=int) == [str(c) for c in range(10) if c != 3]
        assert set(metrics["contract"][when]) == {"classes", "guided", "unguided"}
    hashes = [{part: c["hash"] for part, c in metrics["contract"][when].items()} for when in ("before", "after")]
    assert hashes[0] == hashes[1] and len(set(hashes[0].values())) == 3  # the same protocol on both sides
    # stages of the first call too
    assert {"pretrain_s0", "sfron_c3_s0", "judge_s0", "sample_after_unguided_c3_s0"} < set(metrics["seconds"])
    assert "class 3 (forgotten): UA" in out and "kept classes, w = 0.0: FID[classifier]" in out
    with Image.open("results/quickstart/before_after.png") as page:
        assert page.width > 16 * TILE
    assert "Picture: results/quickstart/before_after.png shows samples of each digit" in out.splitlines()[-1]

    # twice in a row: the same numbers, nothing run
    quickstart["main"]([*TOY, "--label_to_forget", "3"])
    again = capsys.readouterr().out
    assert commands(again) == [] and "thread" not in again
    assert read_json("results/quickstart/metrics.json") == metrics
    # another digit starts from the model that is there
    quickstart["main"]([*TOY, "--label_to_forget", "5"])
    assert commands(capsys.readouterr().out) == [
        *("train", "generate_fisher_mask", "train", "save_base_dataset"),
        *("evaluator", "classifier_evaluation", "sample", "evaluator"),
        *judging,
    ]
    # a stage of other settings is not taken for one of these
    with pytest.raises(InputError, match=r"stages/pretrain_s0\.json: this stage was run as .*n_iters=3.* now it is"):
        quickstart["main"]([*TOY, "--pretrain_steps", "4"])


def interrupted(argv: list[str]) -> None:
    raise KeyboardInterrupt


def found(accuracy: float, kept: float, fid: float) -> dict:
    """What the judge says of a model, as far as success depends on it."""
    classes = {"forgotten": {"accuracy": accuracy, "ua": 1 - accuracy}, "kept": {"1": {"accuracy": kept}}}
    return {"classes": classes, "unguided": {"fid": fid}}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ((1.0, 1.0, 0.2), (0.0, 0.99, 0.3), None),
        ((0.5, 1.0, 0.2), (0.0, 1.0, 0.2), "before, 50% of the samples of 0 show it; wanted 90%"),
        ((1.0, 1.0, 0.2), (0.2, 1.0, 0.2), "after, 80% of the samples of 0 do not show it (UA); wanted 90%"),
        ((1.0, 1.0, 0.2), (0.0, 0.9, 0.2), "after, 90% of the other digits' samples show them; wanted 95%"),
        (
            (1.0, 1.0, 0.2),
            (0.0, 1.0, 0.8),
            "the unguided FID of the other digits is 4.0 times what it was; at most 3.0",
        ),
    ],
)
def test_what_is_no_success_is_said(quickstart, before, after, words):
    wrong = quickstart["shortcomings"]({"before": found(*before), "after": found(*after)}, 0)
    assert wrong == ([] if words is None else [words])


def test_at_its_own_sizes_only_a_success_ends_with_exit_code_0(quickstart, capsys, monkeypatch):
    """Toy models draw nothing that looks like a digit."""
    names = quickstart["main"].__globals__
    monkeypatch.setitem(names, "PER_CLASS", 8)
    monkeypatch.setitem(names, "JUDGE_EPOCHS", 1)
    with pytest.raises(SystemExit) as end:
        quickstart["main"](["--out", "here"])
    out = capsys.readouterr().out
    assert end.value.code == 1
    assert "Not as wanted: before, " in out and "0, framed, should be gone" in out.splitlines()[-1]
