"""The worlds at toy size, as command lines: what every method is run on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pytest
import torch
import yaml

import fim
import generate_fisher_mask
import sample
import train
from functions.config import layers
from functions.config.methods import METHODS
from functions.storage.checkpoint import Snapshot

# config files per mode, and what makes them small
BASELINES = (
    *("finetune", "ga", "sa", "esd", "erasediff"),
    *("neggrad", "l1_sparse", "salun_soft", "scrub", "bad_teacher", "fisher_forget"),
)
# An untrained autoencoder of digits, 1 x 8 x 8 -> 2 x 4 x 4
VAE = Path(__file__).parent / "toy_vae"
DIT = ["dit.yml", "--set", "data={dataset: digits}", "--set", f"encoder={{name: latents, vae: {VAE}}}"]
# A new DiT is the identity in every block: four steps have to leave that behind
FAST = ["--set", "optim.lr=0.01"]
WORLDS = {
    "ddpm": {
        "pretrain": ["digits_pretrain.yml", "--set", "model.ch=8"],
        "fisher": ["digits_fisher.yml", "--set", "fisher.draws=1", "--set", "fisher.batch_size=300"],
        "sfron": ["digits_sfron.yml"],
        "saliency": ["digits_saliency_unlearn.yml", "--set", "saliency.draws=1"],
        "salun": ["digits_saliency_unlearn.yml"],
        **{mode: ["digits_baselines.yml"] for mode in BASELINES},
        "iu": ["digits_baselines.yml", "--set", "iu.k=8"],
    },
    "dit": {
        "pretrain": [*DIT, "--set", "model={name: dit, hidden_size: 16, depth: 1, num_heads: 2}", *FAST],
        "fisher": [*DIT, "--set", "fisher.batch_size=300"],
        "sfron": DIT,
        "saliency": DIT,
        "salun": DIT,
        **dict.fromkeys(BASELINES, DIT),
        "iu": [*DIT, "--set", "iu.k=8"],
        "sample": DIT,
        "fim": DIT,
    },
    "classifier": {
        **{mode: ["digits_classifier.yml"] for mode, section in METHODS.items() if section.section == "unlearn"},
        "pretrain": ["digits_classifier.yml", "--set", "model={name: cnn, width: 4}"],
        "fisher": ["digits_classifier.yml", "--set", "fisher.batch_size=300"],
        "sfron": ["digits_classifier.yml", "--set", "unlearn.forget_every=2"],
        "saliency": ["digits_classifier.yml"],
        "iu": ["digits_classifier.yml", "--set", "iu.k=8"],
    },
}
TOY = [
    "--set",
    "training.n_iters=4",
    "--set",
    "training.batch_size=8",
    "--set",
    "training.log_freq=1",
    "--set",
    "training.snapshot_freq=2",
    # sampling costs more than the four steps: tests/training/test_previews.py looks at the grids
    "--set",
    "training.preview=off",
    # so does a plot: tests/experiments/test_curves.py looks at them
    "--set",
    "training.curves=false",
]


def pretrain(world: str, *more: str) -> Path:
    """The run folder of a toy model of this world."""
    return train.main(["--mode", "pretrain", "--config", *WORLDS[world]["pretrain"], *TOY, *more])


def fisher(world: str, run: Path, label: int = 0) -> Path:
    """`mask_<label>` with both Fishers of a toy model."""
    return train.main(["--mode", "generate_fisher", "--config", *WORLDS[world]["fisher"], *from_run(run, label)])


def mask(world: str, run: Path, label: int = 0) -> str:
    """The path of the toy model's mask at gamma 1."""
    folder = fisher(world, run, label)
    generate_fisher_mask.main(["--ckpt_folder", str(folder), "--threshold", "1.0"])
    return str(folder / "fisher_1.0.safetensors")


def saliency(world: str, run: Path, label: int = 0) -> str:
    """The path of SalUn's mask of the toy model, half of the weights."""
    folder = train.main(["--mode", "generate_mask", "--config", *WORLDS[world]["saliency"], *from_run(run, label)])
    return str(folder / "with_0.5.safetensors")


def replay_fisher(world: str, run: Path) -> str:
    """The path of the toy model's Fisher for Selective Amnesia; for a diffusion model with its samples to replay."""
    if world == "classifier":
        return str(fisher(world, run) / "remain_fisher.safetensors")
    config = {part: WORLDS[world].get(part, [f"digits_{part}.yml"]) for part in ("sample", "fim")}
    few = ["--n_samples_per_class", "2", "--timesteps", "2"]
    sample.main(["--mode", "sample_classes", "--config", *config["sample"], "--ckpt_folder", str(run), *few])
    return str(fim.main(["--config", *config["fim"], "--ckpt_folder", str(run), "--set", "fim.per_class=1"]))


def unlearn(world: str, mode: str, run: Path, *more: str, label: int = 0) -> Path:
    """The run folder of a toy unlearning run."""
    return train.main(["--mode", mode, "--config", *WORLDS[world][mode], *TOY, *from_run(run, label), *more])


class Toy:
    """A toy original of a world in `folder` with what its methods need, each part made when it is first asked for.

    Ask in fixtures that come before a test's own patches: what is made here serves the whole suite.
    """

    def __init__(self, world: str, folder: Path) -> None:
        self.world, self.folder = world, folder

    def _made(self, make: Callable[..., Path | str], *words) -> Path:
        """What `make(world, *words)` writes, with its whole path."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            return Path(make(self.world, *words)).resolve()

    @cached_property
    def run(self) -> Path:
        """The run folder."""
        return self._made(pretrain)

    @cached_property
    def mask(self) -> Path:
        """SFR-on's mask of class 0 at gamma 1; both Fishers lie beside it."""
        return self._made(mask, self.run)

    @cached_property
    def saliency(self) -> Path:
        """SalUn's mask of class 0, half of the weights."""
        return self._made(saliency, self.run)

    @cached_property
    def replay_fisher(self) -> Path:
        """Selective Amnesia's Fisher; for a diffusion model with its samples to replay."""
        return self._made(replay_fisher, self.run)


def small_configs(patch: pytest.MonkeyPatch) -> None:
    """configs/ is a copy here in which the digits DDPM is small: two steps, 25 timesteps, samples of 4, no previews."""
    shutil.copytree(layers.CONFIG_FOLDER, "configs")
    small = {
        "diffusion": {"timesteps": 25},
        "model": {"ch": 8},
        "training": {"n_iters": 2, "batch_size": 8, "snapshot_freq": 2, "preview": "off", "curves": False},
        "fisher": {"draws": 1},
        "fim": {"per_class": 2},
        "sampling": {"timesteps": 4},
    }
    for path in Path("configs/ddpm").glob("digits*.yml"):
        cfg = yaml.safe_load(path.read_text())
        for section in cfg.keys() & small.keys():
            cfg[section] |= small[section]
        for block in cfg.get("modes", {}).values():
            block.pop("training", None)
        path.write_text(yaml.safe_dump(cfg))
    patch.setattr(layers, "CONFIG_FOLDER", Path("configs").resolve())


def from_run(run: Path, label: int) -> list[str]:
    return ["--ckpt_folder", str(run), "--label_to_forget", str(label)]


def stats(run: Path) -> list[dict]:
    """The lines of logs/stats.jsonl."""
    return [json.loads(line) for line in (run / "logs" / "stats.jsonl").read_text().splitlines()]


# ---- what the newest snapshot of a run, or the snapshot itself, says


def load_meta(run: Path | str) -> dict:
    return Snapshot.open(run).meta


def load_weights(run: Path | str, kind: str) -> dict[str, torch.Tensor]:
    return Snapshot.open(run).weights(kind)


def weights_hash(run: Path | str, kind: str) -> str:
    return Snapshot.open(run).hash(kind)


def choose_kind(run: Path | str, kind: str) -> str:
    return Snapshot.open(run).kind(kind)


def load_state(run: Path | str) -> dict:
    return Snapshot.open(run).state()


def load_indices(run: Path | str) -> dict[str, torch.Tensor] | None:
    return Snapshot.open(run).indices()


def weights(run: Path, kind: str = "raw") -> dict[str, torch.Tensor]:
    return load_weights(run, kind)


def meta(**more: object) -> dict:
    """What `meta.json` says of a small classifier of digits, `more` put over it; for snapshots that nobody trained."""
    data = {"dataset": "digits", "n_classes": 10, "shape": [1, 8, 8], "classes": [str(c) for c in range(10)]}
    kwargs = {"in_channels": 1, "n_classes": 10, "image_size": 8, "width": 4}
    return {
        "world": "classifier",
        "mode": "pretrain",
        "model": {"name": "cnn", "kwargs": kwargs},
        "encoder": {"name": "pixels", "kwargs": {}},
        "diffusion": None,
        "data": data,
        "config": {"data": {"path": "data", "image_size": None}},
        **more,
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
