"""The checkpoints that images are drawn from: what each is, checked before anything is loaded, and its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from functions.config.schema import Config
from functions.config.selection import forgotten_classes
from functions.errors import InputError
from functions.sampling import contract, samplers, sheet
from functions.sampling.write import Pairs, write_picture
from functions.storage.checkpoint import Snapshot
from functions.storage.encoders import placed
from functions.tasks import Denoising, denoising
from functions.training.distributed import choose_device

ALL_ROWS, ROWS = 20, 10  # classes of a picture: all of so many, or those nearest to the forgotten ones


@dataclass(frozen=True)
class Source:
    """The `kind` weights of the newest snapshot of a run; `encoder` as meta.json has it, at the place it is at now.

    `zoo` is the package `models`, which nothing in functions imports.
    """

    folder: str
    snapshot: Snapshot
    kind: str
    encoder: dict

    @classmethod
    def open(cls, cfg: Config, zoo: ModuleType) -> Source:
        """Of `cfg.ckpt_folder`. Raises InputError for a checkpoint that this config does not draw from."""
        snapshot = Snapshot.open(cfg.ckpt_folder)
        meta, kind = snapshot.meta, snapshot.kind(cfg.sampling.weights)
        contract.check_checkpoint(cfg, meta)
        learned, channels = meta["diffusion"]["learned_variance"], meta["model"]["kwargs"].get("in_channels")
        samplers.check(cfg.sampling, meta["diffusion"]["timesteps"], learned, channels)
        asked = cfg.encoder and zoo.encoder_meta(**cfg.encoder.model_dump())
        return cls(cfg.ckpt_folder, snapshot, kind, placed(meta["encoder"], asked, cfg.ckpt_folder))

    @property
    def meta(self) -> dict:
        return self.snapshot.meta

    @property
    def hash(self) -> str:
        """SHA-256 of the weights."""
        return self.snapshot.hash(self.kind)

    @property
    def forgotten(self) -> list[int]:
        """The classes that its run forgot."""
        return forgotten_classes(self.meta["forget"])

    def contract(self, cfg: Config, classes: list[int]) -> dict:
        """How images of these classes are made."""
        return contract.generation_contract(cfg, self.meta, self.kind, self.hash, classes)

    def load(self, cfg: Config, zoo: ModuleType) -> tuple[Denoising, nn.Module]:
        """Task and model, on the device, in eval mode, no gradients; seeded for dropout that stays on."""
        model = self.snapshot.model(self.kind, zoo.build)
        task = denoising(self.meta["diffusion"], zoo.encoder(self.encoder), self.meta["data"]["n_classes"])
        # dropout draws from torch's own generator: batches matter, runs don't
        if cfg.sampling.train_mode:
            torch.manual_seed(cfg.seeds.seed)
        device = choose_device(cfg.device)
        return task.to(device), model.to(device).eval().requires_grad_(False)

    def drawing(
        self, cfg: Config, zoo: ModuleType, there: Callable[[tuple[int, int]], bool] = lambda pair: False
    ) -> Callable[[Pairs], Iterator[tuple[Pairs, Tensor]]]:
        """The model is read now; then pairs (class, number) -> batches of them with their pixels, `there` left out."""
        task, model = self.load(cfg, zoo)
        shape = task.encoder.shape(self.meta["data"]["shape"])
        return lambda pairs: samplers.generate_all(task, model, pairs, shape, cfg.sampling, cfg.seeds.seed, there)


def check_beside(sources: list[Source]) -> None:
    """Raises InputError where one of several runs draws pictures of another shape, or of other classes."""
    first, *others = sources
    for other in others:
        for key in ("shape", "classes"):
            if first.meta["data"][key] != (found := other.meta["data"][key]):
                own = str(first.meta["data"][key])[:60]
                raise InputError(f"--beside {other.folder}: data.{key}: {str(found)[:60]}, {first.folder} has {own}")


def shown_classes(sources: list[Source]) -> list[int]:
    """The rows of a picture that nobody chose: all classes, or of many the forgotten ones and their neighbours."""
    n, forgotten = sources[0].meta["data"]["n_classes"], sorted({c for s in sources for c in s.forgotten})
    return list(range(n)) if n <= ALL_ROWS else sheet.nearest_classes(n, ROWS, forgotten)


def titles(sources: list[Source]) -> list[str]:
    """What each is called on a picture: its mode, with its folder's name where several have that."""
    modes = [m if (m := s.meta.get("mode")) not in (None, "pretrain", "import") else "original" for s in sources]
    places = [s.snapshot.path.resolve().parent.parent.name for s in sources]
    names = [mode if modes.count(mode) == 1 else f"{mode} {place}" for mode, place in zip(modes, places)]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def draw_picture(out: Path, wanted: Pairs, sources: list[Source], cfg: Config, zoo: ModuleType) -> None:
    """The `wanted` images of every source on one picture, from the same noise, with how they are made beside it."""
    classes = list(dict.fromkeys(c for c, _ in wanted))
    s, made = cfg.sampling, [source.contract(cfg, classes) for source in sources]
    names = (
        titles(sources) if len(sources) > 1 else [f"{s.sample_type}, {s.timesteps} steps, guidance {s.cond_scale:g}"]
    )
    sides = {
        name: (lambda pairs, source=source: source.drawing(cfg, zoo)(pairs)) for name, source in zip(names, sources)
    }
    forgotten = {c for source in sources for c in source.forgotten}
    rows = sheet.rows_of(classes, sources[0].meta["data"]["classes"], forgotten)
    write_picture(out, wanted, sides, rows, {**made[0], "beside": made[1:]} if made[1:] else made[0], s)
