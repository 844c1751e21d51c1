"""The worlds at toy size, as command lines: what every method is run on."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import generate_fisher_mask
import train
from functions import checkpoint

# config files per mode, and what makes them small
WORLDS = {
    "ddpm": {
        "pretrain": ["digits_pretrain.yml", "--set", "model.ch=8"],
        "fisher": ["digits_fisher.yml", "--set", "fisher.draws=1", "--set", "fisher.batch_size=300"],
        "unlearn": ["digits_sfron.yml"],
    },
    "classifier": {
        "pretrain": ["digits_cnn_pretrain.yml", "--set", "model.width=4"],
        "fisher": ["digits_cnn_fisher.yml", "--set", "fisher.batch_size=300"],
        "unlearn": ["digits_cnn_sfron.yml", "--set", "unlearn.forget_every=2"],
    },
}
TOY = ["--set", "training.n_iters=4", "--set", "training.batch_size=8", "--set", "training.log_freq=1",
       "--set", "training.snapshot_freq=2"]  # fmt: skip


def pretrain(world: str, *more: str) -> Path:
    """The run folder of a toy model of this world."""
    return train.main(["--mode", "pretrain", "--config", *WORLDS[world]["pretrain"], *TOY, *more])


def fisher(world: str, run: Path, label: int = 0) -> Path:
    """`mask_<label>` with both Fishers of a toy model."""
    return train.main(
        ["--mode", "generate_fisher", "--config", *WORLDS[world]["fisher"], *from_run(run, label)]
    )


def mask(world: str, run: Path, label: int = 0) -> str:
    """The path of the toy model's mask at gamma 1."""
    folder = fisher(world, run, label)
    generate_fisher_mask.main(["--ckpt_folder", str(folder), "--threshold", "1.0"])
    return str(folder / "fisher_1.0.safetensors")


def unlearn(world: str, mode: str, run: Path, *more: str, label: int = 0) -> Path:
    """The run folder of a toy unlearning run."""
    return train.main(
        ["--mode", mode, "--config", *WORLDS[world]["unlearn"], *TOY, *from_run(run, label), *more]
    )


def from_run(run: Path, label: int) -> list[str]:
    return ["--ckpt_folder", str(run), "--label_to_forget", str(label)]


def stats(run: Path) -> list[dict]:
    """The lines of logs/stats.jsonl."""
    return [json.loads(line) for line in (run / "logs" / "stats.jsonl").read_text().splitlines()]


def weights(run: Path, kind: str = "raw") -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(run, kind)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
