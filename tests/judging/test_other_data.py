"""A judge or a reference of one data set and samples of another: their classes are not the same things."""

from pathlib import Path

import pytest
from pictures import digits, make_judge, save_images

import classifier_evaluation
import evaluator
from functions.errors import InputError
from functions.files import write_json
from functions.storage.contract import contract


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return make_judge(tmp_path_factory.mktemp("judge"))


@pytest.mark.parametrize("drawn, refused", [("digits", False), ("folder", False), ("svhn", True)])
def test_samples_of_another_data_set_are_not_judged(judge, drawn, refused):
    """Ten pictures of 8x8 would pass whatever they are of: their contract says what."""
    save_images(Path("F/3"), digits(3, 10))
    write_json("F/samples.json", contract({"n_per_class": 10}, {"dataset": drawn, "classes": [3]}))
    words = ["--dataset", "digits", "--classifier", str(judge), "--label_of_forgotten_class", "3"]
    for place in ("F", "F/3"):
        if not refused:
            classifier_evaluation.main(["--sample_path", place, *words])
            continue
        with pytest.raises(
            InputError, match=rf"{place}: drawn by a model of svhn, and the classifier knows the .* digits"
        ):
            classifier_evaluation.main(["--sample_path", place, *words])
    assert refused != Path("F/metrics.json").exists()


@pytest.mark.parametrize(
    "drawn, held, refused",
    [("digits", "digits", False), ("folder", "digits", False), ("svhn", "folder", False), ("svhn", "digits", True)],
)
def test_samples_are_not_compared_with_another_data_set(judge, drawn, held, refused):
    save_images(Path("F/3"), digits(3, 10))
    save_images(Path("R/3"), digits(3, 20)[10:])
    write_json("F/samples.json", contract({"n_per_class": 10}, {"dataset": drawn, "classes": [3]}))
    write_json("R/reference.json", contract({"dataset": held}, {"label": 0, "n": 10}))
    words = ["R", "--features", f"classifier:{judge}"]
    for place in ("F", "F/3"):
        if not refused:
            evaluator.main([place, *words])
            continue
        with pytest.raises(InputError, match=f"{place}: drawn by a model of svhn, and R holds images of digits"):
            evaluator.main([place, *words])
    assert refused != Path("F/metrics.json").exists()
