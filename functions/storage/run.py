"""The folder of a run: where it lies, its config, what it prints and its numbers. Torch-free."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from functions.config.methods import MODES
from functions.errors import InputError
from functions.files import PARTIAL, parse_json, umask, write_atomic, write_json
from functions.locks import Busy, remove_leftovers, writing_folder
from functions.records import Count, Record, check_record, read_record


def run_parent(results: str, dataset: str, mode: str, selection: str | None) -> Path:
    """`results/<dataset>/<mode>` for runs that make a model, else `results/<dataset>/forget_<selection>/<mode>`."""
    root = Path(results) / dataset
    return root / mode if mode in ("pretrain", "retrain") else root / f"forget_{selection}" / mode


class Origin(Record):
    """How a run began; what else must be equal to resume it, whoever resumes it compares."""

    mode: str


class Stats(Record):
    """What a step logs: numbers by name."""

    step: Count


Fill = Callable[[Path], None]


def read_origin(run: Path | str) -> dict:
    """What a run began with. Raises InputError where `run` is no run folder."""
    if not (Path(run) / "logs" / "origin.json").is_file():
        raise InputError(f"--resume {run}: not a run folder (wanted logs/origin.json in it)")
    return read_record(Path(run) / "logs" / "origin.json", Origin)


def own_config(run: Path | str) -> Path:
    """The resolved config of a run."""
    read_origin(run)
    return Path(run) / "logs" / "config.yml"


def own_mode(run: Path | str | None) -> str:
    """The mode of a run that `--resume` names, for a command that names none."""
    if run is None:
        raise InputError("--mode: missing; wanted it, --unlearn METHOD or --resume RUN")
    mode = read_origin(run)["mode"]
    if mode not in MODES:
        raise InputError(f"--resume {run}: began with mode {mode}, which nothing goes on from")
    return mode


class RunFolder:
    """`logs/config.yml`, `logs/stdout.txt` and `logs/stats.jsonl` of one run, held by this process until `close`."""

    def __init__(self, path: Path, writes: bool = True):
        """A process that only takes part in a run `writes` and holds nothing."""
        self.path, self.writes = path, writes
        self.logs = path / "logs"
        self._held = contextlib.ExitStack()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def whole_or_absent(self) -> Iterator[None]:
        """Held meanwhile; an error removes the folder: for what is made at once and cannot go on."""
        with self, contextlib.ExitStack() as failed:
            failed.callback(shutil.rmtree, self.path)
            yield
            failed.pop_all()

    def close(self) -> None:
        """Let others write here."""
        self._held.close()

    @classmethod
    def create(cls, parent: Path, config: str, origin: dict, fill: Fill | None = None) -> RunFolder:
        """`<parent>/<yyyy_mm_dd_hhmmss>`, with a suffix where two runs start in one second.

        `config` is the resolved config; `origin` says what a resumed run has to be equal in; `fill` writes more into
        the folder of logs that it is given.
        """
        stamp = datetime.datetime.now().strftime("%Y_%m_%d_%H%M%S")
        for suffix in ("", *(f"_{i}" for i in range(1, 100))):
            path = parent / (stamp + suffix)
            with contextlib.suppress(FileExistsError, Busy):
                if not path.exists():
                    return cls.create_at(path, config, origin, fill)
        raise InputError(f"{parent}: a hundred runs began in this second")

    @classmethod
    def create_at(cls, path: Path, config: str, origin: dict, fill: Fill | None = None) -> RunFolder:
        """The folder `path`, new or empty. Raises FileExistsError where there is anything in it."""
        with contextlib.ExitStack() as failed:
            run = failed.enter_context(cls(path)._hold())
            if any(p.name != ".lock" and not p.name.endswith(PARTIAL) for p in path.iterdir()):
                raise FileExistsError(path)
            remove_leftovers(path)
            logs = Path(tempfile.mkdtemp(dir=path, prefix=".logs.", suffix=PARTIAL))
            failed.callback(shutil.rmtree, logs, ignore_errors=True)
            logs.chmod(0o777 & ~umask())
            write_atomic(logs / "config.yml", config)
            write_json(logs / "origin.json", origin)
            if fill is not None:
                fill(logs)
            # whole or absent: a folder without its origin could not be resumed. Not the folder itself is renamed, which
            # may be a mount point or the goal of a link
            os.rename(logs, run.logs)
            failed.pop_all()
        return run

    @classmethod
    def create_in(cls, path: Path | str, config: str, origin: dict, fill: Fill | None = None) -> RunFolder:
        """The folder `path` itself (`--save_dir`), new or empty. Raises InputError where there is anything in it."""
        try:
            return cls.create_at(Path(path), config, origin, fill)
        except FileExistsError:
            raise InputError(
                f"--save_dir {path}: is not empty; choose another, or --resume {path} to go on there"
            ) from None

    @classmethod
    def reopen(cls, path: Path | str, origin: dict) -> RunFolder:
        """The folder of an earlier run, for `--resume`; nothing in it changes.

        Raises InputError where its origin is not `origin`, and Busy where that run still runs.
        """
        run = cls(Path(path))
        read_origin(path)
        with contextlib.ExitStack() as failed:
            failed.enter_context(run._hold())
            run._check(origin)
            failed.pop_all()
        return run

    def _hold(self) -> RunFolder:
        self._held.enter_context(writing_folder(self.path))
        return self

    def _check(self, origin: dict) -> None:
        """Raises InputError where the run began with another `origin`."""
        path, began = self.path, read_origin(self.path)
        for key, value in origin.items():
            if key == "format" and began.get(key) != value:
                raise InputError(
                    f"--resume {path}: began before configs had a section per mode: its hash cannot be compared; "
                    "start anew or use the version that began it"
                )
            if began.get(key) != value:
                raise InputError(
                    f"--resume {path}: began with another {key}: {_brief(began.get(key))}, "
                    f"this command has {_brief(value)}"
                )

    def go_on(self, config: str, step: int) -> None:
        """Continue after `step`, which is restored: what lies after it is computed again."""
        if not self.writes:
            return
        for folder in (self.path / "ckpts", self.logs, self.path / "previews"):
            remove_leftovers(folder)
        write_atomic(self.logs / "config.yml", config)  # training.n_iters may have grown
        self._forget_after(step)

    def say(self, line: str) -> None:
        """To the screen, above any progress bar, and to logs/stdout.txt."""
        if not self.writes:
            return
        tqdm.write(line)
        self.note(line)

    def note(self, line: str) -> None:
        """To logs/stdout.txt alone."""
        if not self.writes:
            return
        with open(self.logs / "stdout.txt", "a") as file:
            file.write(line + "\n")

    def record(self, stats: dict[str, float]) -> None:
        """One line of logs/stats.jsonl."""
        if not self.writes:
            return
        with open(self.logs / "stats.jsonl", "a") as file:
            file.write(json.dumps(stats, allow_nan=False) + "\n")

    def _forget_after(self, step: int) -> None:
        """Drop the lines of stats.jsonl after `step`, and a half-written last one."""
        path = self.logs / "stats.jsonl"
        if not path.exists():
            return
        kept = [stats for stats in read_stats(path) if stats["step"] <= step]
        write_atomic(path, "".join(json.dumps(stats) + "\n" for stats in kept))

    def keep_traceback(self) -> None:
        """The traceback of the exception being handled goes to the log; the screen gets one line."""
        if not self.writes:
            return
        with open(self.logs / "stdout.txt", "a") as file:
            file.write(traceback.format_exc())
            os.fsync(file.fileno())
        sys.exc_info()[1].kept_in = file.name  # for the line that ends the process


def _brief(value: object) -> str:
    """A hash by its first letters, anything else as it is."""
    return value[:12] if isinstance(value, str) else str(value)


def read_stats(path: Path) -> list[dict]:
    """The lines of a stats.jsonl. A last one that was half written when its run ended is left out.

    Raises InputError with the number of any other line that is none.
    """
    lines, found = path.read_bytes().splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            stats = parse_json(line, f"{path}: line {number}")
            check_record(stats, Stats, f"{path}: line {number}")
        except InputError:
            if number < len(lines):
                raise
            break
        found.append(stats)
    return found
