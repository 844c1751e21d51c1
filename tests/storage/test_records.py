"""JSON is strict, and what it says is checked by a schema: one line with file and key, whatever is in it."""

from __future__ import annotations

import json
import os
import time

import cases
import pytest
import torch

import models
from functions.errors import InputError
from functions.files import LARGEST_JSON, read_json, sealed, sha256_bytes, stream_atomic, write_json
from functions.judging.classifier import read_judge
from functions.judging.contract import Reference
from functions.judging.metrics_file import read_section
from functions.sampling.contract import Generation
from functions.storage import checkpoint
from functions.storage.artifacts import load_mask, load_tensors, save_mask, save_tensors
from functions.storage.cache import load_cached, save_cached
from functions.storage.checkpoint import Snapshot
from functions.storage.contract import contract, read_contract
from functions.storage.meta import read_meta
from functions.storage.run import read_stats
from functions.storage.tensors import write_tensors

# ---- JSON


@pytest.mark.parametrize(
    "text, says",
    [
        (b'\xff{"a": 1}', "not valid JSON (not UTF-8: invalid start byte at byte 0)"),
        (b"\xef\xbb\xbf{}", "not valid JSON (Unexpected UTF-8 BOM"),
        (b'{"a": NaN}', "not valid JSON (NaN is no number in JSON)"),
        (b'{"a": -Infinity}', "not valid JSON (-Infinity is no number in JSON)"),
        (b'{"a": 1e999}', "not valid JSON (1e999 is beyond what a float64 can hold)"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON (Exceeds the limit (4300 digits)"),
        (b"[" * 100_000, "nested more than 64 levels deep"),
        (b"[" * 70 + b"]" * 70, "nested more than 64 levels deep"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested more than 64 levels deep"),
        (b'{\n"a": 1,\n"b": {"c": 1,\n\t"c": 2}}', "key 'c' stands twice in one object (lines 3 and 4)"),
        (b'{"a": 1, "a": 1}', "key 'a' stands twice in one object (lines 1 and 1)"),
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
    ],
    ids=range(13),
)
def test_what_is_no_strict_json_is_one_line(tmp_path, text, says):
    path = tmp_path / "f.json"
    path.write_bytes(text)
    with pytest.raises(InputError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: {says}") and "\n" not in str(error.value)


def test_folders_pipes_and_giants_are_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "giant", "wb") as file:
        file.truncate(10**12)
    lines = {
        "": "a folder, wanted a file",
        "pipe": "a pipe or device, wanted a file",
        "giant": f"1,000,000,000,000 bytes; wanted JSON of at most {LARGEST_JSON:,}",
        "none": "no such file",
        "giant/below": "no such file",
        "nul\0": "no name of a file",
    }
    start = time.perf_counter()
    for name, says in lines.items():
        with pytest.raises(InputError, match=f": {says}"):
            read_json(tmp_path / name)
    assert time.perf_counter() - start < 1


def test_a_seal_tells_an_edit_from_a_file_that_never_had_one(tmp_path, capsys):
    path = tmp_path / "meta.json"
    content = cases.meta(step=6, files={})
    write_json(path, content)
    assert read_meta(path) == content and capsys.readouterr().err == ""
    text = path.read_text()
    for old, new in (
        ('"step": 6', '"step": 4'),
        ('"seal"', '"seam"'),
        ('"sealed"', '"healed"'),
        ('led": 1', 'led": 2'),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=r"meta\.json: damaged, or edited by hand"):
            read_meta(path)
    path.write_text(json.dumps(content))
    assert read_meta(path) == content and read_meta(path) == content
    assert capsys.readouterr().err == f"{path}: of an older version, without a seal: damage would not be noticed\n"
    path.write_text(
        json.dumps(sealed(content), indent=7, sort_keys=True)
    )  # other spaces and another order say the same
    assert read_meta(path) == content


# ---- schemas


def without(key: str) -> dict:
    return {k: v for k, v in cases.meta(step=1, files={}).items() if k != key}


def model(name: str, **kwargs: object) -> dict:
    base = {"cnn": cases.meta()["model"]["kwargs"], "unet": UNET}[name]
    return {"name": name, "kwargs": {**base, **kwargs}}


UNET = {"ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "image_size": 8, "in_channels": 1}
UNET |= {"out_ch": 1, "n_classes": 10}


@pytest.mark.parametrize(
    "more, says",
    [
        ({"step": -1}, "step: got -1; wanted greater than or equal to 0"),
        ({"step": "6"}, "step: got '6'; wanted a valid integer"),
        ({"step": 10**30}, "step: got an integer beyond 10"),
        ({"files": {"model.safetensors": "x"}}, "files.model.safetensors: got 'x'"),
        ({"files": {"../../state.pt": "0" * 64}}, "files.*: got '../../state.pt'"),
        ({"world": []}, "world: got a list; wanted a valid string"),
        ({"data": 3}, "data: got 3; wanted an object"),
        ({"data": {**cases.meta()["data"], "shape": [1, 8]}}, "data.shape: got a list"),
        ({"data": {**cases.meta()["data"], "shape": [1, 10**6, 8]}}, "data.shape.1: got 1000000"),
        ({"cost": {"seconds": "1", "forward": 0, "backward": 0}}, "cost.seconds: got '1'"),
        ({"diffusion": {"timesteps": 0}}, "diffusion.timesteps: got 0"),
        ({"model": {"name": "cnn"}}, "model.kwargs: missing"),
        ({"model": model("cnn", width=2**30)}, "model.kwargs: width: got 1073741824"),
        ({"model": model("cnn", evil=1)}, "model.kwargs: evil: unknown key"),
        ({"model": model("unet", num_res_blocks=10**6)}, "model.kwargs: num_res_blocks: got 1000000"),
        ({"model": model("unet", ch_mult=[1] * 17)}, "model.kwargs: ch_mult: got a list"),
        ({"config": {}}, "config.data: missing"),
        ({"forgotten_before": [{"label": 1}]}, "forgotten_before.0.dataset: missing"),
    ],
)
def test_a_meta_that_says_what_cannot_be_is_one_line(tmp_path, more, says):
    path = tmp_path / "meta.json"
    write_json(path, cases.meta(**{"step": 1, "files": {}, **more}))
    with pytest.raises(InputError, match=rf"meta\.json: {says}") as error:
        Snapshot.open(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("key", ["world", "model", "encoder", "data", "config", "step", "files"])
def test_a_meta_that_lacks_what_is_read_of_it_names_the_key(tmp_path, key):
    write_json(tmp_path / "meta.json", without(key))
    with pytest.raises(InputError, match=rf"meta\.json: {key}: missing"):
        Snapshot.open(tmp_path)


def test_older_metas_are_read(tmp_path):
    write_json(tmp_path / "meta.json", cases.meta(step=1, files={}, unknown_to_us=[1]))
    assert Snapshot.open(tmp_path).meta["unknown_to_us"] == [1]


DRAWN = {"seed": 0, "weights": "ema", "checkpoint": "0" * 64, "classes": [0]}


@pytest.mark.parametrize(
    "schema, record, says",
    [
        (Generation, {**DRAWN, "classes": "all"}, "record.classes: got 'all'"),
        (Generation, {"seed": "0"}, "record.seed: got '0'"),
        (Reference, {"label": None, "n": 1}, "record.label"),
        (Reference, {"label": 1}, "record.n: missing"),
    ],
)
def test_a_contract_that_lacks_what_is_read_of_it_is_one_line(tmp_path, schema, record, says):
    path = tmp_path / "f.json"
    write_json(path, contract({"steps": 5}, record))
    with pytest.raises(InputError, match=rf"f\.json: {says}.*; again$"):
        read_contract(path, "again", schema)
    for content in ([], {}, {"hash": 1, "protocol": {}, "record": {}}):
        write_json(path, content)
        with pytest.raises(InputError, match=r"f\.json: .*; again$"):
            read_contract(path, "again", schema)


def test_sections_without_their_contract_are_named(tmp_path):
    path = tmp_path / "metrics.json"
    for content in ({}, {"evaluator": 3}, {"evaluator": {"fid": 1.0}}):
        write_json(path, content)
        with pytest.raises(InputError, match="evaluator: no such section, or one without its contract"):
            read_section(path, "evaluator")


def test_a_judge_without_a_key_or_with_a_wrong_one_is_named(tmp_path):
    path = tmp_path / "j.pth"
    path.write_bytes(b"")
    record = {"dataset": "digits", "arch": "cnn", "model": cases.meta()["model"], "classes": ["0"], "shape": [1, 8, 8]}
    record |= {"preprocessing": "", "test_accuracy": 0.5, "n_test": 10, "sha256": "0" * 64}
    write_json(tmp_path / "j.json", record)
    assert read_judge(path) == record
    for more, says in (({"shape": 3}, "shape"), ({"model": model("cnn", width=-1)}, "model.kwargs: width")):
        write_json(tmp_path / "j.json", {**record, **more})
        with pytest.raises(InputError, match=rf"j\.json: {says}: got"):
            read_judge(path)


# ---- provenance, and shapes that are only text


def test_shapes_must_fit_the_bits(tmp_path):
    path, made = tmp_path / "m.safetensors", {"checkpoint": "c", "forget": {"dataset": "digits", "label": 0}}
    save_mask(path, {"w": torch.ones(3, 5, dtype=torch.bool), "b": torch.ones((), dtype=torch.bool)}, made)
    assert int(load_mask(path, None, None)["w"].sum()) == 15
    packed, found = load_tensors(path)
    for shape in ([10**12, 10**12], [3, 6], [15, 2], []):
        save_tensors(path, packed, {**found, "shapes": {**found["shapes"], "w": shape}})
        with pytest.raises(InputError, match=r"m\.safetensors: w: torch\.uint8 of shape \(2,\), wanted \d+ bytes"):
            load_mask(path, None, None)
    for shapes, says in (({"w": [3, 5]}, "b: has no shape"), ({**found["shapes"], "v": [1]}, "v: has no bits")):
        save_tensors(path, packed, {**found, "shapes": shapes})
        with pytest.raises(InputError, match=says):
            load_mask(path, None, None)


@pytest.mark.parametrize(
    "made, says",
    [
        ({"shapes": {"w": 3}, "checkpoint": None, "forget": {"dataset": "d", "label": 0}}, "shapes.w: got 3"),
        ({"shapes": {}}, "checkpoint: missing"),
        ({"shapes": {}, "checkpoint": "c", "forget": []}, "forget: got a list"),
        ({"shapes": {}, "n": -1}, "n: got -1"),
        ([], "got a list; wanted an object"),
    ],
)
def test_provenance_that_says_what_cannot_be_is_one_line(tmp_path, made, says):
    save_tensors(tmp_path / "m.safetensors", {}, made)
    with pytest.raises(InputError, match=rf"m\.safetensors: provenance: {says}"):
        load_mask(tmp_path / "m.safetensors", None, None)


def test_an_artifact_of_an_older_version_is_read_and_a_line_says_so(tmp_path, capsys):
    path, made = tmp_path / "m.safetensors", {"checkpoint": "c", "forget": {"dataset": "digits", "label": 0}}
    with stream_atomic(path) as file:
        write_tensors(file, {"w": torch.ones(3)}, {"provenance": json.dumps(made)})
    assert load_tensors(path)[1] == load_tensors(path)[1] == made
    assert capsys.readouterr().err == f"{path}: of an older version, without a seal: damage would not be noticed\n"
    with stream_atomic(path) as file:
        write_tensors(file, {"w": torch.ones(3)}, {"key": "k"})
    assert load_cached(path, "k") is None  # what can be computed is
    save_cached(path, "k", {"w": torch.ones(3)})
    assert load_cached(path, "k")["w"].tolist() == [1.0] * 3 and load_cached(path, "other") is None


def test_a_seal_is_of_the_whole_file(tmp_path):
    path = tmp_path / "m.safetensors"
    save_tensors(path, {'"seal":"': torch.ones(3)}, {"seal": '"seal":"', "n": 1})
    data = path.read_bytes()
    at = data.index(b'"seal":"') + 8
    assert data[at : at + 64] == sha256_bytes(data[:at] + b"0" * 64 + data[at + 64 :]).encode()
    assert load_tensors(path)[0].keys() == {'"seal":"'} and load_tensors(path)[1]["seal"] == '"seal":"'
    path.write_bytes(data.replace(b'"seal":"' + data[at : at + 64], b'"sorl":"' + data[at : at + 64]))
    with pytest.raises(InputError, match=r"m\.safetensors: damaged: it has lost its seal"):
        load_tensors(path)


# ---- the log of a run


def test_a_log_is_read_but_for_a_half_written_end(tmp_path):
    path = tmp_path / "stats.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n{"step": 3, "lo')
    assert read_stats(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    for line, says in (("3", "got 3; wanted an object"), ('{"loss": 1}', "step: missing"), ("{", "not valid JSON")):
        path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
        with pytest.raises(InputError, match=rf"stats\.jsonl: line 2: {says}"):
            read_stats(path)


# ---- what JSON can ask for


def test_a_model_larger_than_its_weights_is_refused_before_it_takes_memory(tmp_path):
    small = {"raw": {"w": torch.zeros(3)}}
    for name, kwargs in (("cnn", {"width": 2**16}), ("unet", {"ch": 2**16, "num_res_blocks": 200})):
        run = tmp_path / name
        checkpoint.save(run, 1, small, {}, cases.meta(model=model(name, **kwargs)), 1)
        start = time.perf_counter()
        with pytest.raises(InputError, match=r"meta\.json: model: describes more than [\d,]+ numbers"):
            Snapshot.open(run).model("raw", models.build)
        assert time.perf_counter() - start < 2


@pytest.mark.parametrize("name", ["unet", "cnn", "torchvision", "timm"])
def test_the_bound_changes_no_bit_of_a_new_model(name):
    library = {"n_classes": 10, "in_channels": 3, "resize": None}
    kwargs = {
        "unet": UNET,
        "cnn": cases.meta()["model"]["kwargs"],
        "torchvision": {"arch": "resnet18", **library},
        "timm": {"arch": "vit_tiny_patch16_224", **library, "options": {"depth": 1, "img_size": 32}},
    }[name]
    torch.manual_seed(0)
    plain = models.MODELS[name](**kwargs).state_dict()
    after = torch.rand(3)
    torch.manual_seed(0)
    bounded = models.build({"name": name, "kwargs": kwargs}).state_dict()
    assert cases.same(plain, bounded) and torch.equal(torch.rand(3), after)
