"""Two processes compute what one does: every method of every world, and what goes wrong between them is said."""

import json
import socket
import subprocess
from pathlib import Path

import cases
import pytest
import torch
import worker
from processes import Process

import train
from functions.errors import InputError
from functions.storage.artifacts import load_mask, load_tensors
from functions.training import distributed
from runners import MODES

PASSES = ("generate_fisher", "generate_mask")


def launch(folder: Path, n: int, commands: list | dict, *more: tuple) -> list[subprocess.CompletedProcess]:
    """What each of n processes did with the commands: the same ones, or those of its rank where they are a dict."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    started = []
    for rank in range(n):
        env = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(n),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        words = (commands[rank] if isinstance(commands, dict) else commands, *more)
        started.append(Process(worker.main, words, folder, f"process_{rank}", env))
    return [process.wait() for process in started]


# ---- the same weights

# Adam divides by the size of a gradient that is zero but for rounding: SGD says what the gradients are.
SGD = ["--set", "optim={name: sgd, lr: 1.0e-3, lr_schedule: constant, momentum: 0.9, weight_decay: 1.0e-3}"]
SHORT = [
    "--set",
    "training={n_iters: 3, batch_size: 8, ema: false, log_freq: 1, snapshot_freq: 3, preview: off, curves: false}",
]


def commands(world: str, run: Path, mask: str, fisher: str) -> dict[str, list[str]]:
    """Every unlearning mode of a world, masked, and retraining; by mode, without a place to write."""
    found = {}
    for mode in cases.WORLDS[world]:
        if mode not in MODES or mode == "pretrain":
            continue
        more = ["--set", f"sa.fisher_path={fisher}", "--set", "sa.replay=remain"] if mode == "sa" else []
        more += ["--set", "training.batch_size=300"] if mode == "scrub" else []
        more += ["--set", "unlearn.forget_every=1"] if (world, mode) == ("classifier", "sfron") else []
        config, origin = cases.WORLDS[world][mode], cases.from_run(run, 0)
        found[mode] = ["--mode", mode, "--config", *config, *origin, *SHORT, *SGD, "--mask_path", mask, *more]
    retrain = ["--mode", "retrain", "--config", *cases.WORLDS[world]["pretrain"], "--label_to_forget", "0"]
    return {**found, "retrain": [*retrain, *SHORT, *SGD]}


@pytest.fixture(scope="module", params=list(cases.WORLDS))
def both(request, tmp_path_factory, originals):
    """A folder with `one/<mode>`, written by this process, and `two/<mode>` by two with the same global batch."""
    world, folder = request.param, tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run, mask = originals[world].run, str(originals[world].saliency)
        wanted = commands(world, run, mask, str(originals[world].mask.with_name("remain_fisher.safetensors")))
        for mode, words in wanted.items():
            train.main([*words, "--save_dir", f"one/{mode}"])
        passes = {
            "generate_fisher": ["--mode", "generate_fisher", "--config", *cases.WORLDS[world]["fisher"]],
            "generate_mask": ["--mode", "generate_mask", "--config", *cases.WORLDS[world]["saliency"]],
        }
        for mode, words in passes.items():
            words += [
                *cases.from_run(run, 0),
                "--set",
                f"{words[1].split('_')[1].replace('mask', 'saliency')}.batch_size=100",
            ]
            train.main([*words, "--save_dir", f"one/{mode}"])
        jobs = [["train", *words, "--save_dir", f"two/{mode}"] for mode, words in {**wanted, **passes}.items()]
        for done in launch(folder, 2, jobs):
            assert done.returncode == 0, done.stderr
    return world, folder


@pytest.mark.parametrize("mode", [m for m in MODES if m not in ("pretrain", *PASSES)])
def test_two_processes_equal_one(both, mode):
    world, folder = both
    if not (folder / "one" / mode).exists():
        assert world != "classifier" and mode.startswith("boundary")  # only classifiers have boundaries
        return
    one, two = (cases.weights(folder / side / mode) for side in ("one", "two"))
    assert one.keys() == two.keys()
    for n, w in one.items():
        torch.testing.assert_close(two[n], w, rtol=1e-5, atol=1e-5, msg=lambda m, n=n: f"{n}: {m}")
    logged = [cases.stats(folder / side / mode) for side in ("one", "two")]
    for a, b in zip(*logged, strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-6)
    costs = [cases.load_meta(folder / side / mode)["cost"] for side in ("one", "two")]
    assert costs[0]["forward"] == costs[1]["forward"] and costs[0]["backward"] == costs[1]["backward"]


@pytest.mark.parametrize(
    "file", ["generate_fisher/forget_fisher", "generate_fisher/remain_fisher", "generate_mask/score"]
)
def test_passes_split_their_batches_and_sum_once(both, file):
    _, folder = both
    (one, made), (two, split) = (load_tensors(folder / side / f"{file}.safetensors") for side in ("one", "two"))
    for n, t in one.items():
        torch.testing.assert_close(two[n], t, rtol=1e-4, atol=1e-5 * float(t.max()), msg=lambda m, n=n: f"{n}: {m}")
    assert {**made, "cost": 0} == {**split, "cost": 0}
    assert made["cost"]["backward"] == split["cost"]["backward"]


def test_masks_of_two_processes_are_those_of_one(both):
    _, folder = both
    paths = [folder / side / "generate_mask" / "with_0.5.safetensors" for side in ("one", "two")]
    one, two = (load_mask(path, None, None) for path in paths)
    assert sum(int(m.sum()) for m in one.values()) == sum(int(m.sum()) for m in two.values()) > 0
    assert sum(int((m != two[n]).sum()) for n, m in one.items()) <= 8  # scores that tie but for rounding


VARIANTS = {
    # dropout in the order of memory, moments in bfloat16, statistics made anew, paths dropped
    "channels_last": ("ddpm", "pretrain", cases.WORLDS["ddpm"]["pretrain"], "training.channels_last=true"),
    "bfloat16": ("classifier", "pretrain", cases.WORLDS["classifier"]["pretrain"], "training.precision=bf16"),
    "recalibrated": ("classifier", "finetune", ["digits_classifier.yml"], "unlearn.bn_mode=recalibrate"),
    "drop path": ("classifier", "pretrain", ["digits_classifier.yml"], None),
}
VIT = (
    "model={name: timm, arch: vit_tiny_patch16_224, options: {img_size: 8, patch_size: 4, embed_dim: 24, depth: 2, "
    "num_heads: 2, %s}}"
)


@pytest.mark.parametrize("case", VARIANTS)
def test_whatever_is_random_or_of_the_batch_is_shared(tmp_path, case):
    world, mode, config, setting = VARIANTS[case]
    setting = setting or VIT % "drop_rate: 0.2, drop_path_rate: 0.3"
    origin = cases.from_run(cases.pretrain(world).resolve(), 0) if mode == "finetune" else []
    words = ["--mode", mode, "--config", *config, *origin, *SHORT, *SGD, "--set", setting]
    train.main([*words, "--save_dir", "one"])
    for done in launch(tmp_path, 2, [["train", *words, "--save_dir", "two"]]):
        assert done.returncode == 0, done.stderr
    one, two = (cases.weights(tmp_path / side) for side in ("one", "two"))
    bound = 1e-2 if case == "bfloat16" else 1e-5  # bfloat16 rounds at 2^-8
    for n, w in one.items():
        torch.testing.assert_close(two[n], w, rtol=bound, atol=bound, msg=lambda m, n=n: f"{n}: {m}")
    costs = [cases.load_meta(tmp_path / side)["cost"] for side in ("one", "two")]
    assert costs[0]["forward"] == costs[1]["forward"]


@pytest.mark.parametrize(
    "options, more, message",
    [
        ("attn_drop_rate: 0.5", [], "draws or couples rows in a way of its own"),
        ("drop_rate: 0.5", ["--set", "training.accumulate=2"], "drops at random: not with several processes"),
    ],
)
def test_what_cannot_be_shared_is_refused(tmp_path, options, more, message):
    words = ["train", "--mode", "pretrain", "--config", "digits_classifier.yml", *SHORT, "--set", VIT % options, *more]
    for done in launch(tmp_path, 2, [[*words, "--save_dir", "out"]]):
        assert done.returncode == 2 and message in done.stderr, done.stderr


def test_the_mean_of_a_tensor_that_is_there_twice(monkeypatch):
    """autograd gives one tensor to two weights where their gradients are equal."""
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.mul_(2))
    g = torch.tensor([3.0])
    distributed.mean_([g, g])
    assert g.tolist() == [3.0]


# ---- one writes and speaks


def test_only_the_first_process_speaks_and_writes(tmp_path):
    words = ["--mode", "pretrain", "--config", *cases.WORLDS["classifier"]["pretrain"], *SHORT]
    first, second = launch(tmp_path, 2, [["train", *words, "--save_dir", "out"]])
    assert "writing to out" in first.stdout and second.stdout == "" and second.stderr == ""
    assert sorted(p.name for p in (tmp_path / "out" / "ckpts").iterdir()) == ["latest", "step_0000003"]
    assert len((tmp_path / "out" / "logs" / "stats.jsonl").read_text().splitlines()) == 3


def test_resumed_by_two_after_one(tmp_path, monkeypatch):
    """Draws depend on seed and step alone: how many processes there are does not matter, from step to step either."""
    words = ["--mode", "pretrain", "--config", *cases.WORLDS["classifier"]["pretrain"], *SHORT, *SGD]
    longer = ["--set", "training.n_iters=6"]
    train.main([*words, *longer, "--save_dir", "whole"])
    train.main([*words, "--save_dir", "half"])
    for done in launch(tmp_path, 2, [["train", *words, *longer, "--save_dir", "half", "--resume", "half"]]):
        assert done.returncode == 0, done.stderr
    one, two = cases.weights(Path("whole")), cases.weights(Path("half"))
    for n, w in one.items():
        torch.testing.assert_close(two[n], w, rtol=1e-5, atol=1e-5)


# ---- what goes wrong


PRETRAIN = ["train", "--mode", "pretrain", "--config", *cases.WORLDS["classifier"]["pretrain"]]


@pytest.mark.parametrize(
    "change, message",
    [
        (["--set", "training.batch_size=7"], "training.batch_size: 7 images cannot be shared equally by 2 processes"),
        (["--set", "device=cuda:0"], "device: cuda:0: of several processes each has its own device"),
    ],
)
def test_what_processes_cannot_share_is_refused_at_the_start(tmp_path, change, message):
    for done in launch(tmp_path, 2, [[*PRETRAIN, *SHORT, *change, "--save_dir", "out"]]):
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change, key",
    [
        (["--seed", "1"], "config"),
        (["--set", "data.indices=some.json"], "config"),
        (["--set", "training.log_freq=2"], "training.log_freq"),
        (["--set", "training.snapshot_freq=2"], "training.snapshot_freq"),
        (["--data_path", "elsewhere"], None),
    ],
)
def test_processes_that_were_told_different_things_are_named(tmp_path, change, key):
    (tmp_path / "some.json").write_text(json.dumps(list(range(100))))
    common = [*PRETRAIN, *SHORT, "--save_dir", "out"]
    for done in launch(tmp_path, 2, {0: [common], 1: [[*common, *change]]}):
        if key is None:  # where the data lies decides no number
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode == 2 and f"process 1 has another {key} than process 0" in done.stderr
    assert (tmp_path / "out").exists() == (key is None)


def test_when_one_process_dies_the_other_ends_with_a_line(tmp_path):
    words = [*PRETRAIN, "--set", "training={n_iters: 400, batch_size: 8, ema: false, snapshot_freq: 2}"]
    first, second = launch(tmp_path, 2, [[*words, "--save_dir", "out"]], (1, 5))
    assert second.returncode == 9 and first.returncode == 2
    assert "process 0 of 2: the others do not answer, one of them has ended" in first.stderr
    assert first.stderr.count("\n") == 1 and cases.load_meta(tmp_path / "out")["step"] == 4
    assert cases.weights(tmp_path / "out")


def test_a_failure_of_the_first_ends_all(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("not empty")
    for done in launch(tmp_path, 2, [[*PRETRAIN, *SHORT, "--save_dir", "out"]]):
        assert done.returncode == 2 and "--save_dir out: is not empty" in done.stderr


def test_torchrun_and_dataparallel_exclude_each_other(monkeypatch):
    """Without several GPUs: DataParallel is for one process, and not for a compiled model."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    model, cuda = torch.nn.Linear(1, 1), torch.device("cuda")
    assert isinstance(distributed.parallel(model, cuda), torch.nn.DataParallel)
    assert distributed.parallel(model, torch.device("cuda:0")) is model
    with pytest.raises(InputError, match="training.compile: not for DataParallel over 2 devices"):
        distributed.parallel(model, cuda, ["compile"])
    monkeypatch.setattr(distributed, "size", lambda: 2)
    assert distributed.parallel(model, cuda) is model
