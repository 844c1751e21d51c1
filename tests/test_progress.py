"""What long loops show: never silent for long where there is no terminal, a bar where there is one."""

import io
import threading
import time

import pytest

from functions import progress
from functions.progress import Progress, each


@pytest.fixture
def said(monkeypatch):
    monkeypatch.setattr(progress, "QUIET", 0.05)
    return []


def test_a_long_step_is_not_silent(said):
    with Progress("ga", 10, "steps", 2, said.append) as bar:
        bar.update()
        time.sleep(0.3)
    assert len(said) >= 2 and said[0].startswith("ga: 3 of 10 steps  00:") and said[0].endswith(" left")
    n = len(said)
    time.sleep(0.15)
    assert len(said) == n and not any(t.name.startswith("progress") for t in threading.enumerate())


def test_who_speaks_is_not_interrupted(said):
    with Progress("ga", 10, "steps", 0, said.append) as bar:
        for _ in range(30):
            time.sleep(0.01)
            bar.spoken()
    assert said == []


def test_short_loops_say_nothing_and_errors_end_the_watch(said):
    assert list(each([5, 6], "x", 2, "things")) == [5, 6]
    with pytest.raises(ZeroDivisionError), Progress("x", 2, "things", 0, said.append):
        raise ZeroDivisionError
    time.sleep(0.15)
    assert said == []


def test_time_left_is_the_mean_pace_of_what_was_done_here(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = Progress("x", 100, "steps", 40)
    assert bar.left() == ""
    now[0] += 20
    bar.update(10)  # 2 s each, 50 are left
    assert bar.left() == "01:40 left"


def test_on_a_terminal_a_bar_with_the_newest_numbers(monkeypatch, said):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", screen)
    with Progress("sfron", 4, "steps", 0, said.append, leave=True) as bar:
        bar.show("loss 0.5  lr 0.001")
        bar.bar.refresh()
        bar.update(4)
        time.sleep(0.15)
    shown = screen.getvalue()
    assert "sfron" in shown and "loss 0.5  lr 0.001" in shown and "4/4 steps" in shown and said == []
