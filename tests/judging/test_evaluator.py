"""The evaluator from the shell, with each feature network, and what bad input gets."""

import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from pictures import digits, make_judge, noise, save_images
from PIL import Image

import classifier_evaluation
import evaluator
import models
import save_base_dataset
from functions.config.cli import run_main
from functions.errors import InputError
from functions.files import read_json
from functions.judging import metrics
from functions.judging.classifier import feature_network, load_classifier
from functions.judging.features import extract
from functions.sampling import folders as sample_folders
from functions.sampling.folders import find_samples, same_images


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return make_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture
def sets():
    """S: 15 digits of each of four classes; R: 20 of each, other images."""
    for c in range(1, 5):
        save_images(Path(f"R/{c}"), digits(c, 35)[:20])
        save_images(Path(f"S/{c}"), digits(c, 35)[20:])


def evaluate(judge, *more) -> list[str]:
    return evaluator.main(["S", "R", "--features", f"classifier:{judge}", *more])


def test_evaluator_prints_the_lines_in_order_and_saves_them(judge, sets, capsys):
    capsys.readouterr()
    evaluate(judge)
    lines = capsys.readouterr().out.splitlines()
    numbers = read_json("S/metrics.json")["evaluator"]
    tags = [
        "Inception Score[classifier]",
        "FID[classifier]",
        "Precision[classifier]",
        "Recall[classifier]",
        "KID[classifier]",
    ]
    assert [line.split(": ")[0] for line in lines[:5]] == tags
    assert lines[1] == f"FID[classifier]: {numbers['fid']}"
    assert any(line.startswith("Note: sFID does not exist") for line in lines)

    model, _ = load_classifier(judge, models.build)
    found, known = (extract(feature_network(model), find_samples(s), 1, 7) for s in "SR")
    expected = metrics.compare(found.pool, known.pool, found.logits)
    for key, value in expected.items():
        if isinstance(value, float):
            assert numbers[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    assert (numbers["n_samples"], numbers["n_reference"]) == (60, 80)
    assert "generation" in numbers["contract"]["protocol"]


def test_precision_is_of_the_samples(judge, sets):
    """Samples of one class lie within the reference of four (precision 1), and cover little of it (low recall)."""
    save_images(Path("one"), digits(2, 20))
    evaluator.main(["one", "R", "--features", f"classifier:{judge}"])
    numbers = read_json("one/metrics.json")["evaluator"]
    assert numbers["precision"] == 1 and numbers["recall"] < 0.6


def test_both_judges_share_one_file(judge, sets):
    evaluate(judge)
    flags = ["--dataset", "digits", "--classifier", str(judge), "--label_of_forgotten_class", "1"]
    classifier_evaluation.main(["--sample_path", "S", *flags])
    assert set(read_json("S/metrics.json")) == {"evaluator", "classifier_evaluation"}


def test_the_reference_is_computed_once_until_it_changes(judge, sets, monkeypatch):
    passes = []
    monkeypatch.setattr(
        "functions.judging.features.extract", lambda n, s, *a: passes.append(s.source.name) or extract(n, s, *a)
    )
    evaluate(judge)
    first = read_json("S/metrics.json")["evaluator"]
    evaluate(judge)
    assert passes == ["S", "R", "S"]
    assert read_json("S/metrics.json")["evaluator"] == first
    save_images(Path("R/5"), digits(5, 10))
    evaluate(judge)
    assert passes[3:] == ["S", "R"]
    assert read_json("S/metrics.json")["evaluator"]["n_reference"] == 90
    Path("R/5/0.png").write_bytes(Path("R/1/0.png").read_bytes())  # same names, another image
    evaluate(judge)
    assert passes[5:] == ["S", "R"]
    next(Path().glob("R.classifier-*.safetensors")).write_bytes(b"cut short")
    evaluate(judge)
    assert passes[7:] == ["S", "R"]


def test_a_reference_in_a_read_only_place_is_a_note(judge, sets, monkeypatch, capsys):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("functions.storage.cache.stream_atomic", refuse)
    evaluate(judge)
    assert "Note: the reference's features are not kept:" in capsys.readouterr().out


def test_tables_can_tell_protocols_apart(judge):
    """Leaving out another class is the same protocol; another rule for the reference, or a bare folder, is not."""
    save_images(Path("S"), digits(1, 10))
    hashes = {}
    for name, flags in {"a": ["0"], "b": ["5"], "c": ["0", "--per_class", "10"]}.items():
        save_base_dataset.main(["--dataset", "digits", "--out", name, "--label_to_forget", *flags])
        evaluator.main(["S", name, "--features", f"classifier:{judge}", "--out", f"{name}.json"])
        hashes[name] = json.loads(Path(f"{name}.json").read_text())["evaluator"]["contract"]["hash"]
    assert hashes["a"] == hashes["b"] != hashes["c"]


def test_a_reference_of_which_some_images_are_samples_is_another(sets):
    """One picture more, or one that differs, and the sets are two."""
    shutil.copytree("S", "more")
    save_images(Path("more/9"), noise(1))
    shutil.copytree("S", "other")
    save_images(Path("other/4"), noise(1))
    same = [same_images(find_samples("S"), find_samples(name)) for name in ("S", "more", "other", "R")]
    assert same == [True, False, False, False]
    save_images(Path("16"), noise(16))
    save_images(Path("17"), noise(17))  # the first 16 are those
    assert not same_images(find_samples("16"), find_samples("17"))


def test_as_many_threads_decode_as_asked(judge, sets, monkeypatch):
    """Each of three threads waits for the other two before it decodes: two would wait for ever."""
    save_images(Path("R/9"), noise(1))  # 60 and 81 images: threes
    evaluate(judge)
    expected = read_json("S/metrics.json")["evaluator"]
    next(Path().glob("R.classifier-*.safetensors")).unlink()
    barrier, decode, threads = threading.Barrier(3, timeout=5), sample_folders.decode, set()

    def together(path, **more):
        threads.add(threading.current_thread().name.rsplit("_")[-1])
        barrier.wait()
        return decode(path, **more)

    monkeypatch.setattr(sample_folders, "same_images", lambda one, two: False)  # it decodes too
    monkeypatch.setattr(sample_folders, "decode", together)
    evaluate(judge, "--n_workers", "3")
    assert threads == {"0", "1", "2"} and read_json("S/metrics.json")["evaluator"] == expected


def same_and_broken() -> None:
    """Beside S: a link to it, a copy, an .npz of it; folders with a transparent and with a broken picture."""
    Path("link").symlink_to("S")
    shutil.copytree("S", "copy")
    np.savez("copy.npz", find_samples("S").images(1).permute(0, 2, 3, 1).numpy())
    for name in ("alpha", "corrupt"):
        save_images(Path(name), noise(8))
    Image.fromarray(noise(1)[0]).convert("RGBA").save("alpha/2.png")
    Path("corrupt/5.png").write_bytes(Path("corrupt/5.png").read_bytes()[:70])


@pytest.mark.parametrize(
    "argv, message",
    [
        (["S", "R"], r"--features inception: weights-inception-2015-12-05-6726825d\.pth is not there .* put http"),
        (["S", "R", "--features", "tensorflow"], r"--features tensorflow: classify_image_graph_def\.pb is not there"),
        (
            ["S", "R", "--features", "inception:x"],
            "--features: got 'inception:x'; wanted inception, tensorflow, lite0 or",
        ),
        (
            ["S", "R", "--features", "classifier"],
            "--features: got 'classifier'; wanted inception, tensorflow, lite0 or",
        ),
        (
            ["S", "R", "--features", "classifier:J", "--inception_weights", "x"],
            "--inception_weights: goes with --features inception or tensorflow",
        ),
        (["S", "link", "--features", "classifier:J"], "the samples and the reference are the same"),
        (["corrupt", "corrupt", "--features", "classifier:J"], "the samples and the reference are the same"),
        (["S", "copy", "--features", "classifier:J"], "the samples and the reference are the same"),
        (["S", "copy.npz", "--features", "classifier:J"], "the samples and the reference are the same"),
        (["alpha", "R", "--features", "classifier:J"], r"alpha/2\.png: has an alpha channel"),
        (["S", "corrupt", "--features", "classifier:J"], r"corrupt/5\.png: not a readable image"),
        (
            ["S", "R", "--features", "classifier:J", "--n_workers", "0"],
            "--n_workers: got '0'; wanted a whole number from 1 to 256",
        ),
        (
            ["S", "R", "--features", "clip"],
            "--features: got 'clip'; wanted inception, tensorflow, lite0 or classifier:PATH",
        ),
        (["S", "S", "--features", "classifier:J"], "the samples and the reference are the same"),
        (["S", "R/../S/", "--features", "classifier:J"], "the samples and the reference are the same"),
        (["absent", "R", "--features", "classifier:J"], "absent: no such folder"),
        (["S", "R", "--features", "classifier:absent.pth"], r"absent\.pth: no such classifier"),
        (["few", "R", "--features", "classifier:J"], "3 images: precision and recall with k = 3 needs at least 4"),
        (
            ["large", "R", "--features", "classifier:J"],
            "large: images of 9x9 pixels, the classifier was trained on 8x8",
        ),
        (
            ["S", "R", "--features", "classifier:J", "--batch_size", "0"],
            "--batch_size: got '0'; wanted a whole number from 1 to",
        ),
    ],
)
def test_evaluator_ends_with_one_line_and_code_2(judge, sets, argv, message, monkeypatch, capsys):
    save_images(Path("few"), noise(3))
    save_images(Path("large"), noise(5, 9))
    same_and_broken()
    monkeypatch.setenv("TORCH_HOME", "cache")
    argv = [a.replace("classifier:J", f"classifier:{judge}") for a in argv]
    monkeypatch.setattr("sys.argv", ["evaluator.py", *argv])
    capsys.readouterr()
    assert run_main(evaluator.main) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error.splitlines()[-1]) and error.count("evaluator.py:") == 1
    assert not list(Path().rglob("metrics.json"))


# ---- classes of a folder


def test_classes_choose_among_the_samples():
    for c in range(3):
        save_images(Path(f"S/{c}"), noise(4, seed=c))
    whole = find_samples("S")
    assert whole.only("x0").labels.tolist() == [1] * 4 + [2] * 4
    assert whole.only("1").paths == tuple(Path(f"S/1/{k}.png") for k in range(4))
    assert (whole.only("x1,x2").images(1) == whole.images(1)[:4]).all()
    for wrong, message in (("5", "--classes 5: no class 5, there are 0 to 2"), ("x0,x1,x2", "leaves no class")):
        with pytest.raises(InputError, match=message):
            whole.only(wrong)
    save_images(Path("S/7"), noise(1, seed=9))
    with pytest.raises(InputError, match="no images of class 5"):
        find_samples("S").only("5")
    save_images(Path("S/other"), noise(1, seed=9))
    with pytest.raises(InputError, match="has no class for every image"):
        find_samples("S").only("x0")


def test_an_npz_has_classes_too():
    np.savez("s.npz", arr_0=noise(4, colour=True), arr_1=np.array([0, 1, 1, 2]))
    kept = find_samples("s.npz").only("x1")
    assert kept.labels.tolist() == [0, 2] and (kept.images(3) == find_samples("s.npz").images(3)[[0, 3]]).all()


def test_a_part_of_a_folder_is_judged_as_a_folder_of_its_own(judge, sets):
    evaluate(judge, "--classes", "x1", "--out", "part.json")
    shutil.rmtree("S/1")
    evaluate(judge, "--out", "alone.json")
    part, alone = (read_json(f"{name}.json")["evaluator"] for name in ("part", "alone"))
    assert part["fid"] == alone["fid"] and part["n_samples"] == 45
    assert part["contract"]["record"]["evaluation"]["classes"] == [2, 3, 4]
    assert part["contract"]["hash"] == alone["contract"]["hash"]


def test_a_terminal_gets_columns_and_a_pipe_the_readmes_lines(monkeypatch, capsys):
    numbers = {"inception_score": 2.5, "fid": 1.25, "sfid": None, "precision": 0.5, "recall": 0.75, "kid": 0.1}
    numbers |= {"kid_std": 0.01, "n_samples": 8, "n_reference": 9, "notes": []}
    evaluator.report(numbers, "")
    assert capsys.readouterr().out.splitlines()[:2] == ["Inception Score: 2.5", "FID: 1.25"]
    monkeypatch.setattr(evaluator.sys.stdout, "isatty", lambda: True, raising=False)
    evaluator.report(numbers, "")
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[:2] == ["Inception Score: 2.5", "FID:             1.25"]
        and lines[4] == f"{'KID:':17}0.1 (std over subsets 0.01)"
    )
