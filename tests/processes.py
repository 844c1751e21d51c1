"""Real processes without the seconds that imports cost: each is forked from a server that has imported the toolkit."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from functions.config.cli import run_main

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
# no process of these has computed anything yet: what is forked has torch, but none of its threads
CONTEXT.set_forkserver_preload(["runners", "train", "fim", "sample"])


class Process:
    """`main(*words)` in a process of its own, in `folder`, with more of an environment; ends as a script would."""

    def __init__(self, main: Callable, words: tuple, folder: Path, name: str, environment: dict[str, str]) -> None:
        self.files = [folder / f"{name}.{stream}" for stream in ("stdout", "stderr")]
        self.words, self._made = (
            words,
            CONTEXT.Process(target=_run, args=(main, words, folder, self.files, environment)),
        )
        with pytest.MonkeyPatch.context() as patch:  # the server takes its own from the first process
            patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
            patch.setenv("OMP_NUM_THREADS", "1")
            self._made.start()

    def alive(self) -> bool:
        return self._made.is_alive()

    def kill(self) -> None:
        """kill -9."""
        self._made.kill()

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """Its exit status, minus the signal that ended it, and what it said."""
        self._made.join(timeout)
        assert self._made.exitcode is not None, f"still running after {timeout} s"
        out, err = (file.read_text() if file.exists() else "" for file in self.files)
        return subprocess.CompletedProcess(self.words, self._made.exitcode, out, err)


def _run(main: Callable, words: tuple, folder: Path, files: list[Path], environment: dict[str, str]) -> None:
    os.chdir(folder)
    sys.argv = [main.__module__]
    os.environ.update(environment)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.exit(run_main(lambda _=None: main(*words)))
