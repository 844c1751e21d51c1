"""Checkpoints are whole or absent, keep plain names, and say what is wrong with them."""

import cases
import pytest
import torch
from torch import nn

from functions.errors import InputError
from functions.files import read_json, write_json
from functions.storage import checkpoint


def save(run, step, keep=3, value=1.0):
    weights = {"raw": {"w": torch.full((3,), value)}, "ema": {"w": torch.zeros(3)}}
    return checkpoint.save(run, step, weights, {"positions": [step]}, cases.meta(), keep)


def test_round_trip_and_latest(tmp_path):
    save(tmp_path, 5, value=5.0)
    save(tmp_path, 10, value=10.0)
    assert checkpoint.resolve(tmp_path).name == "step_0000010"
    assert cases.load_meta(tmp_path)["step"] == 10
    assert cases.load_weights(tmp_path, "raw")["w"].tolist() == [10.0] * 3
    assert cases.load_weights(tmp_path / "ckpts" / "step_0000005", "raw")["w"].tolist() == [5.0] * 3
    assert cases.load_weights(tmp_path, "ema")["w"].tolist() == [0.0] * 3
    assert cases.load_state(tmp_path)["positions"] == [10]


def test_a_snapshot_stays_what_it_was_while_the_run_goes_on(tmp_path):
    save(tmp_path, 5, value=5.0)
    snapshot = checkpoint.Snapshot.open(tmp_path)
    weights = snapshot.weights("raw")
    save(tmp_path, 10, value=10.0)
    assert snapshot.meta["step"] == 5 and snapshot.state()["positions"] == [5]
    assert snapshot.weights("raw")["w"].tolist() == [5.0] * 3 and snapshot.indices() is None
    assert snapshot.hash("raw") == checkpoint.sha256_file(tmp_path / "ckpts" / "step_0000005" / "model.safetensors")
    save(tmp_path, 15, keep=1)  # would delete it
    assert weights["w"].tolist() == snapshot.weights("raw")["w"].tolist() == [5.0] * 3
    del snapshot
    save(tmp_path, 20, keep=1)
    assert sorted(p.name for p in (tmp_path / "ckpts").iterdir()) == ["latest", "step_0000020"]


def test_only_the_newest_stay(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in (tmp_path / "ckpts").iterdir()) == ["latest", "step_0000005", "step_0000006"]


def test_wrappers_are_stripped():
    names = checkpoint.plain_names(
        {"module._orig_mod.a.weight": torch.zeros(1), "module.b": torch.zeros(1), "c": torch.zeros(1)}
    )
    assert list(names) == ["a.weight", "b", "c"]


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt"])
def test_a_file_cut_in_half_is_refused(tmp_path, file):
    path = save(tmp_path, 1) / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=f"{file}: damaged"):
        cases.load_state(tmp_path) if file == "state.pt" else cases.load_weights(tmp_path, "raw")


def test_meta_cut_in_half_is_refused(tmp_path):
    path = save(tmp_path, 1) / "meta.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(InputError, match=r"meta\.json: not valid JSON"):
        cases.load_weights(tmp_path, "raw")


def test_a_failed_write_leaves_the_last_good_one(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(
        checkpoint, "write_json", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device", "f"))
    )
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "ckpts").iterdir()) == ["latest", "step_0000001"]
    assert cases.load_weights(tmp_path, "raw")["w"].tolist() == [1.0] * 3


def test_a_kill_between_the_rename_and_latest_is_harmless(tmp_path, capsys):
    save(tmp_path, 1)
    save(tmp_path, 2, value=2.0)
    (tmp_path / "ckpts" / "latest").write_text("step_0000001\n")  # as if killed before the pointer moved
    assert cases.load_meta(tmp_path)["step"] == 2 and capsys.readouterr().err == ""
    save(tmp_path, 2, value=3.0)  # step 2 is written again
    assert cases.load_weights(tmp_path, "raw")["w"].tolist() == [3.0] * 3


def test_missing_folders_and_kinds(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        checkpoint.resolve(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoint.resolve(tmp_path)
    checkpoint.save(tmp_path, 1, {"raw": {"w": torch.zeros(1)}}, {}, cases.meta(), 3)
    with pytest.raises(InputError, match="has no ema weights, only raw"):
        cases.load_weights(tmp_path, "ema")
    assert cases.choose_kind(tmp_path, "auto") == "raw"
    assert cases.choose_kind(tmp_path, "ema") == "ema"


def test_weights_of_another_model_are_named():
    with pytest.raises(InputError, match="2 tensors do not fit the model: other, weight"):
        checkpoint.load_into(nn.Linear(2, 1, bias=False), {"weight": torch.zeros(3), "other": torch.zeros(1)}, "x")


def test_state_with_code_in_it_is_refused(tmp_path):
    class Exploit:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    folder = save(tmp_path, 1)
    torch.save({"positions": Exploit()}, folder / "state.pt")
    meta = read_json(folder / "meta.json")
    meta["files"]["state.pt"] = checkpoint.sha256_file(folder / "state.pt")
    write_json(folder / "meta.json", meta)
    with pytest.raises(InputError, match=r"state\.pt: refused, nothing of it was run: it calls _?io\.open,"):
        cases.load_state(tmp_path)
    assert not (tmp_path / "owned").exists()
