"""Lists of stages: skipped once done, resumed in the middle, refused under another command; and what runs cost."""

import threading
import time
import types
from pathlib import Path

import cases
import pytest
import torch

from functions.errors import InputError
from functions.experiments.stages import Stages, unfinished
from functions.files import write_json
from functions.storage import checkpoint
from functions.storage.artifacts import load_tensors
from functions.storage.cost import Cost


def script(calls, result=None):
    return types.SimpleNamespace(__name__="a_script", main=lambda argv: calls.append(argv) or result)


def test_a_stage_runs_once_and_its_result_is_remembered(capsys):
    calls, made = [], [Path("x"), Path("a"), Path("b")]
    for path in made:
        path.touch()
    first = Stages(Path("done")).run("one", script(calls, Path("x")), "--a", 1)
    again = Stages(Path("done")).run("one", script(calls, Path("other")), "--a", 1)
    assert calls == [["--a", "1"]] and first == again == Path("x")
    assert "$ python a_script.py --a 1" in capsys.readouterr().out
    assert Stages(Path("done")).run("many", script([], made[1:])) == made[1:]
    assert Stages(Path("done")).run("many", script([])) == made[1:]


def test_a_finished_stage_counts_its_seconds_again(capsys):
    first, again = Stages(Path("done")), Stages(Path("done"))
    assert not again.done("one")
    first.run("one", script([]))
    again.run("one", script([]))
    assert again.done("one") and again.seconds == first.seconds


def test_a_stage_whose_result_is_gone_runs_once_more(capsys):
    calls, made = [], Path("run")
    for n in (1, 2):
        assert Stages(Path("done")).run("one", script(calls, [made])) == [made]
        assert len(calls) == n
    made.mkdir()
    Stages(Path("done")).run("one", script(calls, [made]))
    assert len(calls) == 2
    assert "done/one.json: what this stage wrote is gone: once more" in capsys.readouterr().out


def test_without_a_folder_every_stage_runs_and_seconds_add_up():
    calls, stages = [], Stages()
    stages.run("one", script(calls))
    stages.run("one", script(calls))
    assert len(calls) == 2 and list(stages.seconds) == ["one"]


def test_another_command_under_the_same_name_is_refused():
    Stages(Path("done")).run("one", script([]), "--a", 1)
    with pytest.raises(InputError, match=r"done/one\.json: this stage was run as `python a_script.py --a 1`, now"):
        Stages(Path("done")).run("one", script([]), "--a", 2)


def test_a_config_that_has_changed_is_refused():
    config = Path("mine.yml")
    config.write_text("world: ddpm\ntraining: {n_iters: 1}\n")
    argv = ["--config", "mine.yml", "--set", "training.batch_size=8"]
    Stages(Path("done")).run("one", script([]), *argv)
    Stages(Path("done")).run("one", script([]), *argv)
    config.write_text("world: ddpm\ntraining: {n_iters: 2}\n")
    with pytest.raises(InputError, match=r"done/one\.json: the config of `python a_script\.py .*` has changed"):
        Stages(Path("done")).run("one", script([]), *argv)


def test_a_stage_that_fails_leaves_no_record():
    def fail(argv):
        raise InputError("no")

    with pytest.raises(InputError):
        Stages(Path("done")).run("one", types.SimpleNamespace(__name__="s", main=fail))
    assert not Path("done/one.json").exists()


def test_a_training_stage_that_was_killed_is_resumed(monkeypatch):
    argv = ["--mode", "pretrain", "--config", *cases.WORLDS["ddpm"]["pretrain"], *cases.TOY, "--set", "results=mine"]
    whole = cases.train.main([*argv[:-1], "results=whole"])
    save, kill = checkpoint.save, []

    def save_and_stop(*args):
        save(*args)
        kill.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", save_and_stop)
        Stages(Path("done")).run("train", cases.train, *argv, root=Path("mine"))
    run = Stages(Path("done")).run("train", cases.train, *argv, root=Path("mine"))
    assert len(list(Path("mine").rglob("origin.json"))) == 1 and kill == [1]
    assert cases.load_meta(run)["step"] == 4
    assert cases.same(cases.weights(run), cases.weights(whole))
    # batches of 8, four steps; a resumed run has counted all of them
    cost = cases.load_meta(run)["cost"]
    assert (cost["forward"], cost["backward"]) == (32, 32) and cost["seconds"] > 0


def test_cost_counts_images_while_it_runs_and_not_while_it_pauses():
    model, cost = torch.nn.Linear(2, 1), Cost()
    cost.watch(model)
    model(torch.zeros(3, 2))
    with cost:
        model(torch.zeros(5, 2))
        with torch.no_grad():
            model(torch.zeros(7, 2))
    model(torch.zeros(3, 2))
    assert (cost.forward, cost.backward) == (12, 5)
    frozen = torch.nn.Linear(2, 1).requires_grad_(False)
    cost.watch(frozen)
    with cost:
        frozen(torch.zeros(2, 2))
    assert (cost.forward, cost.backward) == (14, 5)


def test_unlearning_counts_what_it_passes(originals):
    run = originals["ddpm"].run
    found = cases.load_meta(cases.unlearn("ddpm", "sfron", run))["cost"]
    assert (found["forward"], found["backward"]) == (64, 64)  # four steps of 8 forget and 8 remain images
    matched = cases.load_meta(cases.unlearn("ddpm", "sfron", run, "--unlearn_loss", "match"))["cost"]
    assert (matched["forward"], matched["backward"]) == (96, 64)  # and a target without gradients
    esd = cases.load_meta(cases.unlearn("ddpm", "esd", run))["cost"]
    assert (esd["forward"], esd["backward"]) == (4 * 8 * 3, 4 * 8)  # the teacher sees [conditional; null]
    _, made = load_tensors(originals["ddpm"].mask.with_name("forget_fisher.safetensors"))
    assert (made["cost"]["forward"], made["cost"]["backward"]) == (made["n"], made["n"])


def test_a_folder_in_the_making_is_no_unfinished_run():
    """Logs are made under a hidden name and renamed: what a kill leaves there is not resumed."""
    for name in ("2026_01_01_000000/logs", "2026_01_01_000001/.logs.abc.partial"):
        write_json(Path("runs") / name / "origin.json", {})
    assert unfinished(Path("runs")) == Path("runs/2026_01_01_000000")


def test_a_stage_that_another_process_runs_is_waited_for_and_not_run_again():
    """Two pieces of one list share what both need."""
    calls, began, results = [], threading.Event(), []

    def slow(argv):
        calls.append(argv)
        began.set()
        time.sleep(0.1)
        Path("made").touch()
        return Path("made")

    script = types.SimpleNamespace(__name__="slow", main=slow)
    first = threading.Thread(target=lambda: results.append(Stages(Path("done")).run("one", script, "--a")))
    first.start()
    began.wait()
    results.append(Stages(Path("done")).run("one", script, "--a"))
    first.join()
    assert (len(calls), results) == (1, [Path("made")] * 2)
