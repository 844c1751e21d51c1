"""The ground that every package stands on: seeds and orders that may never change, files whole or absent."""

import hashlib
import json

import pytest

from functions.errors import InputError
from functions.files import integers_first, natural, read_json, write_json
from functions.randomness import key_seed, keyed_generator, order_generator


def test_seeds_never_change():
    """Masks, splits, orders and samples of runs that are finished hang on them."""
    assert key_seed(0, "forget") == keyed_generator(0, "forget").initial_seed() == 5836187261134310908
    assert order_generator(0, "forget").initial_seed() == 4359952392307599573
    assert order_generator("0", "forget").initial_seed() == 4359952392307599573  # the parts as text
    assert order_generator(3, "remain", 7).initial_seed() == 242376485263283081


def test_two_orders_of_names():
    names = ["img10", "img2", "10", "2", "a"]
    assert sorted(names, key=natural) == ["2", "10", "a", "img2", "img10"]
    assert sorted(names, key=integers_first) == ["2", "10", "a", "img10", "img2"]


def test_json_is_strict_and_whole(tmp_path):
    write_json(tmp_path / "sub" / "list.json", [1, 2], indent=None)
    assert (tmp_path / "sub" / "list.json").read_text() == "[1, 2]\n"
    write_json(tmp_path / "list.json", {"a": [1]})
    seal = hashlib.sha256(b'{"a":[1],"sealed":1}').hexdigest()
    wanted = json.dumps({"a": [1], "sealed": 1, "seal": seal}, indent=2) + "\n"
    assert (tmp_path / "list.json").read_text() == wanted
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "list.json", float("nan"))
    assert read_json(tmp_path / "list.json") == {"a": [1]}
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["list.json"]
    (tmp_path / "cut.json").write_text("[1,")
    for name, message in (("cut", "not valid JSON"), ("none", "no such file")):
        with pytest.raises(InputError, match=rf"{name}\.json: {message}"):
            read_json(tmp_path / f"{name}.json")
