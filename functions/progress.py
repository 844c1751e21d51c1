"""What a long loop shows: a bar on a terminal; elsewhere never half a minute of silence. Torch-free."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from tqdm import tqdm

QUIET = 30.0  # seconds without a line, where there is no terminal
# samplers count parts of images
LAYOUT = "{l_bar}{bar}| {n:.0f}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def to_stderr(line: str) -> None:
    """Beside the results, which go to standard output."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """A bar with rate and time left; where standard error is no terminal, a line after every QUIET seconds of silence.

    The line comes from a thread of its own, so that one long step, a preview or a checkpoint is not silent either.

    Args:
        what, unit: what goes on, and in what it is counted.
        total, start: how many there are, and how many were done before.
        say: writes the line.
        leave: whether the bar stays when it is full.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        start: int = 0,
        say: Callable[[str], None] = to_stderr,
        leave: bool = False,
    ) -> None:
        self.what, self.total, self.unit, self.start, self.say = what, total, unit, start, say
        counted = {"total": total, "initial": start, "unit": f" {unit}"}
        self.bar = tqdm(desc=what, **counted, disable=None, leave=leave, bar_format=LAYOUT)
        self.plain = self.bar.disable  # no terminal: lines
        self.done = start
        self._began = self._spoke = time.monotonic()
        self._over = threading.Event()

    def __enter__(self) -> Progress:
        if self.plain:
            self._watcher = threading.Thread(target=self._watch, name="progress", daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self.plain:
            self._watcher.join()
        self.bar.close()

    def update(self, n: float = 1) -> None:
        """So many more are done."""
        self.done += n
        self.bar.update(n)

    def show(self, text: str) -> None:
        """Newest numbers, behind the bar. Whoever writes them as a line too tells `spoken`."""
        self.bar.set_postfix_str(text, refresh=False)

    def spoken(self) -> None:
        """A line has just been written."""
        self._spoke = time.monotonic()

    def left(self) -> str:
        """`3:20 left`, at the mean pace so far; nothing before there is one."""
        if self.done == self.start:
            return ""
        pace = (time.monotonic() - self._began) / (self.done - self.start)
        return f"{tqdm.format_interval(pace * (self.total - self.done))} left"

    def _watch(self) -> None:
        while not self._over.wait(max(0.0, self._spoke + QUIET - time.monotonic())):
            if time.monotonic() - self._spoke >= QUIET:
                self.spoken()
                self.say(f"{self.what}: {self.done:.0f} of {self.total} {self.unit}  {self.left()}".rstrip())


def each(items: Iterable, what: str, total: int, unit: str, start: int = 0) -> Iterator:
    """The items, one after another, counted by a `Progress`."""
    with Progress(what, total, unit, start) as progress:
        for item in items:
            yield item
            progress.update()
