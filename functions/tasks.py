"""Tasks: what a loss is. A task never sees a mask, an optimiser or a file.

Two exist. `Classification` has logits and cross entropy; `Denoising` has eps-hat and squared error, and covers pixels
(and later latents and prompts) through its arguments, not through subclasses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from functions.training.schedules import linear_alpha_bar


class Draw(NamedTuple):
    """A batch with every random choice already made, so that it can be evaluated twice."""

    x: Tensor  # (N, ...) images, or the noised x_t
    c: Tensor  # (N,) labels
    t: Tensor | None = None  # (N,) timesteps
    eps: Tensor | None = None  # (N, C, H, W) the noise


class Encoder(Protocol):
    """Images in [0, 1] to the space the model works in, and back."""

    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, z: Tensor) -> Tensor: ...


class Task(Protocol):
    """What methods may ask for. Losses are per example, (N,), and never reduced here."""

    n_classes: int

    def draw(self, x: Tensor, c: Tensor, drop: bool = False, generator: torch.Generator | None = None) -> Draw: ...
    def scrambled(self, draw: Draw) -> Draw: ...
    def predict(self, model: nn.Module, draw: Draw, guidance: float = 0.0) -> Tensor: ...
    def losses(self, model: nn.Module, draw: Draw, guidance: float = 0.0) -> Tensor: ...
    def losses_of(self, prediction: Tensor, draw: Draw) -> Tensor: ...
    def divergence(self, p: Tensor, q: Tensor) -> Tensor: ...
    def to(self, device: torch.device | str) -> Task: ...


class Classification:
    """Logits and cross entropy. Images stay in [0, 1]: normalisation is part of the model."""

    def __init__(self, n_classes: int):
        self.n_classes = n_classes

    def draw(self, x, c, drop=False, generator=None) -> Draw:
        """Nothing is random here; `drop` and `generator` have no meaning for a classifier."""
        return Draw(x, c)

    def scrambled(self, draw) -> Draw:
        """The same images with labels that say nothing: uniform over all classes."""
        return draw._replace(c=torch.randint_like(draw.c, self.n_classes))

    def predict(self, model, draw, guidance=0.0) -> Tensor:
        """Logits, (N, n_classes). With w the label's logit l_c becomes (1 + w) l_c - w l_null, l_null the mean logit.

        That is guidance spelled in logits, ours: "no condition" is a label as likely as the average one.
        """
        logits = model(draw.x)
        if guidance == 0:
            return logits
        label = F.one_hot(draw.c, self.n_classes)
        return logits + guidance * label * (logits - logits.mean(1, keepdim=True))

    def losses(self, model, draw, guidance=0.0) -> Tensor:
        """Cross entropy in nats, (N,)."""
        return self.losses_of(self.predict(model, draw, guidance), draw)

    def losses_of(self, prediction, draw) -> Tensor:
        """The same of logits that are there already."""
        return F.cross_entropy(prediction, draw.c, reduction="none")

    def divergence(self, p, q) -> Tensor:
        """KL(p || q) of two batches of logits, in nats, (N,)."""
        return F.kl_div(q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="none").sum(1)

    def to(self, device: torch.device | str) -> Classification:
        """Holds no tensors."""
        return self


class Denoising:
    """Predict the noise in x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (DDPM, Eq. 4 and 14).

    Args:
        alpha_bar: (T,) cumulative products of 1 - beta.
        encoder: images in [0, 1] -> the model's space.
        n_classes: labels are 0..n_classes-1; the null condition is the label `n_classes`.
        p_uncond: share of labels replaced by the null condition where a draw asks for dropping.
        reduction: `sum` over C,H,W (published) or `mean`.
    """

    def __init__(self, alpha_bar: Tensor, encoder: Encoder, n_classes: int, p_uncond: float, reduction: str):
        self.sqrt_alpha_bar = alpha_bar.sqrt().float()
        self.sqrt_one_minus_alpha_bar = (1 - alpha_bar).sqrt().float()
        self.timesteps = len(alpha_bar)
        self.encoder, self.n_classes, self.null = encoder, n_classes, n_classes
        self.p_uncond, self.reduction = p_uncond, reduction

    def draw(self, x, c, drop=False, generator=None) -> Draw:
        """Choose t (antithetic: t and T-1-t in one batch), eps and, only if `drop`, the labels to leave out."""
        n, options = len(x), {"device": x.device, "generator": generator}
        t = torch.randint(0, self.timesteps, (n // 2 + 1,), **options)
        t = torch.cat([t, self.timesteps - 1 - t])[:n]
        z = self.encoder.encode(x)
        eps = torch.randn(z.shape, dtype=z.dtype, **options)
        if drop:
            c = torch.where(torch.rand(n, **options) < self.p_uncond, self.null, c)
        return Draw(self.noised(z, t, eps), c, t, eps)

    def sweep(
        self, x: Tensor, c: Tensor, n_chunks: int, drop: bool = False, generator: torch.Generator | None = None
    ) -> Iterator[Draw]:
        """One image (1, ...) at every timestep, each with its own eps, in `n_chunks` draws of T / n_chunks rows.

        All eps come before the first chunk, so that chunks do not change the sum.
        """
        z = self.encoder.encode(x)
        t, options = (torch.arange(self.timesteps, device=x.device), {"device": x.device, "generator": generator})
        eps = torch.randn((self.timesteps, *z.shape[1:]), dtype=z.dtype, **options)
        c = c.expand(self.timesteps)
        if drop:
            c = torch.where(torch.rand(self.timesteps, **options) < self.p_uncond, self.null, c)
        for rows in t.tensor_split(n_chunks):
            yield Draw(self.noised(z.expand(len(rows), *z.shape[1:]), rows, eps[rows]), c[rows], rows, eps[rows])

    def scrambled(self, draw) -> Draw:
        """The same x_t with a noise to predict that says nothing about it: U[0, 1] (EraseDiff, arXiv 2401.05779)."""
        return draw._replace(eps=torch.rand_like(draw.eps))

    def noised(self, z: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps, DDPM Eq. 4."""
        a, b = (s.to(z.device)[t].to(z.dtype).view(-1, 1, 1, 1) for s in self._scales())
        return a * z + b * eps

    def _scales(self) -> tuple[Tensor, Tensor]:
        return self.sqrt_alpha_bar, self.sqrt_one_minus_alpha_bar

    def to(self, device: torch.device | str) -> Denoising:
        """Keep the schedule on the device, so that a step copies nothing."""
        self.sqrt_alpha_bar, self.sqrt_one_minus_alpha_bar = (s.to(device) for s in self._scales())
        return self

    def predict(self, model, draw, guidance=0.0) -> Tensor:
        """eps-hat; with guidance w, (1 + w) eps_c - w eps_null from one pass over [conditional; null].

        Row r of that pass belongs to example r mod N. The usual name for the scale is 1 + w.
        """
        if guidance == 0:
            return model(draw.x, draw.t, draw.c)
        null = torch.full_like(draw.c, self.null)
        both = model(torch.cat([draw.x, draw.x]), torch.cat([draw.t, draw.t]), torch.cat([draw.c, null]))
        eps_c, eps_null = both.chunk(2)
        return (1 + guidance) * eps_c - guidance * eps_null

    def losses(self, model, draw, guidance=0.0) -> Tensor:
        """|| eps-hat - eps ||^2, summed or averaged over C,H,W as `reduction` says, (N,). DDPM, Eq. 14."""
        return self.losses_of(self.predict(model, draw, guidance), draw)

    def losses_of(self, prediction, draw) -> Tensor:
        """The same of an eps-hat that is there already."""
        return self._reduce((prediction - draw.eps).square())

    def divergence(self, p, q) -> Tensor:
        """MSE of two predictions over C,H,W, (N,): the KL of two Gaussians of equal variance up to a factor."""
        return (p - q).square().flatten(1).mean(1)

    def _reduce(self, squares: Tensor) -> Tensor:
        squares = squares.flatten(1)
        return squares.sum(1) if self.reduction == "sum" else squares.mean(1)


def denoising(diffusion: dict, encoder: Encoder, n_classes: int) -> Denoising:
    """The task of a diffusion model from the keys of the config's `diffusion` section, as `meta.json` stores them."""
    alpha_bar = linear_alpha_bar(diffusion["timesteps"], diffusion["beta_start"], diffusion["beta_end"])
    return Denoising(alpha_bar, encoder, n_classes, diffusion["p_uncond"], diffusion["reduction"])
