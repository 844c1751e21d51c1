"""SIGINT, SIGTERM and SIGHUP: a loop finishes its step and saves, anything else stops at once; one line. Torch-free."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO = 1.0  # seconds in which the same signal is the same event: timeout(1) sends it to its child and to the group
TORCHRUN_ECHO = 5.0  # torchrun hands on, or answers with another, what reached its whole group


class Stopped(KeyboardInterrupt):
    """A signal stopped the command: `str()` is the line that says so, `code` the exit code, 128 + the signal."""

    def __init__(self, number: int, line: str | None = None):
        super().__init__(line or f"stopped by {name(number)}")
        self.code = 128 + number


def name(number: int) -> str:
    """`SIGTERM` of 15."""
    return signal.Signals(number).name


class _Events:
    """The last signal, and when it came: what repeats it is no second one, and must not cut short what it began."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.number, self.since = 0, -math.inf

    def is_echo(self, number: int) -> bool:
        """Whether this signal only repeats the one before."""
        passed = time.monotonic() - self.since
        torchrun = int(os.environ.get("WORLD_SIZE", "1")) > 1
        echo = passed < TORCHRUN_ECHO if torchrun else number == self.number and passed < ECHO
        if not echo:
            self.number, self.since = number, time.monotonic()
        return echo


_events = _Events()


def stopping():
    """Meanwhile the signals raise `Stopped` at once."""

    def stop(number: int) -> None:
        if not _events.is_echo(number):
            raise Stopped(number)

    return _handled(stop)


class Wish:
    """That the loop may end: `number` is the first signal that came, 0 while none has."""

    def __init__(self) -> None:
        self.number = 0

    def arrived(self, number: int) -> None:
        """The first signal is kept; a second one raises `Stopped`."""
        echo = _events.is_echo(number)
        if not self.number:
            self.number = number
        elif not echo:
            raise Stopped(number, f"stopped at once by a second signal, {name(number)}")


@contextlib.contextmanager
def deferred() -> Iterator[Wish]:
    """Meanwhile the first signal only becomes a wish, for the loop to look at; unheard, it ends what comes after."""
    wish = Wish()
    with _handled(wish.arrived):
        yield wish
    if wish.number:
        raise Stopped(wish.number)


def ignore(_: object = None) -> None:
    """For worker processes: they end with the process that they work for, which may still need them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _handled(handler: Callable[[int], None]) -> Iterator[None]:
    """`handler(number)` for each signal but those that are ignored here, as under nohup; then as it was before."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    _events.forget()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    chosen = [number for number, old in before.items() if old not in (signal.SIG_IGN, None)]
    try:
        for number in chosen:
            signal.signal(number, lambda number, _: handler(number))
        yield
    finally:
        for number in chosen:
            signal.signal(number, before[number])
