"""What scripts share on the command line: the config flags, and errors as one line and an exit code that is not 0."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from functions.errors import InputError
from functions.interrupts import stopping


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--config, --overlay, --set, --seed, --dry_run and --debug."""
    parser.add_argument("--config", required=required, metavar="FILE", help="a path, or the name of a file in configs/")
    parser.add_argument(
        "--overlay", action="append", metavar="FILE", help="settings on top, e.g. as_published.yml; repeatable"
    )
    parser.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="override any key, e.g. --set training.n_iters=50; repeatable",
    )
    parser.add_argument("--seed", type=int, help="seed of everything random (seeds.seed)")
    parser.add_argument(
        "--dry_run",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="print the resolved config and the plan, and touch nothing",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def config_flags(args: argparse.Namespace, flags: list[str]) -> dict[str, object]:
    """The values of the named flags, None where not given."""
    return {flag: getattr(args, flag) for flag in flags}


def run_main(main: Callable[[list[str] | None], None]) -> int:
    """Run `main()` and return the exit code: 0, 2 for bad input or a file that cannot be written, 128 + the number
    of a signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.

    Other exceptions are defects of ours and keep their traceback. `--debug` keeps it for bad input too.
    """
    script = os.path.basename(sys.argv[0])
    try:
        with stopping():
            main(None)
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":
            print(f"\n{script}: {stop or 'interrupted'}", file=sys.stderr)
        return getattr(stop, "code", 130)
    except (OSError, InputError) as error:
        if "--debug" in sys.argv:
            raise
        print(f"{script}: {describe(error)}", file=sys.stderr)
        return 2
    return 0


def say(text: str) -> None:
    """To the screen, once: of the processes that torchrun started the first speaks."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(text, flush=True)


def describe(error: Exception) -> str:
    """One line for bad input (its own words) or for a failed system call (`No space left on device: 'path'`)."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    return " ".join(str(error).split())
