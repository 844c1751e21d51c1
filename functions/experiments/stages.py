"""A list of commands, each run through its script's `main(argv)` in one process, recorded, and skipped once done.

Importing torch costs seconds a process; experiments of fifty commands run in one. Every command is printed as it would
be typed. A list that is killed is started again: finished stages are skipped, a training run in the middle is resumed.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from pathlib import Path

from functions.config.load import resolved_hash
from functions.errors import InputError
from functions.files import version, write_json
from functions.locks import writing_file
from functions.records import Amount, Record, read_record

ONLY_MODE = {"fim": "fim", "encode_dataset": "encode"}  # of scripts that have no --mode
REMEDY = "to run it again move that file and the run away, or choose another --out"


class Done(Record):
    """A finished stage."""

    command: str
    config: str | None
    seconds: Amount
    result: str | list[str] | None


class Stages:
    """Runs stages by name. With a `folder`, each leaves `<folder>/<stage>.json` and runs once; without, always."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}  # by name; a name that comes again adds up

    def run(self, stage: str, script, *argv: object, root: Path | None = None):
        """`script.main(argv)`, or what it returned when the stage was done before (paths only).

        `root` is the folder that a training stage, and no other, writes its run to: one that a kill left is resumed.
        Raises InputError where the stage is recorded with another command or other contents of its config.
        """
        words = [str(a) for a in argv]
        command = f"python {script.__name__}.py {shlex.join(words)}"
        record = self.record(stage)
        # beside another process with the same list the stage is waited for, and then it is done
        with contextlib.nullcontext() if record is None else writing_file(record, patience=math.inf):
            return self._run(stage, script, words, command, record, root)

    def _run(self, stage: str, script, words: list[str], command: str, record: Path | None, root: Path | None):
        made = {"command": command, "config": resolved_hash(words, ONLY_MODE.get(script.__name__))}
        if self.done(stage):
            found = _done(record, made)
            result, self.seconds[stage] = _paths(found["result"]), found["seconds"]
            if _there(result):
                return result
            print(f"{record}: what this stage wrote is gone: once more", flush=True)
            del self.seconds[stage]
        if root is not None and (left := unfinished(root)):
            words += ["--resume", str(left)]
        print(f"\n$ {command}", flush=True)
        start = time.perf_counter()
        result = script.main(words)
        seconds = round(time.perf_counter() - start, 1)
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 1)
        if record:
            write_json(record, {**made, "seconds": seconds, "version": version(), "result": _plain(result)})
        return result

    def record(self, stage: str) -> Path | None:
        return self.folder / f"{stage}.json" if self.folder else None

    def done(self, stage: str) -> bool:
        """Whether it has left a record."""
        return self.folder is not None and self.record(stage).is_file()

    def took(self, stage: str) -> float:
        """Seconds of a finished stage."""
        return read_record(self.record(stage), Done, REMEDY)["seconds"]


def _done(record: Path, made: dict) -> dict:
    """The record of a finished stage, if it was this command with these settings."""
    found = read_record(record, Done, REMEDY)
    if found["command"] != made["command"]:
        raise InputError(
            f"{record}: this stage was run as `{found['command']}`, now it is `{made['command']}`: {REMEDY}"
        )
    if found["config"] != made["config"]:
        raise InputError(f"{record}: the config of `{made['command']}` has changed since this stage was run: {REMEDY}")
    return found


def unfinished(root: Path) -> Path | None:
    """The newest run folder below `root`, if any; one that a kill left in the making has no logs yet."""
    runs = sorted(origin.parent.parent for origin in root.rglob("logs/origin.json"))
    return runs[-1] if runs else None


def _there(result) -> bool:
    """Whether all paths that a stage returned are still there."""
    return all(path.exists() for path in (result if isinstance(result, list) else [result] if result else []))


def _plain(result):
    """Paths as text, for JSON."""
    if isinstance(result, (list, tuple)):
        return [str(r) for r in result]
    return None if result is None else str(result)


def _paths(result):
    if isinstance(result, list):
        return [Path(r) for r in result]
    return None if result is None else Path(result)
