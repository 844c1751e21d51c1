"""Splits: sizes and members that can be derived, index files and what is refused, every error in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toys import one_line

from datasets import ImageSet, Stream
from datasets.split import (
    by_class,
    by_count,
    by_fraction,
    by_index_file,
    load_indices,
    save_indices,
    select,
    train_val_split,
)
from functions.errors import InputError
from functions.files import read_json, sha256_bytes
from functions.randomness import order_generator


def toy(n: int = 10) -> ImageSet:
    images = torch.zeros(n, 1, 4, 4, dtype=torch.uint8)
    return ImageSet(images, torch.arange(n) % 3, ("a", "b", "c"), "toy", "train")


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 0, 1])


@pytest.mark.parametrize("classes", [3, ("a", "b", "c")])
def test_by_class(classes):
    forget, remain = by_class(LABELS, 2, classes)
    assert forget.tolist() == [2, 5] and remain.tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    forget, remain = by_class(LABELS, 0, classes, within=torch.tensor([9, 8, 3, 2]))
    assert forget.tolist() == [3, 8] and remain.tolist() == [2, 9]


@pytest.mark.parametrize(
    "label, classes, within, message",
    [
        (10, 10, None, r"label_to_forget: 10 is not a class of digits, which has 10 classes \(0\.\.9\)"),
        (-1, 3, None, r"-1 is not a class of digits"),
        (3, 4, None, "class 3 of digits has no examples"),
        (2, 3, torch.tensor([2, 5]), "forgets all 2 examples"),
    ],
)
def test_by_class_refuses(label, classes, within, message):
    with pytest.raises(InputError, match=message) as error:
        by_class(LABELS, label, classes, name="digits", within=within)
    one_line(error)


def test_by_count_and_fraction():
    forget, remain = by_count(LABELS, 4, seed=0)
    assert len(forget) == 4 and torch.cat([forget, remain]).sort().values.tolist() == list(range(10))
    assert forget.tolist() == sorted(forget.tolist()) and remain.tolist() == sorted(remain.tolist())
    assert torch.equal(by_count(LABELS, 4, seed=0)[0], forget)
    assert len({tuple(by_count(LABELS, 4, seed=s)[0].tolist()) for s in range(8)}) > 1
    assert torch.equal(by_fraction(LABELS, 0.4, seed=0)[0], forget)
    forget, remain = by_fraction(LABELS, 0.5, seed=0, label=1, classes=3)  # class 1 has 4 examples
    assert len(forget) == 2 and set(LABELS[forget].tolist()) == {1} and len(remain) == 8
    forget, remain = by_count(LABELS, 1, seed=0, within=torch.tensor([4, 7]))
    assert sorted(forget.tolist() + remain.tolist()) == [4, 7]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: by_count(LABELS, 0, 0), r"0 is not in 1\.\.10"),
        (lambda: by_count(LABELS, 11, 0), r"11 is not in 1\.\.10"),
        (lambda: by_count(LABELS, 10, 0), "leaves none to remain"),
        (lambda: by_count(LABELS, 3, 0, label=2, classes=3), r"3 is not in 1\.\.2, the examples of class 2"),
        (lambda: by_fraction(LABELS, 0.0, 0), r"0.0 is not in \(0, 1\]"),
        (lambda: by_fraction(LABELS, 0.01, 0), "0.01 of 10 examples is none"),
        (lambda: by_fraction(LABELS, 1.0, 0), "leaves none to remain"),
        (lambda: train_val_split(LABELS, 1.0, 0), r"val_fraction: 1.0 is not in \[0, 1\)"),
        (lambda: train_val_split(LABELS, 0.01, 0), "0.01 of 10 examples is none"),
        (lambda: Stream(toy(), torch.tensor([], dtype=torch.long), 4, 0, "forget"), "no images to draw forget batches"),
    ],
)
def test_impossible_numbers(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    one_line(error)


def test_index_files(tmp_path):
    save_indices(tmp_path / "new" / "forget.json", torch.tensor([1, 4]))
    assert json.loads((tmp_path / "new" / "forget.json").read_text()) == [1, 4]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["forget.json"]
    np.save(tmp_path / "forget.npy", np.array([4, 1], dtype=np.int32))
    for path in (tmp_path / "new" / "forget.json", tmp_path / "forget.npy"):
        assert load_indices(path).tolist() == [1, 4]
        forget, remain = by_index_file(path, 6)
        assert forget.tolist() == [1, 4] and remain.tolist() == [0, 2, 3, 5]
        with pytest.raises(InputError, match="index 4 is not among the examples the model was trained on"):
            by_index_file(path, 6, within=torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    "text, message",
    [
        ("[0, 6]", r"index 6 is not in 0\.\.5"),
        ("[-1]", r"index -1 is not in 0\.\.5"),
        ("[2, 0, 2]", "index 2 is listed more than once"),
        ("[0, 1, 2, 3, 4, 5]", "leaves none to remain"),
        ("[]", "wanted a list of integers"),
        ("[0.5]", "wanted a list of integers"),
        ("[true]", "wanted a list of integers"),
        ('{"a": 1}', "wanted a list of integers"),
        ("3", "wanted a list of integers"),
        ("[1, [2]]", "neither a JSON list"),
        ("[0, 1", "not valid JSON"),
    ],
)
def test_index_file_refused(tmp_path, text, message):
    (tmp_path / "forget.json").write_text(text)
    with pytest.raises(InputError, match=rf"forget\.json: .*{message}") as error:
        by_index_file(tmp_path / "forget.json", 6)
    one_line(error)


def test_index_file_missing_broken_or_pickled(tmp_path):
    with pytest.raises(InputError, match="no such index file"):
        load_indices(tmp_path / "none.json")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, message in (("cut.npy", "damaged, or not a file of numpy"), ("objects.npy", "holds objects of Python")):
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            load_indices(tmp_path / name)


def test_train_val_split_is_stratified_and_exact():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100, generator=order_generator("mix"))]
    train, val = train_val_split(labels, 0.1, seed=0)
    assert torch.bincount(labels[val]).tolist() == [5, 3, 2]
    assert torch.cat([train, val]).sort().values.tolist() == list(range(100)) and val.tolist() == sorted(val.tolist())
    # 7 of 100: shares 3.5, 2.1, 1.4 -> 3 2 1, and the one that is missing to the largest remainder
    assert torch.bincount(labels[train_val_split(labels, 0.07, seed=0)[1]]).tolist() == [4, 2, 1]
    assert not torch.equal(train_val_split(labels, 0.1, seed=1)[1], val)
    train, val = train_val_split(labels, 0.0, seed=0)
    assert len(train) == 100 and val.tolist() == [] and val.dtype == torch.int64


# ---- index files that say of which data set they are


SOURCE = {"dataset": "cifar10", "split": "train", "n": 6}


def test_a_list_and_its_source_beside_it(tmp_path):
    path = tmp_path / "forget.json"
    save_indices(path, torch.tensor([1, 4]), SOURCE)
    assert json.loads(path.read_text()) == [1, 4]  # the format that others read
    assert read_json(tmp_path / "forget.source.json") == {**SOURCE, "sha256": sha256_bytes(b"[1,4]")}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["forget.json", "forget.source.json"]
    assert by_index_file(path, 6, name="cifar10")[0].tolist() == [1, 4]
    save_indices(path, torch.tensor([2]))  # of another origin: the old source does not stay
    assert [p.name for p in tmp_path.iterdir()] == ["forget.json"]
    assert by_index_file(path, 9, name="svhn")[0].tolist() == [2]


def written_list(tmp_path):
    save_indices(tmp_path / "forget.json", torch.tensor([1, 4]), SOURCE)
    return tmp_path / "forget.json"


def written_array(tmp_path):
    np.save(tmp_path / "forget.npy", np.array([4, 1]))
    (tmp_path / "forget.source.json").write_text(json.dumps(SOURCE))
    return tmp_path / "forget.npy"


def written_object(tmp_path):
    (tmp_path / "forget.json").write_text(json.dumps({**SOURCE, "indices": [4, 1]}))
    return tmp_path / "forget.json"


@pytest.mark.parametrize("write", [written_list, written_array, written_object])
def test_indices_of_another_data_set_are_refused(tmp_path, write):
    path = write(tmp_path)
    assert load_indices(path).tolist() == [1, 4]
    forget, remain = by_index_file(path, 6, name="cifar10")
    assert forget.tolist() == [1, 4] and remain.tolist() == [0, 2, 3, 5]
    assert by_index_file(path, 6)[0].tolist() == [1, 4]  # nothing to compare the name with
    for n, name, other in (
        (6, "cifar100", r"cifar100 \(6"),
        (7, "cifar10", r"cifar10 \(7"),
        (7, None, r"a data set \(7"),
    ):
        with pytest.raises(
            InputError, match=rf"forget\..*: indices of cifar10 \(6 examples\), not of {other} examples\)"
        ) as error:
            by_index_file(path, n, name=name)
        assert "forget.index_file" in one_line(error)


def test_an_object_may_leave_out_n_but_not_its_data_set(tmp_path):
    path = tmp_path / "forget.json"
    path.write_text('{"dataset": "cifar10", "indices": [1]}')
    assert by_index_file(path, 9, name="cifar10")[0].tolist() == [1]
    with pytest.raises(InputError, match="indices of cifar10, not of svhn"):
        by_index_file(path, 9, name="svhn")
    path.write_text('{"indices": [1]}')
    with pytest.raises(InputError, match="wanted a list of integers"):
        by_index_file(path, 9, name="cifar10")


@pytest.mark.parametrize("text, message", [("{", "not valid JSON"), ("[1]", "got a list; wanted an object")])
def test_broken_sources_are_refused(tmp_path, text, message):
    path = written_list(tmp_path)
    (tmp_path / "forget.source.json").write_text(text)
    with pytest.raises(InputError, match=rf"forget\.source\.json: {message}") as error:
        by_index_file(path, 6, name="cifar10")
    one_line(error)


# ---- select


def test_select_takes_each_way(tmp_path):
    within, common = torch.tensor([0, 1, 3, 4, 6, 7]), {"classes": 3, "name": "toy", "seed": 5}
    path = tmp_path / "forget.json"
    save_indices(path, torch.tensor([1, 4]), {"dataset": "toy", "n": 10})
    for w in (None, within):
        named = {"classes": 3, "name": "toy", "within": w}
        for given, wanted in (
            ({"label": 0}, by_class(LABELS, 0, **named)),
            ({"count": 3}, by_count(LABELS, 3, 5, **named)),
            ({"count": 2, "label": 1}, by_count(LABELS, 2, 5, label=1, **named)),
            ({"fraction": 0.5}, by_fraction(LABELS, 0.5, 5, **named)),
            ({"fraction": 0.5, "label": 0}, by_fraction(LABELS, 0.5, 5, label=0, **named)),
            ({"index_file": path}, by_index_file(path, 10, w, "toy")),
        ):
            found = select(LABELS, within=w, **common, **given)
            assert all(torch.equal(a, b) for a, b in zip(found, wanted)), given
    with pytest.raises(InputError, match="indices of toy .* not of digits"):
        select(LABELS, 3, "digits", 0, index_file=path)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"count": 3, "fraction": 0.5},
        {"index_file": "x.json", "label": 0},
        {"index_file": "x.json", "count": 1},
        {"index_file": "x.json", "fraction": 0.1},
        {"label": 0, "count": 1, "fraction": 0.1},
    ],
)
def test_select_refuses_all_else(given):
    with pytest.raises(InputError, match="what to forget: got ") as error:
        select(LABELS, 3, "toy", 0, **given)
    message = one_line(error)
    assert all(f"forget.{key}" in message for key in ("label", "count", "fraction", "index_file"))
    got = message.split(";")[0]
    assert {key for key in ("label", "count", "fraction", "index_file") if f"forget.{key}" in got} == set(given)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"label": 7}, "7 is not a class of toy"),
        ({"label": 3}, "class 3 of toy has no examples"),
        ({"count": 0}, r"forget\.count: 0 is not in 1\.\.10"),
        ({"count": 10}, r"forget\.count 10: forgets all 10"),
        ({"count": 5, "label": 0}, r"forget\.count: 5 is not in 1\.\.4, the examples of class 0 of toy"),
        ({"fraction": 0.0}, r"forget\.fraction: 0\.0 is not in"),
        ({"fraction": 0.01}, r"forget\.fraction: 0\.01 of 10"),
        ({"fraction": 1.0}, r"forget\.fraction 1\.0: forgets all 10"),
    ],
)
def test_select_names_the_key(given, message):
    """A label, a count or a fraction of 0 counts as given."""
    with pytest.raises(InputError, match=message) as error:
        select(LABELS, 4, "toy", 0, **given)
    one_line(error)
