"""Signals, resuming by the run's name alone, and what a run's folder looks like before and after."""

import os
import shutil
import signal
from pathlib import Path

import cases
import pytest
import test_distributed
import yaml

import fim
import train
from functions import interrupts, locks
from functions.config.cli import run_main
from functions.errors import InputError
from functions.storage.artifacts import load_tensors
from functions.storage.run import RunFolder
from runners.base import Runner
from runners.methods.fisher_forget import FisherForget
from runners.passes.fim import SweepFisher
from runners.passes.generate_fisher import GenerateFisher

LONG = ["--set", "training.n_iters=6", "--set", "training.snapshot_freq=4", "--set", "training.ema=true"]


def at_step(monkeypatch, step: int, act) -> None:
    """`act()` in the middle of this step, counted from 1."""
    one_step = Runner._one_step

    def stepped(self, k):
        if k + 1 == step:
            act()
        return one_step(self, k)

    monkeypatch.setattr(Runner, "_one_step", stepped)


def state_of(folder: Path) -> dict:
    """What lies in a folder, with its times."""
    return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped, and its command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        return cases.pretrain("ddpm", *LONG, "--set", "training.preview=1").resolve()


# ---- signals


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_after_its_step_and_the_run_goes_on_by_its_name(whole, monkeypatch, capfd, number, code):
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), number))
        words = [*LONG, "--set", "training.preview=1", "--save_dir", "run"]
        assert run_main(lambda _: cases.pretrain("ddpm", *words)) == code
    line = f"stopped by {number.name} after step 3 of 6; train.py --resume run goes on there"
    err = capfd.readouterr().err
    assert err.strip().endswith(line) and err.count("\n") == 1 and "Traceback" not in err
    log = Path("run/logs/stdout.txt").read_text()
    assert log.endswith(f"{line}\n") and "Traceback" not in log
    assert cases.load_meta("run")["step"] == 3 and not Path("run/previews").exists()

    run = train.main(["--resume", "run"])
    assert cases.weights_hash(run, "raw") == cases.weights_hash(whole, "raw")
    assert cases.weights_hash(run, "ema") == cases.weights_hash(whole, "ema")
    assert cases.stats(run) == cases.stats(whole)
    assert sorted(os.listdir("run/previews")) == sorted(os.listdir(whole / "previews"))


def test_a_second_signal_stops_at_once(monkeypatch, capfd):
    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        at_step(patch, 4, twice)
        assert run_main(lambda _: cases.pretrain("classifier", *LONG, "--save_dir", "run")) == 130
    assert "stopped at once by a second signal, SIGINT" in capfd.readouterr().err
    assert not Path("run/ckpts").exists() and "Traceback" not in Path("run/logs/stdout.txt").read_text()


def test_a_signal_that_comes_after_the_last_step_is_not_forgotten(monkeypatch):
    """A list of stages would go on with the next one."""
    at_step(monkeypatch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(interrupts.Stopped, match="after step 6 of 6"):
        cases.pretrain("classifier", *LONG, "--save_dir", "run")
    assert cases.load_meta("run")["step"] == 6
    with pytest.raises(interrupts.Stopped, match="stopped by SIGHUP"), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGHUP)


def test_what_diverged_is_not_saved_by_a_signal(monkeypatch):
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(InputError, match="no checkpoint had been written"):
        more = ["--set", "optim={name: sgd, lr: 1.0e+30, momentum: 0.0}", "--set", "training.log_freq=100"]
        cases.pretrain("classifier", *LONG, *more, "--save_dir", "run")
    assert not Path("run/ckpts").exists()


def test_ignored_signals_stay_ignored_and_handlers_come_back():
    """nohup ignores SIGHUP."""
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.stopping():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(interrupts.Stopped, match="SIGTERM") as stop:
                os.kill(os.getpid(), signal.SIGTERM)
        assert stop.value.code == 143
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert before == {number: signal.getsignal(number) for number in interrupts.SIGNALS}


def test_a_pass_stops_with_nothing_half_written(originals, monkeypatch, capfd):
    fresh = shutil.ignore_patterns("mask_0")  # another test may have made it
    original = Path(shutil.copytree(originals["classifier"].run, "original", ignore=fresh))
    with monkeypatch.context() as patch:
        patch.setattr(GenerateFisher, "_fisher", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert run_main(lambda _: cases.fisher("classifier", original)) == 143
    assert capfd.readouterr().err.strip().endswith("stopped by SIGTERM")
    assert not (original / "mask_0").exists()


def test_a_closed_form_begins_again(originals, monkeypatch):
    words = ["classifier", "fisher_forget", originals["classifier"].run, "--save_dir"]
    whole = cases.unlearn(*words, "whole")
    with monkeypatch.context() as patch:
        patch.setattr(FisherForget, "delta", lambda _: os.kill(os.getpid(), signal.SIGHUP))
        assert run_main(lambda _: cases.unlearn(*words, "run")) == 129
    assert not Path("run/ckpts").exists() and Path("run/logs/stdout.txt").read_text().endswith("stopped by SIGHUP\n")
    assert cases.weights_hash(train.main(["--resume", "run"]), "raw") == cases.weights_hash(whole, "raw")


def test_a_fisher_over_samples_goes_on_where_it_was_stopped(originals, monkeypatch, capfd):
    original = Path(shutil.copytree(originals["ddpm"].run, "original"))
    os.rename(cases.replay_fisher("ddpm", original), "whole.safetensors")
    words = ["--config", "digits_fim.yml", "--ckpt_folder", str(original), "--set", "fim.per_class=1"]
    with monkeypatch.context() as patch:
        patch.setattr(SweepFisher, "_due", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert run_main(lambda _: fim.main(words)) == 143
    assert "stopped by SIGTERM after 1 of 10 samples; the same command goes on there" in capfd.readouterr().err
    fim.main(words)
    assert "resuming after 1 of 10 samples" in capfd.readouterr().out
    found = [load_tensors(path)[0] for path in (original / "fisher_dict.safetensors", Path("whole.safetensors"))]
    assert cases.same(*found) and not list(original.glob(".*"))


def test_torchrun_repeats_a_signal_that_its_whole_group_got(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    wish = interrupts.Wish()
    wish.arrived(signal.SIGINT)
    wish.arrived(signal.SIGTERM)
    assert wish.number == signal.SIGINT
    monkeypatch.setattr(interrupts, "TORCHRUN_ECHO", -1)
    with pytest.raises(interrupts.Stopped, match="second signal, SIGTERM"):
        wish.arrived(signal.SIGTERM)


def test_timeout_sends_its_signal_twice(monkeypatch):
    """To its child and to the group that this belongs to: that is one event, also where the line is being written."""
    with interrupts.stopping():
        with pytest.raises(interrupts.Stopped, match="^stopped by SIGTERM$"), interrupts.deferred() as wish:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert wish.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(interrupts, "ECHO", -1)
        with pytest.raises(interrupts.Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


def test_two_processes_stop_at_one_step(tmp_path):
    """Only one of them is told."""
    words = ["--mode", "pretrain", "--config", *cases.WORLDS["classifier"]["pretrain"], *cases.TOY, *LONG]
    commands = [["train", *words, "--save_dir", "run"]]
    for done in test_distributed.launch(tmp_path, 2, commands, None, (1, 2, signal.SIGTERM)):
        assert done.returncode == 143 and "Traceback" not in done.stderr
    assert cases.load_meta("run")["step"] == 3
    for done in test_distributed.launch(tmp_path, 2, [["train", "--resume", "run"]]):
        assert done.returncode == 0, done.stderr
    assert cases.load_meta("run")["step"] == 6


# ---- resuming


def test_a_run_knows_its_command(originals):
    """Mode, config, overlays, flags and mask; what is said beside --resume is checked as before."""
    flags = ["--mask_path", str(originals["ddpm"].mask), "--forget_alpha", "2", "--seed", "3"]
    run = cases.unlearn("ddpm", "sfron", originals["ddpm"].run, *flags, "--set", "unlearn.optimizer_state=separate")
    longer = ["--set", "optim.lr_schedule=constant", "--set", "training.n_iters=6"]
    with pytest.raises(InputError, match="began with another config"):
        train.main(["--resume", str(run), *longer])
    with pytest.raises(InputError, match="began with another mode: sfron, this command has finetune"):
        cases.unlearn("ddpm", "finetune", originals["ddpm"].run, "--resume", str(run))
    shutil.rmtree(run / "ckpts")
    began = yaml.safe_load((run / "logs/config.yml").read_text())
    assert train.main(["--resume", str(run), "--seed", "3"]) == run
    assert yaml.safe_load((run / "logs/config.yml").read_text()) == began
    assert cases.load_meta(run)["step"] == 4


def test_nothing_to_go_on_from_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--mode: missing; wanted it, --unlearn METHOD or --resume RUN"):
        train.main(["--config", "digits_pretrain.yml"])
    with pytest.raises(InputError, match="not a run folder"):
        train.main(["--resume", str(tmp_path)])
    RunFolder.create_at(Path("converted"), "", {"mode": "import"}).close()
    with pytest.raises(InputError, match="--resume converted: began with mode import, which nothing goes on from"):
        train.main(["--resume", "converted"])


def test_a_run_that_runs_is_not_resumed(whole, monkeypatch):
    refused = []

    def resume():
        before = state_of(Path("run"))
        with pytest.raises(locks.Busy, match=rf"run: process {os.getpid()} on .* is writing here"):
            train.main(["--resume", "run"])
        assert state_of(Path("run")) == before
        refused.append(True)

    at_step(monkeypatch, 5, resume)
    run = cases.pretrain("ddpm", *LONG, "--save_dir", "run")
    assert refused and cases.stats(run) == cases.stats(whole)
    assert cases.weights_hash(run, "raw") == cases.weights_hash(whole, "raw")
    assert not list(run.rglob(".*"))


def test_a_refused_resume_changes_nothing(whole):
    run = Path(shutil.copytree(whole, "run"))
    (run / "logs/stats.jsonl").write_text('{"step": 99, "loss": 0.0}\n')
    (run / "ckpts/.step_0000009.x.partial").mkdir()
    before = state_of(run)
    constant = Path(shutil.copytree(cases.pretrain("classifier", "--set", "optim.lr_schedule=constant"), "constant"))
    (constant / "logs/stats.jsonl").write_text('{"step": 99, "loss": 0.0}\n')
    with pytest.raises(InputError, match="began with another config"):
        train.main(["--resume", "run", "--lr", "0.5"])
    assert state_of(run) == before
    before = state_of(constant)
    with pytest.raises(InputError, match="is at step 4, past training.n_iters 2"):
        train.main(["--resume", "constant", "--set", "training.n_iters=2"])
    model = constant / "ckpts/step_0000004/model.safetensors"
    assert state_of(constant) == before
    model.write_bytes(model.read_bytes()[:-1])
    before = state_of(constant)
    with pytest.raises(InputError, match="damaged"):
        train.main(["--resume", "constant", "--set", "training.n_iters=8"])
    assert state_of(constant) == before


def test_what_a_kill_left_out_or_behind_is_drawn_or_removed(whole):
    run = Path(shutil.copytree(whole, "run"))
    wanted = (run / "previews/step_0000006.png").read_bytes()
    (run / "previews/step_0000006.png").unlink()  # killed after the last snapshot
    (run / "previews/.step_0000006.png.x.partial").touch()
    (run / "ckpts/.step_0000006.1-x.partial").mkdir()
    train.main(["--resume", "run"])
    assert (run / "previews/step_0000006.png").read_bytes() == wanted
    assert not list(run.rglob(".*"))


# ---- odd places


def test_a_place_that_is_there_stays_what_it_is():
    """A mount point could not be renamed over, and a link would be replaced."""
    Path("goal").mkdir()
    inode = Path("goal").stat().st_ino
    os.symlink("goal", "link")
    run = cases.pretrain("classifier", "--save_dir", "link")
    assert Path("link").is_symlink() and Path("goal").stat().st_ino == inode and Path("goal/ckpts").is_dir()
    with pytest.raises(InputError, match="--save_dir link: is not empty; choose another, or --resume link"):
        cases.pretrain("classifier", "--save_dir", "link")
    assert not list(run.rglob(".*"))


def test_places_where_no_run_can_be_are_one_line(monkeypatch):
    Path("file").write_text("x")
    os.symlink("nowhere", "nothing")
    for place in ("file", "nothing", "file/run"):
        with pytest.raises(InputError, match=f"^{place}: .* wanted a folder$"):
            cases.pretrain("classifier", "--save_dir", place)

    def full(*_):
        raise OSError(28, "No space left on device", "origin.json")

    monkeypatch.setattr("functions.storage.run.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        cases.pretrain("classifier", "--save_dir", "new/run")
    assert sorted(os.listdir()) == ["file", "nothing"]
