"""The run that unlearning starts from, found and read once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

import models
from functions.config.schema import Config
from functions.errors import InputError
from functions.storage import checkpoint
from functions.storage.checkpoint import Snapshot
from functions.storage.encoders import placed


def printed_indices(run: str) -> str:
    """The images that a run was trained on, as JSON that --forget_idx reads; those it forgot and set aside beside them.

    Raises InputError where the run kept none.
    """
    snapshot = Snapshot.open(run)
    found = snapshot.indices()
    if found is None:
        raise InputError(f"{run}: an older run that kept no indices of its data (--print_indices)")
    data = {key: value for key, value in snapshot.meta["data"].items() if key in ("dataset", "n")}
    kept = {key: found[key].tolist() for key in ("forget", "val") if key in found}
    return json.dumps({**data, "split": "train", "indices": found["remain"].tolist(), **kept})


def without_dropout(model: nn.Module) -> nn.Module:
    """The same model, its Dropout layers doing nothing from now on."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@dataclass(frozen=True)
class Original:
    """What `ckpt_folder` held when this command began: what its run saves meanwhile does not change it."""

    folder: str  # as it was named, for messages
    snapshot: Snapshot
    kind: str  # raw or ema, what is read of it

    @classmethod
    def open(cls, cfg: Config) -> Original | None:
        """The newest snapshot of `ckpt_folder`; None where there is none to start from."""
        if cfg.ckpt_folder is None:
            return None
        return cls(cfg.ckpt_folder, Snapshot.open(cfg.ckpt_folder), cfg.init_weights)

    @property
    def meta(self) -> dict:
        return self.snapshot.meta

    @property
    def hash(self) -> str:
        """SHA-256 of the weights: the identity of the original in provenance."""
        return self.snapshot.hash(self.kind)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        return self.snapshot.weights(self.kind)

    @cached_property
    def indices(self) -> dict[str, Tensor] | None:
        """Its data, see `Snapshot.indices`; None where it does not say."""
        return self.snapshot.indices()

    @property
    def pretrained(self) -> str | None:
        """The architecture whose ImageNet weights it, or what it descends from, began with; None: random ones."""
        return self.meta.get("pretrained")

    @property
    def forgotten(self) -> list[dict]:
        """What it, and what it descends from, had forgotten."""
        own = [self.meta["selection"]] if self.meta.get("selection") else []
        return [*self.meta.get("forgotten_before", []), *own]

    def model(self, dropout: bool) -> nn.Module:
        """The original, ready to be changed; without `dropout` its Dropout layers do nothing."""
        model = self.snapshot.model(self.kind, models.build)
        return model if dropout else without_dropout(model)

    def encoder(self, asked: dict | None) -> dict:
        """As `meta.json` stores it. `asked` may say where an autoencoder lies now, and nothing else.

        Raises InputError for another one. One that a published name stands for has no hash before it is first used.
        """
        return placed(self.meta["encoder"], asked, self.folder)

    def check(self, cfg: Config, data: dict, wanted: dict | None) -> None:
        """Raises InputError where it is of another world, data set, architecture or diffusion than the config.

        `data` as `meta.json` keeps it; `wanted` the model that the config asks for, where it asks for one.
        """
        self._agree("world", cfg.world, self.meta["world"])
        for key, value in data.items():
            # older files lack these, and so do converted checkpoints
            if key not in ("n", "content") or key in self.meta["data"]:
                self._agree(f"data.{key}", value, self.meta["data"][key])
        if wanted is not None:
            self._same_architecture(wanted)
        if cfg.diffusion is not None:
            self._agree("diffusion", cfg.diffusion.model_dump(), self.meta["diffusion"])

    def _agree(self, key: str, wanted: object, found: object) -> None:
        if wanted != found:
            raise InputError(f"{self.folder}: {key}: the checkpoint has {found}, the config {wanted}")

    def _same_architecture(self, wanted: dict) -> None:
        """Raises InputError where the config asks for another model: how many weights, and which."""
        stored = self.meta["model"]
        if wanted == stored:
            return
        what = f"{self.folder}: model: the checkpoint has {stored}, the config {wanted} (--arch)"
        checkpoint.load_into(models.build(wanted), self.weights, what)
        raise InputError(what)  # other settings of the same weights
