"""Several processes and one folder of samples; folders that are not finished; stops in the middle."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import Process
from test_sample import files, make_run, pixels, run

import evaluator
import sample
from functions import locks
from functions.config.cli import run_main
from functions.errors import InputError
from functions.files import read_json
from functions.sampling import samplers
from functions.sampling.contract import check_complete

CLASSES = ["--classes_to_generate", "1,2,3"]
CHUNKS = ["--set", "sampling.batch_size=2"]


@pytest.fixture
def meanwhile(monkeypatch):
    """Act while batch `n` of the first command is drawn; the pairs that each command drew."""
    generate = samplers.generate
    calls, drawn = [], []

    def act_at(n, act):
        def spied(task, model, labels, indices, *more):
            calls.append(len(drawn))
            drawn[-1].extend(zip(labels, indices))
            if len(calls) == n:
                act()
            return generate(task, model, labels, indices, *more)

        monkeypatch.setattr(samplers, "generate", spied)
        return drawn

    return act_at


def test_another_contract_beside_one_that_is_drawn_is_refused(meanwhile):
    """Seeds and guidance used to mix in one folder."""
    make_run()

    def other():
        for more, key in ((["--seed", "1"], "seed 0.*seed 1"), (["--cond_scale", "1"], "guidance 2.0.*guidance 1.0")):
            words = rf"made with {key}, and process {os.getpid()} on .* draws there"
            with pytest.raises(InputError, match=words):
                run("run", "sample_classes", *CLASSES, *CHUNKS, *more)
        refused.append(True)

    refused, drawn = [], meanwhile(1, other)
    drawn.append([])
    folder = run("run", "sample_classes", *CLASSES, *CHUNKS)
    assert refused and len(drawn[0]) == 6 and len(files(folder)) == 7
    assert read_json(folder / "samples.json")["record"]["seed"] == 0
    check_complete(folder, [1, 1, 2, 2, 3, 3])


def test_the_same_contract_shares_the_work(meanwhile):
    alone = run(make_run("alone"), "sample_classes", *CLASSES, *CHUNKS)
    make_run()

    def second():
        drawn.append([])
        run("run", "sample_classes", *CLASSES, *CHUNKS)

    drawn = meanwhile(1, second)
    drawn.append([])
    folder = run("run", "sample_classes", *CLASSES, *CHUNKS)
    # the second began at the other end, before the first had written anything
    assert drawn[1] == [(3, 1), (3, 0), (2, 1), (2, 0), (1, 1), (1, 0)] and drawn[0] == [(1, 0), (1, 1)]
    assert files(folder) == files(alone)
    for name in set(files(folder)) - {"samples.json"}:
        assert abs(pixels(folder / name) - pixels(alone / name)).max() <= 1


def test_a_picture_is_drawn_by_one(meanwhile):
    def other():
        with pytest.raises(locks.Busy, match="visualization_guidance_2.0.png: process"):
            run("run", "visualization", "--seed", "1")

    make_run()
    meanwhile(1, other).append([])
    assert run("run", "visualization").is_file()
    assert not list(Path("run").glob(".*"))


def test_two_real_processes_and_a_kill(tmp_path):
    """One of two is killed in the middle: the other, and a third, end with all images, each right."""
    alone = run(make_run("alone"), "sample_classes", *CLASSES)
    make_run()
    words = ["--config", "digits_sample.yml", "--ckpt_folder", "run", "--mode", "sample_classes", *CLASSES]
    words += ["--n_samples_per_class", "2", "--timesteps", "4", "--set", "sampling.batch_size=1"]
    first, second = (Process(sample.main, (words,), tmp_path, f"process_{i}", {}) for i in range(2))
    while not list(Path("run/class_samples").rglob("*.png")):
        assert first.alive(), first.wait().stderr
        time.sleep(0.002)
    first.kill()
    assert (second.wait().returncode, first.wait().returncode in (0, -9)) == (0, True)
    folder = Path("run/class_samples")
    (folder / "1/.0.png.1-x.partial").touch()
    (folder / "1/0.png").unlink()
    sample.main(words)
    assert files(folder) == files(alone)
    for name in set(files(folder)) - {"samples.json"}:
        assert abs(pixels(folder / name) - pixels(alone / name)).max() <= 1


def test_a_signal_stops_between_whole_images(meanwhile, capfd):
    make_run()
    meanwhile(2, lambda: os.kill(os.getpid(), signal.SIGTERM)).append([])
    assert run_main(lambda _: run("run", "sample_classes", *CLASSES, *CHUNKS)) == 143
    assert capfd.readouterr().err.strip().endswith("stopped by SIGTERM")
    assert files("run/class_samples") == ["1/0.png", "1/1.png", "samples.json"]


def test_a_folder_that_is_not_finished_gives_no_number():
    folder = run(make_run(), "sample_classes", *CLASSES)
    reference = Path("reference/0")
    reference.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(reference / f"{i}.png")
    check_complete(folder / "1", [1, 1])
    (folder / "2/1.png").unlink()
    words = r"1 images of class 2, samples\.json says 2: still being drawn, stopped or altered; the command of sample"
    with pytest.raises(InputError, match=words):
        evaluator.main([str(folder), "reference"])
    with pytest.raises(InputError, match=words):
        check_complete(folder, [1, 1, 2, 3, 3])
    check_complete(folder, [1, 1], chosen=True)
    with pytest.raises(InputError, match=words):
        check_complete(folder, [1, 1, 2], chosen=True)
    with pytest.raises(InputError, match="3 images of class 1, samples.json says 2"):
        check_complete(folder, [1, 1, 1, 2, 2, 3, 3])
    with pytest.raises(InputError, match="1 images of class 7, samples.json says 0"):
        check_complete(folder, [1, 1, 2, 2, 3, 3, 7])
    with pytest.raises(InputError, match="0 images of class 3, samples.json says 2"):
        check_complete(folder, [1, 1, 2, 2])
