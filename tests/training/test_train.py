"""The loop: resume to the same bits, kills, NaN, bad input, what is written where."""

import datetime
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cases
import pytest
import torch
from processes import Process

import datasets
import train
from datasets.split import load_indices
from functions.errors import InputError
from functions.storage import checkpoint
from functions.storage.run import RunFolder

ROOT = Path(__file__).resolve().parents[2]


def command(world: str, n_iters: int) -> list[str]:
    return [
        "--mode",
        "pretrain",
        "--config",
        *cases.WORLDS[world]["pretrain"],
        *cases.TOY,
        "--set",
        f"training.n_iters={n_iters}",
        "--set",
        "optim.lr_schedule=constant",
        "--set",
        "training.ema=true",
        "--set",
        "data.crop=1",
        "--set",
        "data.flip=true",
    ]


@pytest.mark.parametrize("world", list(cases.WORLDS))
def test_resume_is_bit_exact(world):
    """2 steps + resume to 6 = 6 steps in one go: weights, EMA, optimiser state and logged losses."""
    whole = train.main(command(world, 6))
    part = train.main(command(world, 2))
    # as if killed after step 3 was logged, in the middle of a line
    with open(part / "logs" / "stats.jsonl", "a") as file:
        file.write('{"step": 3, "loss": 0.0}\n{"step": 4, "lo')
    assert train.main([*command(world, 6), "--resume", str(part)]) == part
    assert cases.same(cases.weights(whole), cases.weights(part))
    assert cases.same(cases.weights(whole, "ema"), cases.weights(part, "ema"))
    assert cases.stats(whole) == cases.stats(part)
    a, b = cases.load_state(whole), cases.load_state(part)
    assert a["positions"] == b["positions"] and a["n_averaged"] == b["n_averaged"]
    for p, q in zip(a["optimizers"][0]["state"].values(), b["optimizers"][0]["state"].values()):
        assert all(torch.equal(torch.as_tensor(p[k]), torch.as_tensor(q[k])) for k in p)


def test_resume_of_unlearning_with_separate_optimisers(originals):
    original = originals["ddpm"].run
    more = ["--set", "training.snapshot_freq=1", "--set", "unlearn.optimizer_state=separate"]
    whole = cases.unlearn("ddpm", "sfron", original, *more)
    copy = shutil.copytree(whole, whole.parent / "copy")
    for step in (3, 4):
        shutil.rmtree(copy / "ckpts" / f"step_{step:07d}")
    (copy / "ckpts" / "latest").write_text("step_0000002\n")
    cases.unlearn("ddpm", "sfron", original, *more, "--resume", str(copy))
    assert cases.same(cases.weights(whole), cases.weights(copy))
    assert cases.stats(whole) == cases.stats(copy)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_equals_never_killed(tmp_path, kills):
    """kill -9 in a real process, resume, again: the same final weights, bit for bit."""
    argv = [*command("ddpm", 12 * kills), "--set", "training.snapshot_freq=3"]
    whole = train.main(argv)
    chance, killed, run = random.Random(0), 0, None
    base = [*argv, "--set", "results=killed"]
    while True:
        words = [*base, *(["--resume", str(run)] if run else [])]
        process = Process(with_threads, (torch.get_num_threads(), words), tmp_path, f"process_{killed}", {})
        if killed == kills:
            break
        start = None if run is None else newest(run)
        while run is None or not (run / "logs" / "stats.jsonl").exists() or newest(run) == start:
            run = run or next(iter(tmp_path.glob("killed/digits/pretrain/[0-9]*")), None)  # not one in the making
            assert process.alive(), process.wait().stderr
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.06))
        process.kill()
        assert process.wait().returncode == -signal.SIGKILL, "finished before it could be killed"
        killed += 1
    done = process.wait()
    assert done.returncode == 0, done.stderr
    assert cases.same(cases.weights(whole), cases.weights(run))
    assert cases.stats(whole) == cases.stats(run)


def with_threads(n: int, words: list[str]) -> None:
    """The same bits belong to the same number of threads."""
    torch.set_num_threads(n)
    train.main(words)


def newest(run: Path) -> str:
    latest = run / "ckpts" / "latest"
    return latest.read_text() if latest.exists() else ""


def test_resume_refuses_another_method_source_or_mask(originals):
    made = originals["ddpm"].mask
    original = Path(shutil.copytree(originals["ddpm"].run, "original"))
    run = cases.unlearn("ddpm", "finetune", original)
    with pytest.raises(InputError, match="began with another mode: finetune, this command has ga"):
        cases.unlearn("ddpm", "ga", original, "--resume", str(run))
    masked = cases.unlearn("ddpm", "sfron", original, "--mask_path", f"{original}/mask_0/{made.name}")
    cases.generate_fisher_mask.main(["--ckpt_folder", f"{original}/mask_0", "--threshold", "2.0"])
    os.replace(f"{original}/mask_0/fisher_2.0.safetensors", f"{original}/mask_0/fisher_1.0.safetensors")
    mask = ["--mask_path", f"{original}/mask_0/fisher_1.0.safetensors"]
    with pytest.raises(InputError, match="began with another mask"):
        cases.unlearn("ddpm", "sfron", original, *mask, "--resume", str(masked))
    pretrain = ["--mode", "pretrain", "--config", *cases.WORLDS["ddpm"]["pretrain"], *cases.TOY]
    constant = train.main([*pretrain, "--set", "optim.lr_schedule=constant"])
    unlearned = cases.unlearn("ddpm", "finetune", constant)
    longer = ["--set", "optim.lr_schedule=constant", "--set", "training.n_iters=6"]
    train.main([*pretrain, *longer, "--resume", str(constant)])
    with pytest.raises(InputError, match="began with another source"):
        cases.unlearn("ddpm", "finetune", constant, "--resume", str(unlearned))


def test_a_schedule_that_ends_with_the_run_fixes_its_length(originals):
    run = shutil.copytree(originals["ddpm"].run, "run")  # cosine learning rate
    with pytest.raises(InputError, match="began with another config"):
        cases.pretrain("ddpm", "--set", "training.n_iters=6", "--resume", str(run))
    constant = train.main(command("ddpm", 4))
    with pytest.raises(InputError, match=r"is at step 4, past training\.n_iters 2"):
        train.main([*command("ddpm", 2), "--resume", str(constant)])


def test_resume_refuses_another_config_and_other_folders(tmp_path):
    run = train.main(command("ddpm", 2))
    with pytest.raises(InputError, match="began with another config"):
        train.main([*command("ddpm", 4), "--set", "optim.lr=0.5", "--resume", str(run)])
    with pytest.raises(InputError, match="not a run folder"):
        train.main([*command("ddpm", 4), "--resume", str(tmp_path)])


def test_what_a_run_writes():
    run = cases.pretrain("ddpm", "--set", "training.preview=1")
    assert (run.parent, len(run.name)) == (Path("results/digits/pretrain"), len("2026_01_31_235959"))
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    step = {
        f"ckpts/step_{s:07d}/{f}"
        for s in (2, 4)
        for f in ("model.safetensors", "ema.safetensors", "indices.safetensors", "state.pt", "meta.json")
    }
    previews = {f"previews/step_{s:07d}.png" for s in (2, 4)}
    assert files == step | previews | {
        "ckpts/latest",
        "logs/config.yml",
        "logs/origin.json",
        "logs/stdout.txt",
        "logs/stats.jsonl",
    }
    meta = cases.load_meta(run)
    assert len(meta["data"].pop("content")) == 64 and meta["data"].pop("n") == 1500
    assert meta["data"] == {
        "dataset": "digits",
        "n_classes": 10,
        "shape": [1, 8, 8],
        "classes": [str(i) for i in range(10)],
    }


def test_unlearning_folders_and_provenance(originals):
    run = originals["ddpm"].run
    forgot = cases.unlearn("ddpm", "sfron", run, label=3)
    assert forgot.parent == Path("results/digits/forget_3/sfron")
    labels = datasets.load("digits").labels
    indices = load_indices(forgot / "logs" / "forget_indices.json")
    assert torch.equal(indices, (labels == 3).nonzero().flatten())
    meta = cases.load_meta(forgot)
    assert meta["forget"] == {"label": 3, "count": None, "fraction": None, "index_file": None}
    assert meta["source"] == cases.weights_hash(run, "ema")


def test_two_runs_in_one_second(tmp_path, monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("functions.storage.run.datetime.datetime", Clock)
    names = [RunFolder.create(tmp_path, "a: 1", {}).path.name for _ in range(3)]
    assert names == ["2026_01_02_030405", "2026_01_02_030405_1", "2026_01_02_030405_2"]


def test_nan_stops_says_when_and_keeps_the_last_good_checkpoint(monkeypatch):
    from runners.methods.pretrain import Pretrain

    step = Pretrain.step

    def broken(self, k):
        stats = step(self, k)
        return {"loss": stats["loss"] * float("nan")} if k == 3 else stats

    monkeypatch.setattr(Pretrain, "step", broken)
    sets = ["--set", "training.n_iters=8", "--set", "training.log_freq=100", "--set", "training.snapshot_freq=3"]
    with pytest.raises(InputError, match=r"NaN or infinite at step 4; the last good checkpoint is \S+step_0000003"):
        cases.pretrain("ddpm", *sets)
    folder = next(Path("results/digits/pretrain").iterdir())
    assert cases.load_meta(folder)["step"] == 3
    assert all(torch.isfinite(w).all() for w in cases.weights(folder).values())
    assert "NaN or infinite" in (folder / "logs" / "stdout.txt").read_text()


def test_a_step_that_ruins_the_weights_is_not_saved(originals):
    """The loss of the last step was finite, the weights after it are not."""
    original = originals["classifier"].run
    with pytest.raises(InputError, match=r"NaN\b.*at step 1\b.*; no checkpoint had been written"):
        cases.unlearn(
            "classifier",
            "ga",
            original,
            "--forget_alpha",
            "1e12",
            "--set",
            "unlearn.forget_clip=null",
            "--set",
            "optim.lr=1e30",
            "--set",
            "training.n_iters=1",
        )
    (folder,) = Path("results/digits/forget_0/ga").iterdir()
    assert not list(folder.glob("ckpts/*"))


def test_ema_begins_as_a_copy_and_moves_by_its_rate():
    """torch's AveragedModel copies on its first update: after 1 step EMA = raw, after 2 it is rate EMA + (1 - rate) raw."""
    sets = ["--set", "training.snapshot_freq=1", "--set", "training.ema_rate=0.75", "--set", "training.n_iters=2"]
    run = cases.pretrain("ddpm", *sets)
    first, second = run / "ckpts" / "step_0000001", run / "ckpts" / "step_0000002"
    assert cases.same(cases.weights(first), cases.weights(first, "ema"))
    for n, raw in cases.weights(second).items():
        wanted = 0.75 * cases.weights(first)[n] + 0.25 * raw
        torch.testing.assert_close(cases.weights(second, "ema")[n], wanted, rtol=1e-5, atol=1e-7)


def test_cosine_learning_rate_reaches_both_optimisers(monkeypatch, originals):
    import runners.base

    run, rates = originals["ddpm"].run, []
    original = runners.base.Runner._log

    def spy(self, *args):
        rates.append([g["lr"] for o in self.optimizers for g in o.param_groups])
        original(self, *args)

    monkeypatch.setattr(runners.base.Runner, "_log", spy)
    cases.unlearn(
        "ddpm",
        "sfron",
        run,
        "--set",
        "optim.lr=4.0",
        "--set",
        "training.n_iters=2",
        "--set",
        "unlearn.forget_alpha=0.0",
    )
    assert rates == [[4.0, 4.0], [2.0, 2.0]]


def test_dry_run_touches_nothing(tmp_path, capsys):
    train.main([*command("ddpm", 2), "--dry_run"])
    out = capsys.readouterr().out
    assert "trainable weights:" in out and "n_iters: 2" in out and "would write: results/digits/pretrain" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "more, line",
    [
        (["--label_to_forget", "10"], "label_to_forget: 10 is not a class of digits, which has 10 classes"),
        (["--label_to_forget", "0", "--ckpt_folder", "nowhere"], "nowhere: no such folder"),
        (
            [
                "--label_to_forget",
                "0",
                "--set",
                "init_weights=raw",
                "--set",
                "model.name=unet",
                "--set",
                "model.ch=16",
                "--set",
                "model.ch_mult=[1,2]",
                "--set",
                "model.num_res_blocks=1",
                "--set",
                "model.attn_resolutions=[4]",
            ],
            "model: the checkpoint has .*'ch': 8",
        ),
        (["--label_to_forget", "0", "--set", "diffusion.timesteps=500"], "diffusion: the checkpoint has"),
        (["--label_to_forget", "0", "--mask_path", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, originals, more, line):
    run = shutil.copytree(originals["ddpm"].run, "run")
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=line) as caught:
        cases.train.main(["--mode", "sfron", "--config", "digits_sfron.yml", "--ckpt_folder", str(run), *more])
    assert isinstance(caught.value, InputError) and "\n" not in str(caught.value)
    assert sorted(p for p in tmp_path.rglob("*")) == before


def script(*argv: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, cwd=ROOT, **kwargs)


def test_a_real_process_fails_with_one_line_and_exit_code_2(tmp_path):
    done = script("train.py", "--config", "digits_pretrain.yml", "--mode", "pretrain", "--set", "training.n_iter=5")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("train.py: --set training.n_iter=5: training.n_iter: unknown key")
    debug = script(
        "train.py", "--config", "digits_pretrain.yml", "--mode", "pretrain", "--set", "training.n_iter=5", "--debug"
    )
    assert "Traceback" in debug.stderr and debug.returncode != 0


def test_results_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = script(
        "train.py", "--config", "digits_pretrain.yml", "--mode", "pretrain", "--set", f"results={tmp_path}/file/results"
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "file is a file, wanted a folder" in done.stderr


def test_a_full_disk_is_one_line_and_keeps_the_last_good_checkpoint(monkeypatch):
    writes = []
    original = checkpoint.write_tensors

    def full(file, tensors):
        writes.append(file)
        if len(writes) > 4:  # raw, EMA and indices of the first snapshot, raw of the second
            raise OSError(28, "No space left on device")
        original(file, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(OSError, match="No space left on device"):
        cases.pretrain("ddpm")
    run = next(Path("results/digits/pretrain").iterdir())
    assert cases.load_meta(run)["step"] == 2
    assert cases.weights(run)


def test_data_parallel_only_where_several_devices_are(monkeypatch):
    from functions.training.distributed import parallel

    model = torch.nn.Linear(2, 2)
    assert parallel(model, torch.device("cpu")) is model
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert parallel(model, torch.device("cpu")) is model
    assert parallel(model, torch.device("cuda:0")) is model
    monkeypatch.setattr(torch.nn, "DataParallel", lambda m: ("parallel", m))
    assert parallel(model, torch.device("cuda")) == ("parallel", model)


def test_names_in_files_are_the_plain_models_under_data_parallel(monkeypatch):
    """Without a GPU DataParallel calls the module itself: same numbers, and no `module.` in any file."""
    plain = train.main(command("ddpm", 2))
    monkeypatch.setattr("functions.training.forward.parallel", lambda model, *_: torch.nn.DataParallel(model))
    wrapped = train.main(command("ddpm", 2))
    for kind in ("raw", "ema"):
        assert cases.same(cases.weights(plain, kind), cases.weights(wrapped, kind))
    assert train.main([*command("ddpm", 4), "--resume", str(wrapped)]) == wrapped


def test_dropout_can_be_switched_off_while_unlearning(originals):
    original = originals["ddpm"].run
    off = ["--set", "unlearn.dropout=false", "--set", "training.log_freq=1"]
    assert cases.stats(cases.unlearn("ddpm", "ga", original, *off)) != cases.stats(
        cases.unlearn("ddpm", "ga", original)
    )
    cases.unlearn("classifier", "ga", originals["classifier"].run, *off)  # a model without dropout


def test_the_shipped_classifier_config_logs_its_forget_loss(originals):
    """Forget steps every fifth step and a log line every tenth have to meet."""
    original = originals["classifier"].run
    argv = [
        "--mode",
        "sfron",
        "--config",
        "digits_classifier.yml",
        *cases.from_run(original, 0),
        "--set",
        "training.n_iters=20",
    ]
    assert all("forget" in line for line in cases.stats(train.main(argv)) if "remain" in line)  # not of an epoch's end


@pytest.mark.gpu
def test_a_step_on_the_gpu_waits_for_nothing(monkeypatch):
    """No host copy in a step: torch raises where one would wait. The first step may (it builds things)."""
    from runners.methods.sfron import SFRon

    step = SFRon.step

    def strict(self, k):
        torch.cuda.set_sync_debug_mode("error" if k > 0 else "default")
        try:
            return step(self, k)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(SFRon, "step", strict)
    cases.unlearn("ddpm", "sfron", cases.pretrain("ddpm"))


@pytest.mark.gpu
def test_a_toy_run_on_the_gpu():
    run = cases.pretrain("ddpm", "--set", "device=cuda")
    assert cases.unlearn("ddpm", "sfron", run, "--mask_path", cases.mask("ddpm", run), "--set", "device=cuda")
