"""The loop. A runner knows data, devices, optimiser, EMA, logging, checkpoints and resume; a method knows one step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.utils import save_image
from tqdm import tqdm

from datasets import FolderImages, ImageSet, Stream, ordered
from datasets.split import save_indices
from functions.config.load import FORMAT, config_hash, dump_config
from functions.config.schema import Config
from functions.errors import InputError
from functions.randomness import key_seed
from functions.storage import checkpoint
from functions.storage.artifacts import load_mask, read_provenance
from functions.storage.cost import Cost
from functions.storage.run import RunFolder, run_parent
from functions.training.batchnorm import freeze_statistics, recalibrate
from functions.training.epochs import Epochs
from functions.training.forward import counted, training_forward
from functions.training.optim import make_optimizer, set_lr
from functions.training.schedules import cosine_decay, step_decay
from runners.mixing import everything, marked
from runners.setup import GRID_ROW, Setup

Mask = dict[str, Tensor]


class Runner:
    """One training run. Subclasses define `step(k)` and are not subclassed themselves.

    Class attributes: `mode`, its name on the command line; `fresh`, whether it starts from a new model;
    `always_masked`, whether every one of its updates goes through the mask, so that masked weights can stay;
    `closed_form`, whether one step without an optimiser is all of it.
    Every random draw of step k comes from a generator seeded by (seed, k): nothing has to be restored on resume.
    """

    mode: str
    fresh = False
    always_masked = False
    closed_form = False
    copies = 0  # of the weights, that a method keeps besides what every run does

    def __init__(self, cfg: Config, setup: Setup, resume: str | None = None):
        self.task, self.device, self.meta = setup.task, setup.device, setup.meta
        self.selection, self.indices = setup.selection, setup.indices
        self.plain, self.preview, self.validate = setup.model, setup.preview, setup.validate
        self.cfg = cfg
        sizes = {"remain": len(setup.remain), "forget": 0 if setup.forget is None else len(setup.forget)}
        sizes["both"] = sum(sizes.values())
        self.epochs = Epochs(sizes, cfg.training.batch_size, self.passes)
        length = cfg.training.n_iters or self.epochs.total(cfg.training.epochs)
        self.cfg = cfg = with_length(cfg, 1 if self.closed_form else length)
        self.model = training_forward(self.plain, self.device, cfg.training)
        self.names, self.params = zip(*((n, p) for n, p in self.plain.named_parameters() if p.requires_grad))
        u = cfg.unlearn
        everywhere = "strict" if self.always_masked else "gradient"  # unless the config says otherwise
        self.strict = bool(u and u.mask_path and (u.mask_mode or everywhere) == "strict")
        self.optimizer = self.optimizer_f = None
        if not self.closed_form:
            self.optimizer = self.optimizer_f = make_optimizer(self.params, cfg.optim, decay=not self.strict)
        if u and u.optimizer_state == "separate" and not self.always_masked:
            self.optimizer_f = make_optimizer(self.params, cfg.optim, decay=not self.strict)
        self.remain = self._stream(setup.images, setup.remain, "remain")
        self.forget = self._stream(setup.images, setup.forget, "forget") if setup.forget is not None else None
        self.both: Stream | None = None  # forget and remain images mixed, for those who ask (runners.mixing)
        self.extra: torch.nn.Module | None = None  # trained along, and left out of the model that is saved
        self.mask = self._load_mask(setup)
        self.resume = resume
        self.ema: AveragedModel | None = None
        if cfg.training.ema:
            self.ema = AveragedModel(self.plain, multi_avg_fn=get_ema_multi_avg_fn(cfg.training.ema_rate))
        self.first_bad = torch.full((), -1, dtype=torch.long, device=self.device)  # the step that lost its mind
        self.cost = Cost()
        self.setup(setup)
        self.cost.watch(counted(self.model))  # last: copies made before do not count for it

    def setup(self, setup: Setup) -> None:
        """What a method needs beyond the above: anchors, teachers, other data. The weights are still the original's."""

    def step(self, k: int) -> dict[str, Tensor | float]:
        """One update of the method. Returns what to log, as tensors: nothing is read on the host here."""
        raise NotImplementedError

    def passes(self, epoch: int) -> tuple[str, ...]:
        """The sets that an epoch passes over, in turn: remain, forget, or both (mixed)."""
        return ("remain",)

    # ---- what steps use

    def remain_loss(self) -> Tensor:
        """Mean loss on the next remain batch, labels dropped with the task's p_uncond."""
        return self.task.losses(self.model, self.task.draw(*next(self.remain), drop=True)).mean()

    def forget_alpha(self, k: int) -> float:
        """The forget weight at step k: alpha, or alpha (1 + cos(pi k / n_iters)) / 2 with `decay_forget_alpha`."""
        u = self.cfg.unlearn
        return cosine_decay(u.forget_alpha, k, self.cfg.training.n_iters) if u.decay_forget_alpha else u.forget_alpha

    def descend(
        self,
        loss: Tensor | Sequence[Tensor],
        mask: Mask | None = None,
        clip: float | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """zero, backward, mask, clip, step, in this order: the only update of weights in the project.

        `loss` is a scalar, or the gradients of all weights where a method has combined them itself. With a strict mask
        weight decay is masked too: folded into the clipped gradient as torch's optimisers do, g = m (g + wd theta), or
        AdamW's by hand, theta -= lr wd m theta. Moments of masked weights stay zero, the weights bit-identical.
        """
        optimizer = optimizer or self.optimizer
        optimizer.zero_grad()
        if isinstance(loss, Tensor):
            loss.backward()
        else:
            for p, g in zip(self.params, loss, strict=True):
                p.grad = g
        if mask is not None:
            if self.cfg.unlearn.clip_first and clip is not None:
                torch.nn.utils.clip_grad_norm_(self.params, clip)
            self._mask(mask)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.params, clip)
        if mask is not None and self.strict and self.cfg.optim.weight_decay:
            self._decay(mask, optimizer)
        optimizer.step()

    @torch.no_grad()
    def move(self, delta: Sequence[Tensor]) -> None:
        """theta += delta, in the mask where there is one: how closed forms change the weights."""
        for n, p, d in zip(self.names, self.params, delta, strict=True):
            p.copy_(p + d if self.mask is None else torch.where(self.mask[n].bool(), p + d, p))

    def _with_gradient(self, mask: Mask) -> tuple[tuple, tuple, tuple]:
        """Weights that have a gradient, their gradients and their masks."""
        rows = ((p, p.grad, mask[n]) for n, p in zip(self.names, self.params) if p.grad is not None)
        return tuple(zip(*rows))

    def _mask(self, mask: Mask) -> None:
        _, gradients, masks = self._with_gradient(mask)
        torch._foreach_mul_(gradients, masks)

    @torch.no_grad()
    def _decay(self, mask: Mask, optimizer: torch.optim.Optimizer) -> None:
        """The weight decay that a strict mask takes from the optimiser, on the weights in the mask."""
        params, gradients, masks = self._with_gradient(mask)
        masked = torch._foreach_mul(params, masks)
        if self.cfg.optim.name == "adamw":
            rate = optimizer.param_groups[0]["lr"] * self.cfg.optim.weight_decay
            torch._foreach_add_(params, masked, alpha=-rate)
        else:
            torch._foreach_add_(gradients, masked, alpha=self.cfg.optim.weight_decay)

    # ---- the loop

    def run(self) -> Path:
        """Train to `n_iters`, log, preview and save on the way; returns the run folder."""
        self.folder, start = self._open()
        try:
            self._loop(start)
        except BaseException:
            self.folder.keep_traceback()
            raise
        return self.folder.path

    def _loop(self, start: int) -> None:
        training, u = self.cfg.training, self.cfg.unlearn
        self.plain.train()
        if u and u.bn_mode == "freeze":
            freeze_statistics(self.plain)
        self.cost.start()
        bar = tqdm(range(start, training.n_iters), desc=self.mode, initial=start, total=training.n_iters, disable=None)
        for k in bar:
            stats = self._one_step(k)
            done = k + 1
            last = done == training.n_iters
            if done % training.log_freq == 0 or last:
                self._log(done, stats)
            if last and u and u.bn_mode == "recalibrate":
                recalibrate(self.plain, self._remain_once())
            if done % training.snapshot_freq == 0 or last:
                self._snapshot(done)

    def _remain_once(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The remain set in order, not augmented."""
        size, workers = self.cfg.training.batch_size, self.cfg.data.n_workers
        return ordered(self.remain.images, self.indices["remain"], size, workers)

    def _one_step(self, k: int) -> dict[str, Tensor | float]:
        optim = self.cfg.optim
        torch.manual_seed(key_seed(self.cfg.seeds.of("order"), "step", k))
        if self.optimizer is not None and optim.lr_schedule == "cosine":
            set_lr(self._optimizers(), cosine_decay(optim.lr, k, self.cfg.training.n_iters))
        if self.optimizer is not None and optim.lr_schedule == "steps":
            set_lr(self._optimizers(), step_decay(optim.lr, self.epochs.at(k)[0], optim.decreasing_lr))
        stats = self.step(k)
        if self.ema is not None:
            self.ema.update_parameters(self.plain)
        finite = torch.stack([torch.isfinite(v).all() for v in stats.values() if isinstance(v, Tensor)]).all()
        self.first_bad = torch.where((self.first_bad < 0) & ~finite, k + 1, self.first_bad)
        return stats

    def _log(self, done: int, stats: dict[str, Tensor | float]) -> None:
        self._check_finite(done)
        numbers = {name: float(value) for name, value in stats.items()}
        self.folder.record({"step": done, **numbers})
        shown = "  ".join(f"{name} {value:.6g}" for name, value in numbers.items())
        self.folder.say(f"{self.mode} step {done}/{self.cfg.training.n_iters}  {shown}")

    def _check_finite(self, done: int) -> None:
        """Stop before anything broken is written: NaN in a loss since the last check, or in a weight now."""
        bad = int(self.first_bad)
        # BatchNorm's statistics too
        state = [t for t in self.plain.state_dict().values() if t.is_floating_point()]
        if bad < 0 and torch.stack(torch._foreach_norm(state)).isfinite().all():
            return
        what = f"the loss became NaN or infinite at step {bad}" if bad >= 0 else f"a weight is NaN at step {done}"
        try:
            good = f"the last good checkpoint is {checkpoint.resolve(self.folder.path)}"
        except InputError:
            good = "no checkpoint had been written"
        raise InputError(f"{what}; {good} (a smaller optim.lr, unlearn.forget_alpha or --alpha may help)")

    # ---- files

    def _snapshot(self, done: int) -> None:
        self._check_finite(done)
        self.cost.pause()
        weights = {"raw": self.plain.state_dict()}
        if self.ema is not None:
            weights["ema"] = self.ema.module.state_dict()
        state = {
            "optimizers": [o.state_dict() for o in self._optimizers()],
            "positions": [s.position for s in self._streams()],
            "n_averaged": 0 if self.ema is None else int(self.ema.n_averaged),
        }
        if self.extra is not None:
            state["extra"] = self.extra.state_dict()
        meta = {**self.meta, "cost": self.cost.record()}
        if self.validate is not None:
            meta["val_accuracy"] = self.validate(self.plain)
            self.folder.say(f"validation accuracy {meta['val_accuracy']:.2%}")
        keep = self.cfg.training.keep
        checkpoint.save(self.folder.path, done, weights, state, meta, keep, self.indices)
        if self.preview is not None:
            grid = self.preview(self.plain if self.ema is None else self.ema.module)
            path = self.folder.path / "previews" / f"step_{done:07d}.png"
            path.parent.mkdir(exist_ok=True)
            save_image(grid, path, nrow=GRID_ROW, padding=1)
        self.cost.start()

    def _open(self) -> tuple[RunFolder, int]:
        """A new run folder and step 0, or the folder to resume, everything restored, and the step it had reached."""
        if self.resume is None:
            folder = self._new_folder()
            if self.forget is not None:
                images = self.forget.images
                source = {"dataset": images.name, "split": images.split, "n": len(images)}
                save_indices(folder.logs / "forget_indices.json", self.indices["forget"], source)
            folder.say(f"writing to {folder.path}")
            return folder, 0
        folder = RunFolder.reopen(self.resume, dump_config(self.cfg), self.origin())
        start = self._restore(folder.path) if (folder.path / "ckpts" / "latest").exists() else 0
        if start > self.cfg.training.n_iters:
            raise InputError(
                f"--resume {self.resume}: is at step {start}, past training.n_iters {self.cfg.training.n_iters}"
            )
        folder.forget_after(start)
        folder.say(f"resuming {folder.path} at step {start}")
        return folder, start

    def _new_folder(self) -> RunFolder:
        config, origin = dump_config(self.cfg), self.origin()
        if self.cfg.save_dir is not None:
            return RunFolder.create_in(self.cfg.save_dir, config, origin)
        return RunFolder.create(self._parent(), config, origin)

    def _parent(self) -> Path:
        name = self.selection and self.selection["name"]
        return run_parent(self.cfg.results, self.cfg.data.dataset, self.mode, name)

    def origin(self) -> dict:
        """What must be equal for a run to be continued: everything that decides its numbers."""
        kept = ("source", "mask", "data", "indices", "selection", "fisher", "replay")
        return {
            "mode": self.mode,
            "format": FORMAT,
            "config": config_hash(self.cfg),
            **{k: self.meta[k] for k in kept if k in self.meta},
        }

    def _restore(self, path: Path) -> int:
        checkpoint.load_into(self.plain, checkpoint.load_weights(path, "raw"), str(path))
        state = checkpoint.load_state(path)
        if self.ema is not None:
            checkpoint.load_into(self.ema.module, checkpoint.load_weights(path, "ema"), str(path))
            self.ema.n_averaged.fill_(state["n_averaged"])
        for optimizer, stored in zip(self._optimizers(), state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        if self.extra is not None:
            self.extra.load_state_dict(state["extra"])
        for stream, position in zip(self._streams(), state["positions"], strict=True):
            stream.position = position
        meta = checkpoint.load_meta(path)
        self.cost.add(meta["cost"])
        return meta["step"]

    def plan(self) -> str:
        """What `--dry_run` prints after the config."""
        weights = sum(p.numel() for p in self.params)
        masked = f", {sum(int(m.sum()) for m in self.mask.values()):,} of them in the mask" if self.mask else ""
        states = 1 if isinstance(self.optimizer, torch.optim.SGD) else 2
        copies = 2 + states * len(self._optimizers()) + (self.ema is not None) + (self.mask is not None) + self.copies
        megabytes = copies * sum(p.numel() * p.element_size() for p in self.params) / 2**20
        training = self.cfg.training
        lines = [
            f"mode {self.mode} on {self.device}: {training.n_iters} steps of batch {training.batch_size}",
            f"trainable weights: {weights:,}{masked}",
            f"memory for weights, gradients, optimiser, EMA and mask: {megabytes:.1f} MiB (activations not counted)",
            f"would write: {self.cfg.save_dir or self._parent() / '<yyyy_mm_dd_hhmmss>'}/{{logs,ckpts}}",
        ]
        return "\n".join(lines)

    # ---- parts

    def _stream(self, images: ImageSet | FolderImages, indices: Tensor, purpose: str) -> Stream:
        data, frozen = self.cfg.data, self.cfg.data.frozen_augment and not self.fresh
        return Stream(
            images,
            indices,
            self.cfg.training.batch_size,
            self.cfg.seeds.of("order"),
            purpose,
            flip=data.flip,
            crop=data.crop,
            n_workers=data.n_workers,
            frozen=frozen,
        )

    def mixed_stream(self, setup: Setup) -> Stream:
        """Batches of forget and remain images mixed; `runners.mixing.unmarked` tells them apart."""
        return self._stream(marked(setup), everything(setup), "both")

    def _streams(self) -> list[Stream]:
        return [s for s in (self.remain, self.forget, self.both) if s is not None]

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        if self.optimizer is None:
            return []
        return [self.optimizer] if self.optimizer_f is self.optimizer else [self.optimizer, self.optimizer_f]

    def _load_mask(self, setup: Setup) -> Mask | None:
        """The mask as 0/1 tensors of the parameters' type, checked against this checkpoint and this forget class."""
        path = self.cfg.unlearn.mask_path if self.cfg.unlearn else None
        if path is None:
            return None
        mask = load_mask(path, shapes_of(self.plain), provenance(setup))
        self.meta = {**self.meta, "prepared": read_provenance(path).get("cost")}
        return {n: torch.empty_like(p).copy_(mask[n]) for n, p in zip(self.names, self.params)}


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of the trainable weights by name: what a mask or a Fisher has to fit."""
    return {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}


def provenance(setup: Setup) -> dict:
    """What a Fisher or a mask is made for: the weights it starts from and the forget selection."""
    return {"checkpoint": setup.source, "forget": setup.selection}


def with_length(cfg: Config, n_iters: int) -> Config:
    """The config with `training.n_iters` set: how many steps the epochs come to."""
    return cfg.model_copy(update={"training": cfg.training.model_copy(update={"n_iters": n_iters})})
