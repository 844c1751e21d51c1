"""Tasks: what a loss is. A task never sees a mask, an optimiser or a file.

Two exist. `Classification` has logits and cross entropy; `Denoising` has eps-hat and squared error, and covers pixels,
latents and prompts through its arguments, not through subclasses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from functions.variance import LearnedVariance


class Draw(NamedTuple):
    """A batch with every random choice already made, so that it can be evaluated twice."""

    x: Tensor  # (N, ...) images, or the noised x_t
    c: Tensor  # (N,) indices into the task's conditions: class labels, or prompts; never embeddings
    t: Tensor | None = None  # (N,) timesteps
    eps: Tensor | None = None  # (N, C, H, W) the noise


class Rows(NamedTuple):
    """The rows of a batch that this process has: part `rank` of `size` equal ones. Everything by default."""

    rank: int = 0
    size: int = 1

    def of(self, draw: Callable[[int], Tensor], n: int) -> Tensor:
        """This process's n rows of `draw(n size)`: each draws the whole batch, so all see the same random numbers."""
        return draw(n) if self.size == 1 else draw(n * self.size)[self.rank * n : (self.rank + 1) * n]


class Encoder(Protocol):
    """Images in [0, 1], or what a data set keeps in their place, to the space the model works in; and back to images.

    `normal(shape)` gives standard normal numbers, for encoders that draw.
    """

    def encode(self, x: Tensor, normal: Callable[[Sequence[int]], Tensor]) -> Tensor: ...
    def decode(self, z: Tensor) -> Tensor: ...
    def shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]: ...
    def to(self, device: torch.device | str) -> Encoder: ...


class Task(Protocol):
    """What methods may ask for. Losses are per example, (N,), and never reduced here."""

    n_conditions: int
    rows: Rows

    def draw(self, x: Tensor, c: Tensor, drop: bool = False, generator: torch.Generator | None = None) -> Draw: ...
    def sweep(
        self, x: Tensor, c: Tensor, n_chunks: int, drop: bool = False, generator: torch.Generator | None = None
    ) -> Iterator[Draw]: ...
    def surrogate(self, x: Tensor, c: Tensor) -> Draw: ...
    def scrambled(self, draw: Draw) -> Draw: ...
    def other(self, c: Tensor) -> Tensor: ...
    def wrong(self, c: Tensor) -> Tensor: ...
    def dropped(self, c: Tensor) -> Tensor: ...
    def barred(self, c: Tensor) -> Tensor: ...
    def forgetting(self, classes: Sequence[int]) -> Task: ...
    def predict(self, model: nn.Module, draw: Draw, guidance: float = 0.0) -> Tensor: ...
    def losses(self, model: nn.Module, draw: Draw, guidance: float = 0.0) -> Tensor: ...
    def losses_of(self, prediction: Tensor, draw: Draw) -> Tensor: ...
    def divergence(self, p: Tensor, q: Tensor, temperature: float = 1.0) -> Tensor: ...
    def to(self, device: torch.device | str) -> Task: ...
    def sharded(self, rows: Rows) -> Task: ...


class Conditioned:
    """What both tasks know of their conditions 0..n_conditions - 1, and of the rows of a batch that are theirs."""

    def __init__(self, n_conditions: int, anchors: Tensor | None = None):
        self.n_conditions, self.anchors, self.rows = n_conditions, anchors, Rows()
        self.kept: Tensor | None = None  # the conditions that stay, where several are forgotten

    def other(self, c: Tensor) -> Tensor:
        """The condition that `match` follows, (N,): the anchor of c, by default the next one, (c + 1) mod n."""
        return (c + 1) % self.n_conditions if self.anchors is None else self.anchors[c]

    def wrong(self, c: Tensor) -> Tensor:
        """c' uniform over the other n_conditions - 1, or over those that stay, drawn anew each time, (N,)."""
        if self.kept is not None:
            place = lambda n: torch.randint(len(self.kept), (n,), device=c.device)
            return self.kept[self.rows.of(place, len(c))]
        step = lambda n: torch.randint(1, self.n_conditions, (n,), device=c.device)
        return (c + self.rows.of(step, len(c))) % self.n_conditions

    def dropped(self, c: Tensor) -> Tensor:
        """c with a share of its conditions left out, drawn anew each time; all of them here: none can be left out."""
        return c

    def barred(self, c: Tensor) -> Tensor:
        """Which conditions are no wrong one for c, (N, n_conditions) bool: c itself, and all that are forgotten."""
        barred = F.one_hot(c, self.n_conditions).bool()
        if self.kept is not None:
            barred |= ~torch.zeros_like(barred).index_fill_(1, self.kept, True)
        return barred

    def forgetting(self, classes: Sequence[int]):
        """The same task where several are forgotten together: none becomes the `other` or a `wrong` one of another."""
        same = copy.copy(self)
        kept = [c for c in range(self.n_conditions) if c not in classes]
        same.kept = torch.tensor(kept)
        if same.anchors is None:
            same.anchors = torch.tensor([next((k for k in kept if k > c), kept[0]) for c in range(self.n_conditions)])
        return same

    def to(self, device: torch.device | str):
        """Keep what the task holds on the device, so that a step copies nothing."""
        self.anchors, self.kept = (None if t is None else t.to(device) for t in (self.anchors, self.kept))
        return self

    def sharded(self, rows: Rows):
        """The same task for a process that has these rows of every batch."""
        same = copy.copy(self)
        same.rows = rows
        return same


class Classification(Conditioned):
    """Logits and cross entropy. Images stay in [0, 1]: normalisation is part of the model. c are class labels."""

    @property
    def n_classes(self) -> int:
        return self.n_conditions

    def draw(self, x, c, drop=False, generator=None) -> Draw:
        """Nothing is random here; `drop` and `generator` have no meaning for a classifier."""
        return Draw(x, c)

    def sweep(self, x, c, n_chunks, drop=False, generator=None) -> Iterator[Draw]:
        """One image (1, ...): one draw, for there are no timesteps."""
        yield self.draw(x, c)

    def surrogate(self, x, c) -> Draw:
        """Images that say nothing of their class: U[0, 1] in every pixel (Selective Amnesia, arXiv 2305.10120)."""
        return self.draw(self.rows.of(lambda n: torch.rand(n, *x.shape[1:], dtype=x.dtype, device=x.device), len(x)), c)

    def scrambled(self, draw) -> Draw:
        """The same images with labels that say nothing: uniform over all classes."""
        c = lambda n: torch.randint(self.n_conditions, (n,), device=draw.c.device)
        return draw._replace(c=self.rows.of(c, len(draw.c)))

    def predict(self, model, draw, guidance=0.0) -> Tensor:
        """Logits, (N, n_classes). With w the label's logit l_c becomes (1 + w) l_c - w l_null, l_null the mean logit.

        That is guidance spelled in logits, ours: "no condition" is a label as likely as the average one.
        """
        logits = model(draw.x)
        if guidance == 0:
            return logits
        label = F.one_hot(draw.c, self.n_conditions)
        return logits + guidance * label * (logits - logits.mean(1, keepdim=True))

    def losses(self, model, draw, guidance=0.0) -> Tensor:
        """Cross entropy in nats, (N,)."""
        return self.losses_of(self.predict(model, draw, guidance), draw)

    def losses_of(self, prediction, draw) -> Tensor:
        """The same of logits that are there already."""
        return F.cross_entropy(prediction, draw.c, reduction="none")

    def divergence(self, p, q, temperature=1.0) -> Tensor:
        """KL(softmax(p / T) || softmax(q / T)) of two batches of logits, in nats, (N,)."""
        p, q = p / temperature, q / temperature
        return F.kl_div(q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="none").sum(1)


class Labels:
    """Conditions that the model takes as they are: class labels, embedded by the model itself."""

    def __call__(self, c: Tensor) -> Tensor:
        return c

    def to(self, device: torch.device | str) -> Labels:
        return self


class Table:
    """Conditions as rows of a table (n + 1, ...), e.g. embedded prompts (P + 1, L, D); the last row is the null one."""

    def __init__(self, rows: Tensor):
        self.rows = rows

    def __call__(self, c: Tensor) -> Tensor:
        """(N,) -> (N, ...)"""
        return self.rows[c]

    def to(self, device: torch.device | str) -> Table:
        return Table(self.rows.to(device))


class Denoising(Conditioned):
    """Predict the noise in x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (DDPM, Eq. 4 and 14).

    Args:
        alpha_bar: (T,) cumulative products of 1 - beta.
        encoder: images in [0, 1] -> the model's space.
        n_conditions: c are 0..n_conditions - 1; the null condition is the index `n_conditions`.
        p_uncond: share of conditions replaced by the null one where a draw asks for dropping.
        reduction: `sum` over C,H,W (published) or `mean`.
        condition: index -> what the model takes, applied in `predict` alone; `Labels` or a `Table`.
        anchors: (n_conditions,) the condition that `match` follows for each; None: the next one.
        learned_variance: predictions are eps-hat and then v, as many channels each; losses add the bound that trains v.
    """

    def __init__(
        self,
        alpha_bar: Tensor,
        encoder: Encoder,
        n_conditions: int,
        p_uncond: float,
        reduction: str,
        condition: Labels | Table | None = None,
        anchors: Tensor | None = None,
        learned_variance: bool = False,
    ):
        super().__init__(n_conditions, anchors)
        self.variance = LearnedVariance(alpha_bar) if learned_variance else None
        self.guided_channels: int | None = None  # guidance moves the first so many channels; None: all of eps-hat
        self.sqrt_alpha_bar = alpha_bar.sqrt().float()
        self.sqrt_one_minus_alpha_bar = (1 - alpha_bar).sqrt().float()
        self.timesteps = len(alpha_bar)
        self.encoder, self.condition, self.null = encoder, condition or Labels(), n_conditions
        self.p_uncond, self.reduction = p_uncond, reduction

    def draw(self, x, c, drop=False, generator=None) -> Draw:
        """Choose t (antithetic: t and T-1-t in one batch), eps and, only if `drop`, the conditions to leave out."""
        return self._draw(self._encoded(x, generator), c, drop, generator)

    def _encoded(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """x in the model's space; what an encoder draws for it comes from `generator`."""

        def normal(shape: Sequence[int]) -> Tensor:
            draw = lambda n: torch.randn((n, *shape[1:]), dtype=x.dtype, device=x.device, generator=generator)
            return self.rows.of(draw, shape[0])

        return self.encoder.encode(x, normal)

    def surrogate(self, x, c) -> Draw:
        """U[-1, 1] in the model's space in place of the images (Selective Amnesia, arXiv 2305.10120), noised."""
        shape = self.encoder.shape(tuple(x.shape[1:]))
        u = self.rows.of(lambda n: torch.rand((n, *shape), dtype=x.dtype, device=x.device), len(x))
        return self._draw(2 * u - 1, c, False, None)

    def _draw(self, z: Tensor, c: Tensor, drop: bool, generator: torch.Generator | None) -> Draw:
        n, options = len(z), {"device": z.device, "generator": generator}

        def times(n: int) -> Tensor:
            t = torch.randint(0, self.timesteps, (n // 2 + 1,), **options)
            return torch.cat([t, self.timesteps - 1 - t])[:n]

        t = self.rows.of(times, n)
        eps = self.rows.of(lambda n: torch.randn((n, *z.shape[1:]), dtype=z.dtype, **options), n)
        return Draw(self.noised(z, t, eps), self.dropped(c, generator) if drop else c, t, eps)

    def dropped(self, c, generator=None) -> Tensor:
        """c with each condition replaced by the null one with probability p_uncond, drawn anew each time, (N,)."""
        draw = lambda n: torch.rand(n, device=c.device, generator=generator)
        return torch.where(self.rows.of(draw, len(c)) < self.p_uncond, self.null, c)

    def sweep(self, x, c, n_chunks, drop=False, generator=None) -> Iterator[Draw]:
        """One image (1, ...) at every timestep, each with its own eps, in `n_chunks` draws of T / n_chunks rows.

        All eps come before the first chunk, so that chunks do not change the sum.
        """
        z, options = self._encoded(x, generator), {"device": x.device, "generator": generator}
        t = torch.arange(self.timesteps, device=x.device)
        eps = torch.randn((self.timesteps, *z.shape[1:]), dtype=z.dtype, **options)
        c = c.expand(self.timesteps)
        if drop:
            c = torch.where(torch.rand(self.timesteps, **options) < self.p_uncond, self.null, c)
        for rows in t.tensor_split(n_chunks):
            yield Draw(self.noised(z.expand(len(rows), *z.shape[1:]), rows, eps[rows]), c[rows], rows, eps[rows])

    def scrambled(self, draw) -> Draw:
        """The same x_t with a noise to predict that says nothing about it: U[0, 1] (EraseDiff, arXiv 2401.05779)."""
        eps = draw.eps
        u = lambda n: torch.rand((n, *eps.shape[1:]), dtype=eps.dtype, device=eps.device)
        return draw._replace(eps=self.rows.of(u, len(eps)))

    def noised(self, z: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps, DDPM Eq. 4."""
        ones = [1] * (z.ndim - 1)
        a, b = (s.to(z.device)[t].to(z.dtype).view(-1, *ones) for s in self._scales())
        return a * z + b * eps

    def _scales(self) -> tuple[Tensor, Tensor]:
        return self.sqrt_alpha_bar, self.sqrt_one_minus_alpha_bar

    def to(self, device: torch.device | str) -> Denoising:
        """Keep the schedule and the conditions on the device, so that a step copies nothing."""
        self.sqrt_alpha_bar, self.sqrt_one_minus_alpha_bar = (s.to(device) for s in self._scales())
        self.condition, self.encoder = self.condition.to(device), self.encoder.to(device)
        self.variance = self.variance and self.variance.to(device)
        return super().to(device)

    def predict(self, model, draw, guidance=0.0) -> Tensor:
        """eps-hat; with guidance w, (1 + w) eps_c - w eps_null from one pass over [conditional; null].

        Row r of that pass belongs to example r mod N. The usual name for the scale is 1 + w. With a learned variance v
        follows, (N, 2C, H, W): the conditional's, whatever the guidance.
        """
        if guidance == 0:
            return model(draw.x, draw.t, self.condition(draw.c))
        c = torch.cat([draw.c, torch.full_like(draw.c, self.null)])
        both = model(torch.cat([draw.x, draw.x]), torch.cat([draw.t, draw.t]), self.condition(c))
        given, null = both.chunk(2)
        n = self.guided_channels or draw.x.shape[1]
        eps_c, eps_null = given[:, :n], null[:, :n]
        eps = (1 + guidance) * eps_c - guidance * eps_null
        return eps if n == given.shape[1] else torch.cat([eps, given[:, n:]], dim=1)

    def eps_of(self, prediction: Tensor) -> Tensor:
        """eps-hat alone, (N, C, H, W)."""
        return prediction if self.variance is None else prediction.chunk(2, dim=1)[0]

    def losses(self, model, draw, guidance=0.0) -> Tensor:
        """|| eps-hat - eps ||^2, summed or averaged over C,H,W as `reduction` says, (N,). DDPM, Eq. 14.

        With a learned variance also the bound of `LearnedVariance.bits`, reduced in the same way, as published for DiT.
        """
        return self.losses_of(self.predict(model, draw, guidance), draw)

    def losses_of(self, prediction, draw) -> Tensor:
        """The same of a prediction that is there already."""
        if self.variance is None:
            return self._reduce((prediction - draw.eps).square())
        eps_hat, v = prediction.chunk(2, dim=1)
        bits = self.variance.bits(eps_hat, v, draw.x, draw.t, draw.eps)
        return self._reduce((eps_hat - draw.eps).square() + bits)

    def divergence(self, p, q, temperature=1.0) -> Tensor:
        """MSE of the eps-hats of p / T and q / T over C,H,W, (N,): a KL of Gaussians of variance T^2 up to a factor."""
        p, q = self.eps_of(p), self.eps_of(q)
        return (p / temperature - q / temperature).square().flatten(1).mean(1)

    def _reduce(self, squares: Tensor) -> Tensor:
        squares = squares.flatten(1)
        return squares.sum(1) if self.reduction == "sum" else squares.mean(1)


def linear_alpha_bar(timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """alpha_bar_t = prod_{s<=t} (1 - beta_s), beta linear from beta_start to beta_end. (T,) float64.

    DDPM, section 4.
    """
    betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    return (1 - betas).cumprod(0)


def denoising(diffusion: dict, encoder: Encoder, n_conditions: int) -> Denoising:
    """The task of a diffusion model from the keys of the config's `diffusion` section, as `meta.json` stores them."""
    d = diffusion
    alpha_bar = linear_alpha_bar(d["timesteps"], d["beta_start"], d["beta_end"])
    learned = d.get("learned_variance", False)  # older checkpoints do not say
    return Denoising(alpha_bar, encoder, n_conditions, d["p_uncond"], d["reduction"], learned_variance=learned)
