"""The loop. A runner knows data, devices, optimiser, EMA, logging, checkpoints and resume; a method knows one step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets import Stream, ordered
from functions import interrupts
from functions.config.schema import Config
from functions.experiments import curves
from functions.progress import Progress
from functions.randomness import key_seed
from functions.storage.cost import Cost
from functions.training import distributed
from functions.training.batchnorm import freeze_statistics, recalibrate
from functions.training.ema import EMA
from functions.training.epochs import Epochs
from functions.training.finite import Latch
from functions.training.forward import counted, training_forward
from functions.training.optim import Optimizer, make_optimizer, packs, set_lr
from functions.training.schedules import cosine_decay, step_decay
from functions.training.update import Mask, Tensors, Update
from runners import plan, snapshots
from runners.setup import Materials


class Runner:
    """One training run. Subclasses define `step(k)` and are not subclassed themselves.

    Every random draw of step k comes from a generator seeded by (seed, k): nothing has to be restored on resume.

    Class attributes:
        mode: its name on the command line.
        fresh: whether it starts from a new model, instead of from `ckpt_folder`.
        always_masked: whether every one of its updates goes through the mask, so that masked weights can stay.
        copies: of the weights, that a method keeps besides what every run does (for `--dry_run`).

    What steps use:
        task: losses, predictions, random draws. `functions.tasks`.
        model: what steps call: the plain model, or that compiled, in bfloat16, in parts, on several devices.
        plain: the model itself, under its own names: what is saved, copied and averaged.
        names, params: its trainable weights, in one order.
        mask: parameter name -> bool tensor, True = may move; None without one.
        remain, forget: endless batches (x, c) of the two sets; forget is None where nothing is forgotten.
        both: endless batches (x, c, is_f) of both sets mixed, for methods that ask for it in `begin`.
        epochs: which pass over which set a step belongs to.
        extra: a module trained along and left out of what is saved, or None.
    """

    mode: str
    fresh = False
    always_masked = False
    copies = 0

    def __init__(self, cfg: Config, materials: Materials, resume: str | None = None):
        m, self.resume = materials, resume
        self.materials, self.device, self.meta = m, m.device, m.meta
        self.plain, self.preview, self.validate, self.validated = m.model, m.preview, m.validate, None
        self.task = m.task.sharded(distributed.rows(cfg.training.batch_size))
        sizes = {"remain": len(m.remain), "forget": 0 if m.forget is None else len(m.forget)}
        self.cfg = cfg  # `passes` may look at it
        self.epochs = Epochs({**sizes, "both": sum(sizes.values())}, cfg.training.batch_size, self.passes)
        length = cfg.training.n_iters or self.epochs.total(cfg.training.epochs)
        self.cfg = cfg = with_length(cfg, length)
        self.model = training_forward(self.plain, self.device, cfg.training)
        self.names, self.params = m.names, m.params
        self.mask, self.meta = snapshots.load_mask(cfg, m)
        u = cfg.unlearn
        self.strict = self.mask is not None and u.mask_mode == "strict"
        self.update = Update(self.names, self.params, cfg.optim, self.strict, bool(u and u.clip_first))
        self.optimizer = self.optimizer_f = self._optimizer()
        if u and u.optimizer_state == "separate":
            self.optimizer_f = self._optimizer()
        self.remain = self.stream(m.images, m.remain, "remain")
        self.forget = None if m.forget is None else self.stream(m.images, m.forget, "forget")
        self.both: Stream | None = None
        self.extra: nn.Module | None = None
        self.ema = EMA(self.plain, cfg.training.ema_rate) if cfg.training.ema else None
        self.latch, self.cost = Latch(self.device), Cost(distributed.size())
        self.begin(m)
        self.cost.watch(counted(self.model))  # last: copies made before do not count for it

    def _optimizer(self) -> Optimizer:
        """One for all weights, or for those alone that a strict mask lets move."""
        u, optim = self.cfg.unlearn, self.cfg.optim
        masks = [self.mask[n] for n in self.names] if u and u.freezes and packs(optim) else None
        return make_optimizer(self.params, optim, decay=not self.strict, masks=masks)

    # ---- what methods define

    def begin(self, materials: Materials) -> None:
        """What a method needs beyond the above: anchors, teachers, other data. The weights are still the original's."""

    def step(self, k: int) -> dict[str, Tensor | float]:
        """Step k of the method, from 0: one or more updates by `descend`.

        Returns what to log, by name: numbers known on the host, and tensors () that stay on the device: the loop reads
        them when it logs. The loop stops where one of them is not finite.
        """
        raise NotImplementedError

    def passes(self, epoch: int) -> tuple[str, ...]:
        """The sets that an epoch passes over, in turn: remain, forget, or both (mixed)."""
        return ("remain",)

    # ---- what steps use

    def descend(
        self,
        loss: Tensor | Tensors,
        mask: Mask | None = None,
        clip: float | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        """zero, backward, reduce, mask, clip, decay, step: the only update of weights. `functions.training.update`."""
        self.update(loss, optimizer or self.optimizer, mask, clip)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """d loss / d theta of the whole batch, for methods that combine gradients and hand them to `descend`."""
        found = list(torch.autograd.grad(loss, self.params, allow_unused=False))
        distributed.mean_(found)
        return found

    def remain_loss(self) -> Tensor:
        """Mean loss on the next remain batch, labels dropped with the task's p_uncond."""
        return self.task.losses(self.model, self.task.draw(*next(self.remain), drop=True)).mean()

    def forget_alpha(self, k: int) -> float:
        """The forget weight at step k: alpha, or alpha (1 + cos(pi k / n_iters)) / 2 with `decay_forget_alpha`."""
        u = self.cfg.unlearn
        return cosine_decay(u.forget_alpha, k, self.cfg.training.n_iters) if u.decay_forget_alpha else u.forget_alpha

    def teacher(self, model: nn.Module | None = None) -> nn.Module:
        """A frozen copy of the model as it is now (or `model`, frozen), called as the student is, in eval mode."""
        model = (copy.deepcopy(self.plain) if model is None else model.to(self.device)).eval().requires_grad_(False)
        called = training_forward(model, self.device, self.cfg.training).eval()
        self.cost.watch(counted(called))
        return called

    def stream(self, images, indices: Tensor, purpose: str, marked: Tensor | None = None) -> Stream:
        """Endless batches of these images; with `marked` indices, batches (x, c, whether an image is one of them)."""
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
            marked=marked,
            part=self.task.rows,
        )

    def mixed(self) -> Stream:
        """Batches (x, c, is_f) of forget and remain images mixed."""
        m = self.materials
        return self.stream(m.images, torch.cat([m.forget, m.remain]).sort().values, "both", marked=m.forget)

    # ---- the loop

    def run(self) -> Path:
        """Train to `n_iters`, log, preview and save on the way; returns the run folder."""
        with snapshots.opened(self) as start, interrupts.deferred() as wish:
            self._loop(start, wish)
        return self.folder.path

    def _loop(self, start: int, wish: interrupts.Wish) -> None:
        training, u = self.cfg.training, self.cfg.unlearn
        self.plain.train()
        if u and u.bn_mode == "freeze":
            freeze_statistics(self.plain)
        self.cost.start()
        with Progress(self.mode, training.n_iters, "steps", start, self.folder.say, leave=True) as self.bar:
            for k in range(start, training.n_iters):
                stats = self._one_step(k)
                done = k + 1
                self.bar.update()
                last = done == training.n_iters
                if last and u and u.bn_mode == "recalibrate":
                    with self.cost.alone():
                        recalibrate(self.plain, self._remain_once())
                number = distributed.largest(wish.number)  # of the signal that some process got: all end at one step
                due = snapshots.is_due(self, done)
                new_epoch = self.epochs.at(done)[0] > self.epochs.at(k)[0]
                score = self._score(done) if (due or new_epoch) and not number else {}
                if done % training.log_freq == 0 or last:
                    self._log(done, stats, score)
                elif score:
                    self.folder.record({"step": done, **score})
                if number or due:
                    self._snapshot(done, look=not number)
                elif self.preview is not None and snapshots.is_shown(self, done):
                    self._show(done)
                if number:
                    raise snapshots.stopped(self, done, number)
        if training.curves and distributed.rank() == 0:
            self.folder.say(curves.of_run(self.folder.path, self.mode))

    def _one_step(self, k: int) -> dict[str, Tensor | float]:
        optim = self.cfg.optim
        torch.manual_seed(key_seed(self.cfg.seeds.of("order"), "step", k))
        if optim.lr_schedule == "cosine":
            set_lr(self.optimizers, cosine_decay(optim.lr, *self._progress(k)))
        if optim.lr_schedule == "steps":
            set_lr(self.optimizers, step_decay(optim.lr, self.epochs.at(k)[0], optim.decreasing_lr))
        stats = self.step(k)
        if self.ema is not None:
            self.ema.update(self.plain)
        self.latch.watch(k + 1, [v for v in stats.values() if isinstance(v, Tensor)])
        return stats

    def _progress(self, k: int) -> tuple[int, int]:
        """How far a cosine has come at step k, and its whole: in steps, or in epochs begun before k's."""
        if self.cfg.optim.cosine_per == "step":
            return k, self.cfg.training.n_iters
        return self.epochs.at(k)[0], self.epochs.at(self.cfg.training.n_iters - 1)[0] + 1

    def _log(self, done: int, stats: dict[str, Tensor | float], score: dict[str, float]) -> None:
        self._check_finite(done)
        numbers = {"lr": self.optimizer.param_groups[0]["lr"], **distributed.mean_of(stats)}
        self.folder.record({"step": done, **numbers, **score})
        shown = "  ".join(f"{name} {value:.6g}" for name, value in numbers.items())
        self.bar.show(shown)
        left = "" if done == self.cfg.training.n_iters else f"  {self.bar.left()}"
        self.folder.say(f"{self.mode} step {done}/{self.cfg.training.n_iters}  {shown}{left}")
        self.bar.spoken()

    def _score(self, done: int) -> dict[str, float]:
        """{"val_accuracy": ...} where images were set aside for it. Draws nothing, moves no statistic, costs nothing
        that counts: a forward pass over them."""
        if self.validate is None:
            return {}
        self._check_finite(done)
        self.cost.pause()
        found = {} if distributed.rank() > 0 else {"val_accuracy": snapshots.val_accuracy(self, done)}
        self.cost.start()
        return found

    def _check_finite(self, done: int) -> None:
        """Stop before anything broken is written."""
        if complaint := next(filter(None, distributed.gather(self.latch.complaint(done, self.plain))), None):
            raise snapshots.diverged(self.folder.path, complaint)

    def _snapshot(self, done: int, look: bool = True) -> None:
        self._check_finite(done)
        self.cost.pause()
        snapshots.save(self, done, look)
        self.cost.start()

    def _show(self, done: int) -> None:
        self._check_finite(done)
        self.cost.pause()
        snapshots.show(self, done)
        self.cost.start()

    def _remain_once(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The remain set in order, not augmented."""
        size, workers = self.cfg.training.batch_size, self.cfg.data.n_workers
        return ordered(self.remain.images, self.materials.remain, size, workers)

    # ---- what is saved of it

    @property
    def streams(self) -> list[Stream]:
        return [s for s in (self.remain, self.forget, self.both) if s is not None]

    @property
    def optimizers(self) -> list[Optimizer]:
        return [self.optimizer] if self.optimizer_f is self.optimizer else [self.optimizer, self.optimizer_f]

    def plan(self) -> str:
        """What `--dry_run` prints after the config."""
        return plan.of_run(self)


def with_length(cfg: Config, n_iters: int) -> Config:
    """The config with `training.n_iters` set: how many steps the epochs come to."""
    return cfg.model_copy(update={"training": cfg.training.model_copy(update={"n_iters": n_iters})})
