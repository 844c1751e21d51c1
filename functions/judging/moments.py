"""Mean and covariance of a reference's features, where its .npz brings them along as ADM's reference batches do.

There `mu` and `sigma` are of pool_3 over all images of the data set, `mu_s` and `sigma_s` of the spatial features, and
`arr_0` holds some of the images only. openai/guided-diffusion, evaluations.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch

from functions.arrays import read_npz
from functions.errors import InputError
from functions.finite import check_finite
from functions.judging.features import Network
from functions.judging.metrics import Gaussian, Moments
from functions.sampling.folders import SampleSet, find_samples

LARGEST = 4096  # dimensions: a covariance of so many takes 128 MB
ROUNDING = 1e-5  # of its largest entry, and of its largest eigenvalue: what a covariance made in float32 may be off
OTHERS = {"classifier": "a classifier", "lite0": "lite0"}  # networks that no published mean and covariance are of
PAIRS = (("mu", "sigma"), ("mu_s", "sigma_s"))


def open_reference(source: Path | str) -> tuple[SampleSet | None, Moments | None]:
    """The images of a reference and its moments: at least one of them. Raises InputError as readers of both do."""
    moments = read_moments(Path(source))
    if moments:
        with zipfile.ZipFile(source) as archive:
            if "arr_0.npy" not in archive.namelist():
                return None, moments
    return find_samples(source), moments


def read_moments(source: Path) -> Moments | None:
    """None where it is no .npz, or one of images alone. Raises InputError for what is no mean and covariance."""
    if source.suffix != ".npz" or not source.is_file():
        return None
    arrays = read_npz(source, tuple(name for pair in PAIRS for name in pair))
    pairs = [pair for pair in PAIRS if arrays.keys() & set(pair)]
    if not pairs:
        return None
    for wanted in (PAIRS[0], *pairs):
        if missing := [name for name in wanted if name not in arrays]:
            raise InputError(f"{source}: no {missing[0]} in it, beside {', '.join(sorted(arrays))}")
    found = [_gaussian(source, arrays, *pair) for pair in pairs]
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for pair in found for t in pair)).hexdigest()
    return Moments(digest, found[0], found[1] if len(found) == 2 else None)


def usable(
    moments: Moments | None, network: Network, source: Path | str, images: bool, device: torch.device
) -> tuple[Moments | None, list[str]]:
    """The moments on the device, if they are of what the network sees, and notes for people.

    Raises InputError where they are all there is and of no use, or of other features than they are taken for: one grey
    image tells, before the long pass.
    """
    if moments is None:
        return None, []
    if network.name not in ("inception", "tensorflow"):
        aside = f"mu and sigma are of Inception features, and --features is {OTHERS[network.name]}"
        if not images:
            raise InputError(f"{source}: {aside}: wanted images (arr_0)")
        return None, [f"the reference's {aside}: FID is against its images"]
    with torch.inference_mode():
        seen = network.run(torch.full((1, network.channels, 32, 32), 0.5, device=device))
    for name, ours, theirs in (("mu", seen.pool, moments.pool), ("mu_s", seen.spatial, moments.spatial)):
        if theirs is not None and ours.shape[1] != len(theirs[0]):
            wanted = f"the features of --features {network.name} have {ours.shape[1]}"
            raise InputError(f"{source}: {name} has {len(theirs[0])} dimensions, {wanted}")
    pool, spatial = (pair and tuple(t.to(device) for t in pair) for pair in (moments.pool, moments.spatial))
    other = "ADM's reference batches have mu and sigma of its TensorFlow graph (--features tensorflow)"
    return Moments(moments.sha256, pool, spatial), [] if network.name == "tensorflow" else [other]


def _gaussian(source: Path, arrays: dict[str, np.ndarray], mean: str, covariance: str) -> Gaussian:
    """Checked: (D,) and (D,D) of floats that are finite, and a covariance up to rounding."""
    for name, dimensions, wanted in ((mean, 1, "a mean (D,)"), (covariance, 2, "a covariance (D,D)")):
        shape, dtype = arrays[name].shape, arrays[name].dtype
        if len(shape) != dimensions or not all(0 < n <= LARGEST for n in shape) or dtype.kind != "f":
            raise InputError(f"{source}: {name} is {dtype} {shape}; wanted {wanted} of floats, D up to {LARGEST}")
    mu, sigma = (torch.from_numpy(arrays[name].astype(np.float64)) for name in (mean, covariance))
    d = len(mu)
    if sigma.shape != (d, d):
        raise InputError(f"{source}: {covariance} has shape {tuple(sigma.shape)}, {mean} {d} numbers: wanted {d} x {d}")
    check_finite(str(source), {mean: mu, covariance: sigma}, "no mean and covariance of features")
    if (sigma - sigma.T).abs().max() > ROUNDING * sigma.abs().max():
        raise InputError(f"{source}: {covariance} is not symmetric, so it is no covariance")
    sigma = (sigma + sigma.T) / 2
    values = torch.linalg.eigvalsh(sigma)
    if values[0] < -ROUNDING * values[-1].abs():
        raise InputError(f"{source}: {covariance} has the eigenvalue {values[0]:.3g} < 0, so it is no covariance")
    return mu, sigma
