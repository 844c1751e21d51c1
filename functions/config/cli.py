"""What scripts share on the command line: flags whose mistakes are one line, and an exit code for every end."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import NoReturn

from functions.errors import InputError, nearest, shown
from functions.interrupts import stopping
from functions.places import place

# of a message: names of files can be longer than a screen
LONGEST_LINE = 1000
# sysexits.h: an internal error of the program
BUG = 70
# what torch, numpy and CUDA say where memory ends, in whatever exception
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "unable to allocate")
# the bounds of `section`, which has the reasons
LARGEST_SEED, LARGEST_BATCH, LARGEST_SIDE = 2**63 - 1, 2**20, 4096


class Parser(argparse.ArgumentParser):
    """Flags in full, `--debug` with them; every mistake is an InputError of one line that names the flag.

    `--batch-size` is `--batch_size`: published scripts write either.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)
        self._words: list[str] = []
        self.register("type", int, whole())
        self.register("type", float, number())
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_args(self, args=None, namespace=None):
        """A flag that is unknown is said first: what it was meant to be would else be called missing."""
        self._words = words = list(sys.argv[1:] if args is None else args)
        spelled, named = {_plain(flag): flag for flag in reversed(self._option_string_actions)}, {}
        for i, word in enumerate(words[: words.index("--") if "--" in words else None]):
            if not word.startswith("--"):
                continue
            flag, equals, value = word.partition("=")
            if _plain(flag) not in spelled:
                self.error(f"{shown(flag)[1:-1]}: no such flag{nearest(_plain(flag), self._option_string_actions)}")
            words[i] = (flag := spelled[_plain(flag)]) + equals + value
            action = self._option_string_actions[flag]
            earlier = named.setdefault(action, flag)
            if flag != earlier and not isinstance(action, argparse.BooleanOptionalAction):
                self.error(f"{earlier} and {flag}: two names of one flag; wanted one of them")
        return super().parse_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """What argparse says, the flag by the name that was typed or its first long one."""
        if named := re.match(r"argument ([\w/-]+)[^:]*:", message):
            names = named[1].split("/")
            long = [n for n in names if n.startswith("--")] or names
            typed = [word.partition("=")[0] for word in self._words]
            message = f"{next((n for n in long if n in typed), long[0])}:{message[named.end() :]}"
        message = re.sub(r"expected (?:one|at least one) argument", "wanted a value after it", message)
        if unknown := re.match(r"unrecognized arguments: (\S*)", message):
            message = f"{shown(unknown[1])[1:-1]}: one word too many, or no such flag"
        raise InputError(f"{message}; see --help") from None

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"got {shown(value)}; wanted {', '.join(names)}{nearest(value, names)}"
            )


def _plain(flag: str) -> str:
    """`--no-dry_run` -> `--no_dry_run`"""
    return "--" + flag.removeprefix("--").replace("-", "_")


def whole(low: int | None = None, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: whole numbers from `low` to `high`."""
    wanted = "a whole number" + _between(low, high)

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"got {shown(text)}; wanted {wanted}") from None
        if not (low is None or low <= value) or not (high is None or value <= high):
            raise argparse.ArgumentTypeError(f"got {shown(text)}; wanted {wanted}")
        return value

    return parse


def number(low: float | None = None, high: float | None = None) -> Callable[[str], float]:
    """An argparse type: finite numbers from `low` to `high`."""
    wanted = "a finite number" + _between(low, high)

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not (low is None or low <= value) or not (high is None or value <= high):
            raise argparse.ArgumentTypeError(f"got {shown(text)}; wanted {wanted}")
        return value

    return parse


def _between(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    return f", {low} or more" if high is None else f" from {low} to {high}"


def a_path(text: str) -> str:
    """An argparse type: a path, `~` expanded."""
    try:
        return place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


a_batch = whole(1, LARGEST_BATCH)
a_seed = whole(0, LARGEST_SEED)
a_side = whole(1, LARGEST_SIDE)


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--config, --overlay, --set, --seed and --dry_run."""
    parser.add_argument(
        "--config", type=a_path, required=required, metavar="FILE", help="a path, or the name of a file in configs/"
    )
    parser.add_argument(
        "--overlay",
        action="append",
        type=a_path,
        metavar="FILE",
        help="settings on top, e.g. as_published.yml; repeatable",
    )
    parser.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="override any key, e.g. --set training.n_iters=50; repeatable",
    )
    parser.add_argument("--seed", type=a_seed, help="seed of everything random (seeds.seed)")
    parser.add_argument(
        "--dry_run",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="print the resolved config and the plan, and touch nothing",
    )


def config_flags(args: argparse.Namespace, flags: list[str]) -> dict[str, object]:
    """The values of the named flags, None where not given."""
    return {flag: getattr(args, flag) for flag in flags}


def run_main(main: Callable[[list[str] | None], object]) -> int:
    """Run `main()`, print how it failed in one line and return the exit code.

    0; 2 for bad input, a file that cannot be read or written, or too little memory; 128 + the number of a signal (130
    for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP); 141 where the reader of the output has gone; 70 for a bug of ours,
    whose traceback goes into a file that the line names. `--debug` shows tracebacks on the screen.
    """
    for stream in (sys.stdout, sys.stderr):
        # a terminal that knows ASCII alone still shows every line, and a pipe or a file has it at once
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        with stopping():
            main(None)
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        code, line = getattr(stop, "code", 130), str(stop) or "interrupted"
        if os.environ.get("RANK", "0") != "0":
            return code
        return _end(code, line, "\n" * sys.stderr.isatty())  # a terminal shows ^C where its cursor stands
    except BrokenPipeError:
        # Python writes what is left once more when it ends
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _end(141, "the output's reader has gone (broken pipe)")
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        return _end(*_verdict(error))
    return 0


def _verdict(error: Exception) -> tuple[int, str]:
    """Exit code and line of what went wrong."""
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        return 2, f"not enough memory ({describe(error)[:200]}); smaller batches, images or models need less"
    if isinstance(error, (OSError, InputError)):
        return 2, describe(error)
    kept = getattr(error, "kept_in", None) or _keep_traceback(error)
    return BUG, f"this is a bug in Palimpsest: {type(error).__name__}: {describe(error)} (traceback in {kept})"


def _end(code: int, line: str, start: str = "") -> int:
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    with contextlib.suppress(OSError):  # nobody listens
        print(f"{start}{os.path.basename(sys.argv[0])}: {line}", file=sys.stderr, flush=True)
    return code


def _keep_traceback(error: Exception) -> str:
    """The whole traceback in a temporary file, whose name is returned; where there is no place for one, on stderr."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="palimpsest-", suffix=".txt", delete=False, errors="backslashreplace"
        ) as file:
            file.write(text)
        return file.name
    except OSError:
        print(text, file=sys.stderr)
        return "the lines above"


def say(text: str) -> None:
    """To the screen, once: of the processes that torchrun started the first speaks."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(text, flush=True)


def describe(error: Exception) -> str:
    """One line for bad input (its own words) or for a failed system call (`No space left on device: 'path'`).

    What a terminal cannot show, such as a control character in the name of a file, is escaped.
    """
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
