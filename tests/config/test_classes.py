"""Classes by number, by name, and several at once: what they are called, and what is no class or may be two."""

from __future__ import annotations

import argparse

import pytest

from functions.config.classes import class_numbers, labels, leaves_out, parse_classes
from functions.config.load import config_hash, load_config
from functions.config.schema import Forget
from functions.config.selection import classes_of, is_class, label_name, selection_name
from functions.errors import InputError
from functions.storage.provenance import check_provenance

ANIMALS = ("ant", "cat", "dog", "xenops")
NUMERIC = ("2", "10", "1")  # names that are numbers, of other classes


@pytest.mark.parametrize(
    "text, wanted",
    [("3", 3), ("-1", -1), ("cat", "cat"), ("0, 2", [0, 2]), ("cat,2", ["cat", 2]), ("name:3", "name:3")],
)
def test_a_flag_gives_numbers_and_names(text, wanted):
    assert labels(text) == wanted


@pytest.mark.parametrize("text", ["", "0,", ",cat"])
def test_a_flag_without_a_class_is_one_line(text):
    with pytest.raises(argparse.ArgumentTypeError, match="wanted a class, or several"):
        labels(text)


@pytest.mark.parametrize(
    "label, classes, wanted",
    [
        (1, ANIMALS, 1),
        ("cat", ANIMALS, 1),
        (["dog", 0], ANIMALS, [0, 2]),
        (["cat", 1], ANIMALS, 1),  # one class, called twice
        ("number:2", ANIMALS, 2),
        ("name:cat", ANIMALS, 1),
        (10, NUMERIC, 1),  # no number of a class, so a name
        (0, NUMERIC, 0),
        ("name:2", NUMERIC, 0),
        ("number:2", NUMERIC, 2),
        (3, 10, 3),
    ],
)
def test_classes_have_numbers(label, classes, wanted):
    assert class_numbers(label, classes, "pets", "label_to_forget") == wanted


@pytest.mark.parametrize(
    "label, classes, message",
    [
        (4, ANIMALS, r"label_to_forget: 4 is not a class of pets, which has 4 classes \(0\.\.3\)$"),
        ("cta", ANIMALS, r"cta is not a class of pets, .* \(did you mean 'cat'\?\)"),
        (["cat", 9], ANIMALS, "9 is not a class"),
        (2, NUMERIC, "2 is the number of class '1' and the name of class 0; write number:2 or name:2"),
        ("number:2", NUMERIC[:2], "number:2 is not a class"),
    ],
)
def test_what_is_no_class_or_may_be_two_is_one_line(label, classes, message):
    with pytest.raises(InputError, match=message) as error:
        class_numbers(label, classes, "pets", "label_to_forget")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("cat,0", [0, 1]),
        ("xcat", [0, 2, 3]),
        ("xenops", [3]),  # a name wins over leaving out a class that is none
        ("xxenops,x0", [1, 2]),
        ("name:cat,number:2", [1, 2]),
        (None, [0, 1, 2, 3]),
    ],
)
def test_lists_of_classes_take_names(text, wanted):
    assert parse_classes(text, ANIMALS) == wanted
    assert text is None or leaves_out(text, ANIMALS) == (text in ("xcat", "xxenops,x0"))


@pytest.mark.parametrize(
    "text, classes, message",
    [
        ("cow", ANIMALS, r"--classes_to_generate cow: wanted classes .* \(did you mean 'cat'\?\)|wanted classes"),
        ("cat,xdog", ANIMALS, "not both"),
        ("2", NUMERIC, "2 is the number of class '1' and the name of class 0"),
        ("x2", NUMERIC, "2 is the number of class '1' and the name of class 0"),
        ("x0", ("a", "x0"), "x0 is a class, and leaves out 0"),
        ("9", ANIMALS, "no class 9, there are 0 to 3"),
    ],
)
def test_lists_that_cannot_be_told_are_one_line(text, classes, message):
    with pytest.raises(InputError, match=message):
        parse_classes(text, classes)


def test_one_class_is_called_as_ever_and_several_by_a_plus():
    one, two = Forget(label=0), Forget(label=[0, 2])
    assert [selection_name(f, 5) for f in (one, two, Forget(label=[0, 2], count=9))] == ["0", "0+2", "random9_c0+2_s5"]
    assert is_class(one) and is_class(two) and one.model_dump()["label"] == 0
    assert (classes_of(None), classes_of(3), classes_of([3, 4])) == ([], [3], [3, 4]) and label_name(3) == "3"


@pytest.mark.parametrize("label", [-1, 1.5, True, "", [], [0, -2], {"a": 1}])
def test_what_cannot_be_a_label_is_one_line(label):
    flags = {"label_to_forget": label, "ckpt_folder": "x"}
    with pytest.raises(InputError, match="forget.label: got .*wanted the number of a class, its name, or a list"):
        load_config("digits_sfron.yml", "sfron", flags=flags)


def test_younger_keys_leave_the_hash_of_older_runs():
    plain = load_config("digits_pretrain.yml", "pretrain")
    assert config_hash(plain).startswith("94bb47dd3cc2")  # as before `data.test_fraction`


@pytest.mark.parametrize("key, value", [("image_size", "auto"), ("test_fraction", "0.5")])
def test_what_only_folders_have(key, value):
    with pytest.raises(InputError, match=rf"data\.{key}: {value} is for dataset folder, this is digits"):
        load_config("digits_pretrain.yml", "pretrain", settings=[f"data.{key}={value}"])


def test_a_mask_of_several_classes_is_for_those_alone():
    made = lambda label, name: {"checkpoint": "c", "forget": {"dataset": "d", "label": label, "name": name}}
    check_provenance(made([0, 2], "0+2"), made([0, 2], "0+2"), "mask")
    for other in (made(0, "0"), made([0, 3], "0+3")):
        with pytest.raises(InputError, match=r"made for class 0\+2, this run forgets class (0|0\+3) "):
            check_provenance(made([0, 2], "0+2"), other, "mask")
