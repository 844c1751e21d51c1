"""The numbers that judge samples, as pure functions of features (N,D) and logits (N,K). No files, no models.

All in float64 but distances, which keep the features' type: on many GPUs float64 costs 30 times more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from functions.errors import InputError
from functions.finite import check_finite
from functions.progress import each
from functions.randomness import keyed_generator

Z_95 = 1.959963984540054  # the 97.5 % quantile of N(0, 1)
BLOCK = 1 << 23  # numbers drawn or converted at once: 64 MB in float64
SIDE = 2048  # rows and columns of one block of a distance matrix: 16 MB in float32


# ---- distributions of features ----

Gaussian = tuple[Tensor, Tensor]  # mean (D,), covariance (D,D)


class Moments(NamedTuple):
    """A reference's own mean and covariance of pooled and, unless None, spatial features; the hash of all numbers."""

    sha256: str
    pool: Gaussian
    spatial: Gaussian | None


def statistics(features: Tensor) -> Gaussian:
    """Mean (D,) and unbiased covariance (D,D) of features (N,D), float64. Raises InputError for fewer than 2 rows."""
    _require(len(features), 2, "a covariance")
    mu = features.mean(0, dtype=torch.float64)
    sigma = torch.zeros(len(mu), len(mu), dtype=torch.float64, device=mu.device)
    for rows in features.split(max(1, BLOCK // len(mu))):  # never all of it in float64
        centred = rows.double() - mu
        sigma.addmm_(centred.T, centred)
    return mu, sigma / (len(features) - 1)


def fid(mu_1: Tensor, sigma_1: Tensor, mu_2: Tensor, sigma_2: Tensor) -> float:
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)): squared Wasserstein-2 distance of two Gaussians.

    Rounding below 0 is cut; no covariance needs a ridge. Source: Heusel et al. 2017, arXiv 1706.08500.
    """
    mu_1, sigma_1, mu_2, sigma_2 = (a.double() for a in (mu_1, sigma_1, mu_2, sigma_2))
    distance = (mu_1 - mu_2).square().sum() + sigma_1.trace() + sigma_2.trace()
    return max((distance - 2 * trace_root(sigma_1, sigma_2)).item(), 0.0)


def trace_root(sigma_1: Tensor, sigma_2: Tensor) -> Tensor:
    """tr (S_1 S_2)^(1/2) of two covariances (D,D), without a matrix square root.

    With S_1 = L L^T the product has the eigenvalues of the symmetric L^T S_2 L, and the trace is the sum of their
    roots. Where either is singular (fewer images than dimensions, dead features) the zeros among those eigenvalues
    come out as +-eps of the largest, and each root would add 1e-8 of the largest root. There S_i = F_i F_i^T with thin
    factors, and the trace is the sum of the singular values of F_1^T F_2: nothing is squared, so zeros stay eps.
    """
    lower = _cholesky(sigma_1)
    if lower is None or _cholesky(sigma_2) is None:
        return torch.linalg.svdvals(_thin_factor(sigma_1).T @ _thin_factor(sigma_2)).sum()
    values = torch.linalg.eigvalsh(lower.T @ sigma_2 @ lower)  # reads one triangle: rounding is no asymmetry
    return values.clamp(min=0).sqrt().sum()


def _cholesky(sigma: Tensor) -> Tensor | None:
    """L of S = L L^T; None where S is not positive definite or a pivot is within rounding (D eps max S_ii) of 0."""
    lower, failed = torch.linalg.cholesky_ex(sigma)
    if failed or lower.diagonal().square().min() <= _rounding(sigma, sigma.diagonal().max()):
        return None
    return lower


def _thin_factor(sigma: Tensor) -> Tensor:
    """F (D,r) with S = F F^T up to rounding: eigenvectors times roots of the eigenvalues above D eps max."""
    values, vectors = torch.linalg.eigh(sigma)
    kept = values > _rounding(sigma, values[-1])
    return vectors[:, kept] * values[kept].sqrt()


def _rounding(sigma: Tensor, largest: Tensor) -> Tensor:
    return len(sigma) * torch.finfo(sigma.dtype).eps * largest


def inception_score(logits: Tensor, split: int = 5000) -> float:
    """exp(mean_x KL(p(y|x) || p(y))), p(y) the mean over a split of 5000 images; in [1, K].

    The mean over splits is weighted by their sizes, so a short last split counts as little as it is; equal splits give
    the published number. Source: Salimans et al. 2016, arXiv 1606.03498.
    """
    _require(len(logits), 1, "an Inception Score")
    total = 0.0
    for part in logits.double().log_softmax(1).split(split):
        log_marginal = part.logsumexp(0) - math.log(len(part))
        kl = (part.exp() * (part - log_marginal)).sum(1).mean()
        total += len(part) * kl.exp().item()
    return total / len(logits)


def precision_recall(samples: Tensor, reference: Tensor, k: int = 3) -> tuple[float, float]:
    """Precision: share of samples within the reference manifold. Recall: share of the reference within the samples'.

    The manifold of a set is the union of balls around its points that reach their k-th neighbour in the set.
    Distances come in blocks of SIDE x SIDE, so memory is bounded. Source: Kynkäänniemi et al. 2019, arXiv 1904.06991.
    """
    _require(min(len(samples), len(reference)), k + 1, f"precision and recall with k = {k}")
    # distances through |a|^2 + |b|^2 - 2ab lose fewer digits near the origin
    centre = reference.mean(0)
    samples, reference = samples - centre, reference - centre
    radii_s, radii_r = radii(samples, k), radii(reference, k)
    # an infinite radius would hold every point
    check_finite("distances between features", {"samples": radii_s, "reference": radii_r}, "the features are too large")
    inside_s, inside_r = (torch.zeros(len(a), dtype=torch.bool, device=a.device) for a in (samples, reference))
    starts_s, starts_r = (range(0, len(a), SIDE) for a in (samples, reference))
    for i, j in _bar([(i, j) for i in starts_s for j in starts_r], "precision and recall"):
        s, r = slice(i, i + SIDE), slice(j, j + SIDE)
        d = squared_distances(samples[s], reference[r])
        inside_s[s] |= (d <= radii_r[r]).any(1)
        inside_r[r] |= (d <= radii_s[s, None]).any(0)
    return inside_s.double().mean().item(), inside_r.double().mean().item()


def radii(features: Tensor, k: int = 3) -> Tensor:
    """Squared distance (N,) from each point to its k-th nearest other point; duplicates count as neighbours.

    The matrix is symmetric: a block above the diagonal serves the points of its rows and those of its columns.
    """
    nearest = torch.full((len(features), k), torch.inf, dtype=features.dtype, device=features.device)
    starts = range(0, len(features), SIDE)
    for i, j in _bar([(i, j) for i in starts for j in starts if i <= j], "neighbours"):
        d = squared_distances(features[i : i + SIDE], features[j : j + SIDE])
        if i == j:
            d.fill_diagonal_(torch.inf)  # a point is not its own neighbour
        else:
            _keep_smallest(nearest[j : j + SIDE], d.T.contiguous())
        _keep_smallest(nearest[i : i + SIDE], d)
    return nearest.amax(1)


def _keep_smallest(nearest: Tensor, candidates: Tensor) -> None:
    """Each row of `nearest` (N,k), in place, becomes the k smallest of itself and of its row of `candidates` (N,M)."""
    k = nearest.shape[1]
    few = candidates.topk(min(k, candidates.shape[1]), dim=1, largest=False, sorted=False).values
    nearest.copy_(torch.cat([nearest, few], dim=1).topk(k, dim=1, largest=False, sorted=False).values)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 (N,M) for (N,D) and (M,D)."""
    d = torch.addmm(b.square().sum(1)[None], a, b.T, alpha=-2)
    return d.add_(a.square().sum(1)[:, None]).clamp_(min=0)


def kid(
    samples: Tensor, reference: Tensor, n_subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Unbiased MMD^2 with k(a, b) = (a.b / D + 1)^3 over random subsets: their mean and standard deviation.

    100 subsets of min(1000, N), drawn without replacement; once where the whole of both sets is the only subset.
    May be negative. Source: Bińkowski et al. 2018, arXiv 1801.01401.
    """
    size = min(size, len(samples), len(reference))
    _require(size, 2, "KID")
    if size == len(samples) == len(reference):
        return mmd2(samples, reference).item(), 0.0
    generator = keyed_generator(seed, "kid")
    subsets = _bar(range(n_subsets), "KID")
    values = [mmd2(_subset(samples, size, generator), _subset(reference, size, generator)) for _ in subsets]
    values = torch.stack(values)
    return values.mean().item(), values.std().item() if n_subsets > 1 else 0.0


def mmd2(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased MMD^2 of (M,D) and (N,D): mean_{i!=j} k(x_i,x_j) + mean_{i!=j} k(y_i,y_j) - 2 mean k(x_i,y_j)."""
    x, y = x.double(), y.double()
    d, m, n = x.shape[1], len(x), len(y)
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within_x = (xx.sum() - xx.trace()) / (m * (m - 1))
    within_y = (yy.sum() - yy.trace()) / (n * (n - 1))
    return within_x + within_y - 2 * xy.mean()


def compare(
    samples: Tensor,
    reference: Tensor | None,
    logits: Tensor,
    spatial: tuple[Tensor, Tensor | None] | None = None,
    moments: Moments | None = None,
) -> dict:
    """All distribution numbers: pooled features (N,D) and (M,D), the SAMPLES' logits (N,K), spatial ones if any.

    With `moments`, of a whole reference of which the images are a part or none (None), FID and sFID are from them.
    `notes` says what a reader must know before comparing: too few images, or a number that does not exist.
    """
    n, m, dims = len(samples), None if reference is None else len(reference), samples.shape[1]
    beside = _beside_images(samples, reference)  # first: it refuses sets that are too small
    known = moments.pool if moments else statistics(reference)
    numbers = {
        "n_samples": n,
        "n_reference": m,
        "inception_score": inception_score(logits),
        "fid": fid(*statistics(samples), *known),
        "sfid": None,
        **beside,
    }
    notes, fewest = [], n if moments else min(n, m)
    known = spatial and _known(spatial[1], moments and moments.spatial)
    if known:
        numbers["sfid"] = fid(*statistics(spatial[0]), *known)
    elif spatial:
        notes.append("sFID: the reference has neither mu_s and sigma_s nor images")
    else:
        notes.append("sFID does not exist for this feature network: it has no spatial features")
    if fewest <= dims:
        notes.append(
            f"{fewest} images for {dims} feature dimensions: FID is biased upwards, {dims + 1 - fewest} more "
            "would give a covariance of full rank; compare by KID"
        )
    if moments:
        notes.append(
            "FID is against the reference's mu and sigma, of images whose number it does not say"
            + ("" if moments.spatial or not known else "; sFID, without mu_s and sigma_s, against its images")
        )
        rest = f"its {m} images" if m else "nothing: it has no images (arr_0)"
        notes.append(f"precision, recall and KID are against {rest}")
    elif n != m:
        notes.append(f"{n} samples against {m} reference images: FID and recall depend on both counts")
    if bad := [key for key, value in numbers.items() if isinstance(value, float) and not math.isfinite(value)]:
        raise InputError(f"{', '.join(bad)}: NaN or infinite: the features are too large to compare")
    return {**numbers, "notes": notes}


def _known(spatial: Tensor | None, moments: Gaussian | None) -> Gaussian | None:
    """The Gaussian of the reference's spatial features: as it brings it, or of its images; None without both."""
    return moments or (None if spatial is None else statistics(spatial))


def _beside_images(samples: Tensor, reference: Tensor | None) -> dict:
    """What only images can tell, or None of each."""
    if reference is None:
        return dict.fromkeys(("precision", "recall", "kid", "kid_std", "interval"))
    precision, recall = precision_recall(samples, reference)
    kid_mean, kid_std = kid(samples, reference)
    n, m = len(samples), len(reference)
    interval = {"precision": wilson(round(precision * n), n), "recall": wilson(round(recall * m), m)}
    return {"precision": precision, "recall": recall, "kid": kid_mean, "kid_std": kid_std, "interval": interval}


def _subset(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=generator)[:size].to(features.device)]


def _bar(steps, name: str):
    """A progress bar on a terminal, gone when done."""
    return each(steps, name, len(steps), "blocks")


def _require(n: int, least: int, what: str) -> None:
    if n < least:
        raise InputError(f"{n} image{'s' * (n != 1)}: {what} needs at least {least}")


# ---- what a classifier says about samples ----


def entropy(logits: Tensor) -> Tensor:
    """-sum_c p_c log p_c (N,) in nats: 0 for a certain answer, ln K for a uniform one."""
    log_p = logits.double().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def forgetting(logits: Tensor, label: int | Tensor, seed: int = 0) -> dict:
    """The numbers of the forgotten class from logits (N,K) of samples asked for as `label`, one or each its own (N,).

    `accuracy` is the share with argmax = label (the published FA), `ua` = 1 - accuracy, `prob` the mean p(label),
    `entropy` in nats, `confusion` the count of each argmax. 95 % intervals: Wilson for shares, bootstrap for means.
    """
    _require(len(logits), 1, "a classifier evaluation")
    n, n_classes = logits.shape
    asked = torch.full((n,), label, device=logits.device) if isinstance(label, int) else label.to(logits.device)
    classes = asked.unique().tolist()
    if unknown := [c for c in classes if not 0 <= c < n_classes]:
        raise InputError(f"class {unknown[0]}: the classifier knows 0 to {n_classes - 1} (--label_of_forgotten_class)")
    answers = logits.argmax(1)
    confusion, right = torch.bincount(answers, minlength=n_classes).tolist(), int((answers == asked).sum())
    prob, h = logits.double().softmax(1).gather(1, asked[:, None])[:, 0], entropy(logits)
    low, high = wilson(right, n)
    return {
        "class": classes[0] if len(classes) == 1 else classes,
        "n": n,
        "accuracy": right / n,
        "ua": 1 - right / n,
        "prob": prob.mean().item(),
        "entropy": h.mean().item(),
        "confusion": confusion,
        "interval": {
            "accuracy": [low, high],
            "ua": [1 - high, 1 - low],
            "prob": bootstrap(prob, seed=seed),
            "entropy": bootstrap(h, seed=seed),
        },
    }


def class_accuracy(logits: Tensor, labels: Tensor) -> dict[int, dict]:
    """`{class: {n, accuracy, interval}}` for each class in `labels` (N,): share whose argmax is the class asked for."""
    right = logits.argmax(1) == labels
    out = {}
    for label in labels.unique().tolist():
        k, n = int(right[labels == label].sum()), int((labels == label).sum())
        out[label] = {"n": n, "accuracy": k / n, "interval": wilson(k, n)}
    return out


def mean_accuracy(by_class: dict[int, dict]) -> dict | None:
    """`{accuracy, n_classes, n, interval}` of what `class_accuracy` gives; None of no class.

    `accuracy` is the mean over classes. With equally many samples of each it is the share of all of them, of which
    `interval` is Wilson's; else there is none.
    """
    if not by_class:
        return None
    counts = [row["n"] for row in by_class.values()]
    mean, n = sum(row["accuracy"] for row in by_class.values()) / len(counts), sum(counts)
    interval = wilson(round(mean * n), n) if len(set(counts)) == 1 else None
    return {"accuracy": mean, "n_classes": len(counts), "n": n, "interval": interval}


def wilson(k: int, n: int) -> list[float]:
    """95 % interval of a share k/n: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). Source: Wilson 1927."""
    p, z2 = k / n, Z_95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return [max(0.0, middle - half) if k else 0.0, min(1.0, middle + half) if k < n else 1.0]


def bootstrap(values: Tensor, resamples: int = 1000, seed: int = 0) -> list[float]:
    """95 % percentile interval of the mean of values (N,), from means of N draws with replacement."""
    values, n = values.double().cpu(), len(values)
    generator = keyed_generator(seed, "bootstrap")
    chunk = max(1, BLOCK // n)
    counts = [min(chunk, resamples - done) for done in range(0, resamples, chunk)]
    means = [values[torch.randint(n, (rows, n), generator=generator)].mean(1) for rows in counts]
    return torch.cat(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
