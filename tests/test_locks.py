"""One process writes at a time: refusals that name the holder, ends by kill -9, sharing, and what is left behind."""

import os
import shutil
import threading
import time
from pathlib import Path

import cases
import pytest
from processes import Process

import save_base_dataset
import train_classifier
from functions import locks
from functions.errors import InputError
from functions.files import read_json
from functions.judging.metrics_file import replace_section


def hold(folder: str, workers: int) -> None:
    """Hold `folder` for ever, beside forked workers that outlive a kill of this process."""
    with locks.writing_folder(folder):
        for _ in range(workers):
            if os.fork() == 0:
                Path(f"worker_{os.getpid()}").touch()
                time.sleep(30)
                os._exit(0)
        while sum(1 for _ in Path().glob("worker_*")) < workers:
            time.sleep(0.01)
        Path("held").touch()
        time.sleep(30)


def test_the_second_is_told_who_holds_it_and_nothing_is_left():
    with locks.writing_folder("new/folder"):
        words = rf"^new/folder: process {os.getpid()} on \S+ since [-\d]+ [:\d]+ \(.*\) is writing here: wait until it"
        with pytest.raises(locks.Busy, match=words), locks.writing_folder("new/folder"):
            pass
        with locks.writing_folder("new/other"), locks.writing_file("new/folder.json"):
            assert sorted(p.name for p in Path("new").iterdir()) == [".folder.json.lock", "folder", "other"]
    assert not Path("new").exists()
    with locks.writing_folder("new/folder"):
        Path("new/folder/result").touch()
    assert [p.name for p in Path("new/folder").iterdir()] == ["result"]


def test_a_kill_releases_it_though_workers_live_on(tmp_path):
    process = Process(hold, ("folder", 2), tmp_path, "holder", {})
    while not Path("held").exists():
        assert process.alive(), process.wait().stderr
        time.sleep(0.01)
    with pytest.raises(locks.Busy, match="process"), locks.writing_folder("folder"):
        pass
    process.kill()
    process.wait()
    with locks.writing_folder("folder"):  # at once
        pass
    for worker in Path().glob("worker_*"):
        os.kill(int(worker.name.removeprefix("worker_")), 9)


def test_it_is_waited_for_when_that_is_asked_for():
    held, order = threading.Event(), []

    def first():
        with locks.writing_file("file"):
            held.set()
            time.sleep(0.1)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with locks.writing_file("file", patience=10):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_sharing_knows_the_living_and_forgets_the_dead():
    seen = []
    Path("folder").mkdir()
    Path("folder/.1-dead.shared").write_text("process 1, killed")
    with (
        locks.sharing_folder("folder", lambda others: seen.append(len(others))) as alone,
        locks.sharing_folder("folder", lambda others: seen.append(len(others))) as beside,
    ):
        assert (alone, len(beside)) == ([], 1) and f"process {os.getpid()}" in beside[0]
        assert not Path("folder/.1-dead.shared").exists()

        def refuse(others):
            raise InputError("no")

        with pytest.raises(InputError, match="no"), locks.sharing_folder("folder", refuse):
            pass
    assert seen == [0, 1] and not list(Path("folder").iterdir())


@pytest.mark.parametrize("place", ["file", "file/below", "nothing", "a\0b"])
def test_no_folder_is_one_line_and_stays(place):
    Path("file").write_text("x")
    os.symlink("nowhere", "nothing")
    with pytest.raises(InputError, match="wanted a folder|holds no NUL"), locks.writing_folder(place):
        pass
    assert sorted(os.listdir()) == ["file", "nothing"] and Path("file").read_text() == "x"


def write_sections(first: int, n: int) -> None:
    """n sections at once."""
    one = lambda i: threading.Thread(target=replace_section, args=(Path("metrics.json"), str(i), {"n": i}))
    threads = [one(i) for i in range(first, first + n)]
    while not Path("go").exists():
        time.sleep(0.001)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_forty_writers_of_one_file_lose_nothing(tmp_path):
    started = [Process(write_sections, (10 * i, 10), tmp_path, f"writer_{i}", {}) for i in range(4)]
    Path("go").touch()
    for process in started:
        done = process.wait()
        assert (done.returncode, done.stderr) == (0, "")
    assert read_json("metrics.json") == {str(i): {"n": i} for i in range(40)}
    assert not list(Path().glob(".*"))


# ---- every command that writes

JUDGE = ["--dataset", "digits", "--epochs", "1", "--width", "4", "--out", "judge"]
REFERENCE = ["--dataset", "digits", "--label_to_forget", "0", "--out", "reference"]
GAMMA = ["--ckpt_folder", "run/mask_0", "--threshold", "1"]
WRITERS = [
    ("judge/digits_cnn.pth", lambda run: train_classifier.main(JUDGE)),
    ("reference", lambda run: save_base_dataset.main(REFERENCE)),
    ("run/mask_0", lambda run: cases.fisher("ddpm", run)),
    ("run/mask_0", lambda run: cases.generate_fisher_mask.main(GAMMA)),
    ("results/digits/mask/0", lambda run: cases.saliency("ddpm", run)),
    ("run/fisher_dict.safetensors", lambda run: cases.replay_fisher("ddpm", run)),
    ("run", lambda run: cases.unlearn("ddpm", "finetune", run, "--resume", "run")),
]


@pytest.mark.parametrize("place, write", WRITERS)
def test_every_writer_asks_first(place, write, originals, monkeypatch):
    original = originals["ddpm"].run
    monkeypatch.setattr(locks, "SHORT", 0)
    shutil.copytree(original, "run")
    lock = locks.writing_file if Path(place).suffix else locks.writing_folder
    with lock(place), pytest.raises(locks.Busy, match=f"^{place}: process {os.getpid()} "):
        write(Path("run"))
    assert not Path("judge").exists() and not Path("reference").exists() and not list(Path("run").rglob(".*"))
