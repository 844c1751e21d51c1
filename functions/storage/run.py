"""The folder of a run: where it lies, its config, what it prints and its numbers. Torch-free."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
import traceback
from pathlib import Path

from tqdm import tqdm

from functions.errors import InputError
from functions.files import read_json, umask, write_atomic, write_json


def run_parent(results: str, dataset: str, mode: str, selection: str | None) -> Path:
    """`results/<dataset>/<mode>` for runs that make a model, else `results/<dataset>/forget_<selection>/<mode>`."""
    root = Path(results) / dataset
    return root / mode if mode in ("pretrain", "retrain") else root / f"forget_{selection}" / mode


class RunFolder:
    """`logs/config.yml`, `logs/stdout.txt` and `logs/stats.jsonl` of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.logs = path / "logs"

    @classmethod
    def create(cls, parent: Path, config: str, origin: dict) -> RunFolder:
        """`<parent>/<yyyy_mm_dd_hhmmss>`, with a suffix where two runs start in one second.

        `config` is the resolved config; `origin` says what a resumed run has to be equal in.
        """
        stamp = datetime.datetime.now().strftime("%Y_%m_%d_%H%M%S")
        for suffix in ("", *(f"_{i}" for i in range(1, 100))):
            try:
                return cls.create_at(parent / (stamp + suffix), config, origin)
            except FileExistsError:
                continue
        raise InputError(f"{parent}: a hundred runs began in this second")

    @classmethod
    def create_at(cls, path: Path, config: str, origin: dict) -> RunFolder:
        """The new folder `path`. Raises FileExistsError where there is one."""
        if path.exists():
            raise FileExistsError(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        made = cls(Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.")))
        made.path.chmod(0o777 & ~umask())
        write_atomic(made.logs / "config.yml", config)
        write_json(made.logs / "origin.json", origin)
        os.rename(made.path, path)  # whole or absent: a folder without its origin could not be resumed
        return cls(path)

    @classmethod
    def create_in(cls, path: Path | str, config: str, origin: dict) -> RunFolder:
        """The folder `path` itself (`--save_dir`), new or empty. Raises InputError where there is anything in it."""
        path = Path(path)
        if path.is_dir() and any(path.iterdir()):
            raise InputError(f"--save_dir {path}: is not empty; choose another, or --resume {path} to go on there")
        if path.is_dir():
            path.rmdir()
        return cls.create_at(path, config, origin)

    @classmethod
    def reopen(cls, path: Path | str, config: str, origin: dict) -> RunFolder:
        """The folder of an earlier run, for `--resume`. Raises InputError where its origin is not `origin`."""
        run = cls(Path(path))
        if not (run.logs / "origin.json").is_file():
            raise InputError(f"--resume {path}: not a run folder (wanted logs/origin.json in it)")
        began = read_json(run.logs / "origin.json")
        for key, value in origin.items():
            if began.get(key) == value:
                continue
            if key == "format":
                raise InputError(
                    f"--resume {path}: began before configs had a section per mode: its hash cannot be compared; "
                    "start anew or use the version that began it"
                )
            raise InputError(
                f"--resume {path}: began with another {key}: {_brief(began.get(key))}, this command has {_brief(value)}"
            )
        write_atomic(run.logs / "config.yml", config)  # training.n_iters may have grown
        return run

    def say(self, line: str) -> None:
        """To the screen, above any progress bar, and to logs/stdout.txt."""
        tqdm.write(line)
        with open(self.logs / "stdout.txt", "a") as file:
            file.write(line + "\n")

    def record(self, stats: dict[str, float]) -> None:
        """One line of logs/stats.jsonl."""
        with open(self.logs / "stats.jsonl", "a") as file:
            file.write(json.dumps(stats, allow_nan=False) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the lines of stats.jsonl after `step` (and a half-written last one): they are computed again."""
        path = self.logs / "stats.jsonl"
        if not path.exists():
            return
        kept = [line for line in path.read_text().splitlines(keepends=True) if _step(line) <= step]
        write_atomic(path, "".join(kept))

    def keep_traceback(self) -> None:
        """The traceback of the exception being handled goes to the log; the screen gets one line."""
        with open(self.logs / "stdout.txt", "a") as file:
            file.write(traceback.format_exc())
            os.fsync(file.fileno())


def _brief(value: object) -> str:
    """A hash by its first letters, anything else as it is."""
    return value[:12] if isinstance(value, str) else str(value)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return float("inf")
