"""How far rounding alone may take a result, on any processor: where the bounds of these tests come from.

u = eps / 2 is the unit roundoff, 2^-24 in float32: one operation gives its true value times 1 + d, |d| <= u.
A sum of n terms, added in any order, is off by at most (n - 1) u sum |terms| (Higham, Accuracy and Stability, Eq. 4.4);
which order, and whether products are fused into it, is the kernel's choice. Rounding errors have either sign, so that
their sum grows like sqrt(n): `rounding` takes 4 sqrt(n) u, four standard deviations were each error as large as u.

Through a deep model an error is also multiplied by the condition of what follows (a norm over two values, a softmax),
which nobody derives by hand. `condition` measures it: the error of plain float32 code against itself in float64, in
units of u. It belongs to the function and its input, not to the kernel, within a factor: SLACK.

Where nothing asks for float32, a comparison runs in float64 and is held to TIGHT: enough for any condition up to 10^4
(the worst measured in these tests is 222, the U-Net of 48 channels with guidance), and four digits below what a number
rounded to float32 on the way shows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SLACK = 4


def unit(dtype: torch.dtype = torch.float32) -> float:
    return torch.finfo(dtype).eps / 2


TIGHT = SLACK * 1e4 * unit(torch.float64)  # 4.4e-12


def rounding(n: int, dtype: torch.dtype = torch.float32) -> float:
    """Error of a sum of `n` rounded terms relative to sum |terms|; n also counts operations in a row."""
    return 4 * n**0.5 * unit(dtype)


def error(found: Tensor, exact: Tensor) -> float:
    """Largest error over largest value."""
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).abs().max() / exact.abs().max())


def condition(plain: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """max_k error(plain_k, exact_k) / u of float32: what the plain code loses to rounding, over all tensors."""
    return max(error(plain[name], value) for name, value in exact.items()) / unit()


def allowed(condition: float, n: int, dtype: torch.dtype = torch.float32) -> float:
    """The bound for another way to compute the same: SLACK times what the plain code lost, and n operations more."""
    return SLACK * condition * unit(dtype) + rounding(n, dtype)
