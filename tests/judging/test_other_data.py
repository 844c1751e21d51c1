"""A judge of one data set and samples of another: their classes are not the same things."""

from pathlib import Path

import pytest
from pictures import digits, make_judge, save_images

import classifier_evaluation
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
