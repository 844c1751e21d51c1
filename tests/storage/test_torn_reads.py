"""A run is read while it goes on: what is read of it belongs to one snapshot, whatever is saved and deleted meanwhile."""

from __future__ import annotations

import importlib
import shutil
import time
from pathlib import Path

import cases
import pytest
import torch
from processes import Process

import convert
from functions.errors import InputError
from functions.files import sha256_file, write_atomic
from functions.judging.logits import read_run
from functions.storage import checkpoint
from functions.storage.checkpoint import Snapshot


def save(run: Path, step: int, keep: int = 1, **more: object) -> Path:
    """A snapshot whose every part says its step."""
    of = lambda n: torch.full((n,), float(step))
    weights, indices = {"raw": {"w": of(9)}, "ema": {"w": of(5)}}, {"remain": torch.full((3,), step)}
    return checkpoint.save(run, step, weights, {"positions": [step]}, cases.meta(**more), keep, indices)


def save_on_and_on(run: str) -> None:
    """Until somebody kills it."""
    torch.set_num_threads(1)
    step = 1
    while True:
        step += 1
        save(Path(run), step)


def test_a_thousand_reads_beside_a_run_that_saves_each_step(tmp_path):
    save(tmp_path, 1)
    writer = Process(save_on_and_on, (str(tmp_path),), tmp_path, "writer", {})
    try:
        while cases.load_meta(tmp_path)["step"] == 1:
            time.sleep(0.01)
        seen = set()
        for _ in range(1000):
            s = Snapshot.open(tmp_path)
            parts = s.state()["positions"] + [int(t[0]) for t in (*s.weights("raw").values(), *s.indices().values())]
            parts += [int(s.weights("ema")["w"][0]), s.meta["step"]]
            assert len(set(parts)) == 1 and s.hash("raw") == sha256_file(s.path / "model.safetensors"), parts
            seen.add(parts[0])
        assert writer.alive() and len(seen) > 10
    finally:
        writer.kill()
        writer.wait()


def test_a_judged_run_is_that_of_one_moment(tmp_path):
    save(tmp_path, 1, cost={"seconds": 1.0, "forward": 1, "backward": 1})
    run = read_run(tmp_path)
    save(tmp_path, 2)
    assert run.sha256 == sha256_file(run.snapshot.path / "ema.safetensors")
    assert int(run.indices["remain"][0]) == run.meta["step"] == int(run.snapshot.weights(run.kind)["w"][0]) == 1


def test_an_export_is_of_one_snapshot(originals, tmp_path, monkeypatch):
    run, step = shutil.copytree(originals["ddpm"].run, tmp_path / "run"), [4]

    def go_on():
        source = run / "ckpts" / f"step_{step[0]:07d}"
        step[0] += 1
        meta = {k: v for k, v in checkpoint.read_meta(source / "meta.json").items() if k not in ("step", "files")}
        with monkeypatch.context() as quiet:
            quiet.setattr(Snapshot, "weights", weights)
            wrong = {"raw": {n: t + 1 for n, t in Snapshot.open(source).weights("raw").items()}}
        checkpoint.save(run, step[0], wrong, {"optimizers": []}, meta, 3)

    weights = Snapshot.weights
    monkeypatch.setattr(Snapshot, "weights", lambda self, kind: go_on() or weights(self, kind))
    right = checkpoint.Snapshot.open(run)
    wanted = weights(right, "raw")
    out = convert.main([str(run), "--export", "ddim", "--out", "theirs.pth"])
    raw, _, at, ema = torch.load(out, weights_only=True)
    assert step[0] > 5 and at == 3 and all(torch.equal(raw[f"module.{n}"], t) for n, t in wanted.items())
    assert all(torch.equal(ema[n], t) for n, t in weights(right, "ema").items())


# ---- which snapshot is the newest


@pytest.mark.parametrize(
    "latest, says",
    [
        (None, "is missing or damaged"),
        (b"", "is missing or damaged"),
        (b"\xff\xfe", "is missing or damaged"),
        (b"step_0000007\n", "names step_0000007, which is not there"),
        (b"../../elsewhere", "is missing or damaged"),
    ],
)
def test_the_newest_whole_snapshot_is_used_and_a_line_says_so(tmp_path, capsys, latest, says):
    for step in (2, 4, 10_000_000, 9_999_999):
        save(tmp_path, step, keep=9)
    path = tmp_path / "ckpts" / "latest"
    path.unlink()
    if latest is not None:
        path.write_bytes(latest)
    for _ in range(2):
        assert cases.load_meta(tmp_path)["step"] == 10_000_000
    assert capsys.readouterr().err == f"{path}: {says}: using the newest snapshot, step_10000000\n"


def test_the_oldest_goes_first_whatever_its_number_of_digits(tmp_path):
    for step in (9_999_998, 9_999_999, 10_000_000):
        save(tmp_path, step, keep=2)
    left = sorted(p.name for p in (tmp_path / "ckpts").glob("step_*"))
    assert left == ["step_10000000", "step_9999999"]


def test_a_damaged_newest_snapshot_is_named_with_the_one_before_it(tmp_path):
    older, newer = save(tmp_path, 2, keep=9), save(tmp_path, 4, keep=9)
    remedy = f"; {older} is older and whole: name that one, or move step_0000004 away"
    meta = (newer / "meta.json").read_text()
    (newer / "meta.json").write_text(meta.replace('"step": 4', '"step": 2'))
    with pytest.raises(InputError, match="meta.json: damaged, or edited by hand") as error:
        Snapshot.open(tmp_path)
    assert str(error.value).endswith(remedy)
    (newer / "meta.json").write_text(meta)
    (newer / "state.pt").unlink()
    with pytest.raises(InputError, match="state.pt: missing from the checkpoint") as error:
        cases.load_state(tmp_path)
    assert str(error.value).endswith(remedy) and cases.load_meta(older)["step"] == 2


def test_a_run_is_never_begun_again_over_its_snapshots(originals, tmp_path):
    """Today's last step is the one it had: nothing is left to do, and nothing is done."""
    run = shutil.copytree(originals["classifier"].run, tmp_path / "run")
    (run / "ckpts" / "latest").unlink()
    before = cases.weights(run)
    assert cases.pretrain("classifier", "--resume", str(run)) == run
    assert "resuming" in (said := (run / "logs" / "stdout.txt").read_text()) and "at step 4" in said
    assert cases.same(cases.weights(run), before)
    for meta in run.glob("ckpts/*/meta.json"):
        meta.unlink()
    with pytest.raises(InputError, match="holds no checkpoint"):
        cases.pretrain("classifier", "--resume", str(run))


# ---- who reads a snapshot keeps it


def test_a_snapshot_that_is_read_stays_until_it_is_let_go(tmp_path):
    save(tmp_path, 1)
    first = Snapshot.open(tmp_path)
    save(tmp_path, 2)
    assert int(first.weights("raw")["w"][0]) == 1
    del first
    (tmp_path / "ckpts" / ".step_0000001.partial").mkdir()  # left by a kill
    save(tmp_path, 3)
    assert sorted(p.name for p in (tmp_path / "ckpts").iterdir()) == ["latest", "step_0000003"]


def test_a_snapshot_deleted_just_now_is_the_next_one(tmp_path, monkeypatch):
    save(tmp_path, 1)
    steps = iter(range(2, 4))
    on = checkpoint.Pin.on
    go_on = lambda: (step := next(steps, None)) and save(tmp_path, step)
    monkeypatch.setattr(checkpoint.Pin, "on", lambda path: (go_on() and None) or on(path))
    assert Snapshot.open(tmp_path).meta["step"] == 3


# ---- artifacts that are written anew while they are read


@pytest.mark.parametrize(
    "mode, reader", [("sfron", "runners.snapshots.read_mask"), ("sa", "runners.methods.sa.load_fisher")]
)
def test_a_mask_or_fisher_that_is_written_anew_meanwhile_is_refused(originals, monkeypatch, mode, reader):
    toy = originals["ddpm"]
    path, of = (toy.mask, ["--mask_path", str(toy.mask)]) if mode == "sfron" else (toy.replay_fisher, [])
    module, name = reader.rsplit(".", 1)
    read = getattr(importlib.import_module(module), name)

    def anew(path, *more):
        found = read(path, *more)
        write_atomic(path, Path(path).read_bytes())
        return found

    monkeypatch.setattr(reader, anew)
    with pytest.raises(InputError, match=f"{path}: was written anew while it was read"):
        cases.unlearn("ddpm", mode, toy.run, *of)
