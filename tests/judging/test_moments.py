"""References that bring mean and covariance along: FID and sFID are of those, the rest of the images beside them."""

import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import make_judge, noise, save_images
from scipy import linalg

import evaluator
from functions.config.cli import run_main
from functions.files import read_json
from functions.judging import networks
from functions.judging.features import Features, Network

D, S = 5, 4  # dimensions of the stand-in's pooled and spatial features


def run(x: torch.Tensor) -> Features:
    """Means of rows of pixels, spread over [0, 1]: features that are not collinear."""
    rows = x.mean((1, 3))  # (N, H)
    far = torch.nn.functional.interpolate(rows[:, None], size=D + S)[:, 0]
    return Features(far[:, :D], 3 * rows[:, :3], far[:, D:])


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """In place of both Inception networks."""
    for name in ("inception", "tensorflow"):
        monkeypatch.setitem(networks.NETWORKS, name, lambda *_, name=name: Network(name, "0" * 64, run, 3, {}))


def covariance(d: int, seed: int) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(2 * d, d))
    return 0.01 * a.T @ a / d


def reference(**changes) -> dict[str, np.ndarray]:
    """As ADM's: 12 images in arr_0, moments of others. A change to None leaves an array out."""
    arrays = {
        "arr_0": noise(12, 16, colour=True, seed=1),
        "mu": np.linspace(0.3, 0.6, D).astype("f"),
        "sigma": covariance(D, 0),
        "mu_s": np.linspace(0.5, 0.4, S),
        "sigma_s": covariance(S, 1),
    } | changes
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.fixture
def samples():
    save_images(Path("S"), noise(20, 16, colour=True))
    return run(torch.from_numpy(noise(20, 16, colour=True)).permute(0, 3, 1, 2) / 255)


def evaluate(arrays: dict, *more: str) -> dict:
    np.savez("R.npz", **arrays)
    evaluator.main(["S", "R.npz", *more])
    return read_json("S/metrics.json")["evaluator"]


def frechet(features: torch.Tensor, mu: np.ndarray, sigma: np.ndarray) -> float:
    """The textbook's, by scipy's matrix square root; torch-fidelity's is the same."""
    x = features.double().numpy()
    root = linalg.sqrtm(np.cov(x, rowvar=False) @ sigma)
    return float(((x.mean(0) - mu) ** 2).sum() + np.trace(np.cov(x, rowvar=False) + sigma - 2 * root.real))


def test_fid_and_sfid_are_of_the_moments_and_the_rest_of_the_images(samples, capsys):
    arrays = reference()
    found = evaluate(arrays)
    assert found["fid"] == pytest.approx(frechet(samples.pool, arrays["mu"], arrays["sigma"]), rel=1e-5)
    assert found["sfid"] == pytest.approx(frechet(samples.spatial, arrays["mu_s"], arrays["sigma_s"]), rel=1e-5)
    printed = capsys.readouterr().out
    assert "Note: FID is against the reference's mu and sigma" in printed
    assert "Note: precision, recall and KID are against its 12 images" in printed
    assert "Note: ADM's reference batches have mu and sigma of its TensorFlow graph" in printed

    plain = evaluate(reference(mu=None, sigma=None, mu_s=None, sigma_s=None))
    assert plain["fid"] != found["fid"] and plain["sfid"] != found["sfid"]
    for key in ("precision", "recall", "kid", "inception_score", "n_reference"):
        assert plain[key] == found[key], key
    evaluate(arrays, "--features", "tensorflow")
    assert "--features tensorflow" not in capsys.readouterr().out


def test_fid_is_torch_fidelitys(samples):
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    arrays = reference()
    x = samples.pool.double().numpy()
    ours = {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's sqrtm has lost an argument that it passes
        wanted = fid_statistics_to_metric(ours, {k: arrays[k].astype("d") for k in ours}, verbose=False)
    assert evaluate(arrays)["fid"] == pytest.approx(next(iter(wanted.values())), rel=1e-5)


def test_moments_alone_give_what_they_can(samples, capsys):
    found = evaluate(reference(arr_0=None, mu_s=None, sigma_s=None))
    arrays = reference()
    assert found["fid"] == pytest.approx(frechet(samples.pool, arrays["mu"], arrays["sigma"]), rel=1e-5)
    assert {key for key, value in found.items() if value is None} == {
        *("sfid", "precision", "recall", "kid", "kid_std", "interval", "n_reference")
    }
    printed = capsys.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines()[:3]] == ["Inception Score", "FID", "Images"]
    assert "20 samples, no reference" in printed and "sFID: the reference has neither mu_s and sigma_s nor" in printed
    assert "precision, recall and KID are against nothing: it has no images (arr_0)" in printed


def test_without_spatial_moments_sfid_is_of_the_images(samples, capsys):
    found = evaluate(reference(mu_s=None, sigma_s=None))
    plain = evaluate(reference(mu=None, sigma=None, mu_s=None, sigma_s=None))
    assert found["sfid"] == plain["sfid"] and found["fid"] != plain["fid"]
    assert "sFID, without mu_s and sigma_s, against its images" in capsys.readouterr().out


def test_other_moments_are_another_protocol(samples):
    rule = lambda found: found["contract"]["protocol"]["evaluation"]["reference"]
    one, again = (rule(evaluate(reference(arr_0=None))) for _ in range(2))
    other = rule(evaluate(reference(arr_0=None, mu=np.linspace(0.3, 0.7, D))))
    assert one == again != other and list(one) == ["moments"]
    assert set(rule(evaluate(reference()))) == {"moments", "fingerprint"}


def test_a_classifier_looks_at_the_images(tmp_path_factory, capsys):
    judge = make_judge(tmp_path_factory.mktemp("judge"))
    save_images(Path("S"), noise(20))
    arrays = reference(arr_0=noise(12, seed=1)[..., None])
    found = evaluate(arrays, "--features", f"classifier:{judge}")
    assert (
        "Note: the reference's mu and sigma are of Inception features, and --features is a" in capsys.readouterr().out
    )
    plain = evaluate({"arr_0": arrays["arr_0"]}, "--features", f"classifier:{judge}")
    assert found["fid"] == plain["fid"]
    np.savez("R.npz", **reference(arr_0=None))
    with pytest.raises(Exception, match=r"R\.npz: mu and sigma are of Inception features, .*: wanted images \(arr_0\)"):
        evaluator.main(["S", "R.npz", "--features", f"classifier:{judge}"])


def absurd(**shapes: tuple[int, ...]) -> None:
    """R.npz whose arrays say that they are as large as this, and are empty."""
    with zipfile.ZipFile("R.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in shapes.items():
            with archive.open(f"{name}.npy", "w") as member:
                header = {"descr": "<f8", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)


NAN, ASYMMETRIC, NEGATIVE = covariance(D, 0), covariance(D, 0), np.diag([1.0, 1.0, 1.0, 1.0, -0.5])
NAN[1, 2] = np.nan
ASYMMETRIC[0, 1] += 1


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"sigma": None}, r"R\.npz: no sigma in it, beside mu, mu_s, sigma_s"),
        ({"mu": None, "sigma": None}, r"R\.npz: no mu in it, beside mu_s, sigma_s"),
        ({"sigma": covariance(4, 0)}, r"sigma has shape \(4, 4\), mu 5 numbers: wanted 5 x 5"),
        ({"sigma": NAN}, r"R\.npz: 1 of 30 values are NaN or infinite, in sigma"),
        ({"sigma": ASYMMETRIC}, r"R\.npz: sigma is not symmetric, so it is no covariance"),
        ({"sigma": NEGATIVE}, r"R\.npz: sigma has the eigenvalue -0\.5 < 0, so it is no covariance"),
        ({"mu": np.zeros((D, 1))}, r"R\.npz: mu is float64 \(5, 1\); wanted a mean \(D,\) of floats, D up to 4096"),
        ({"mu": np.zeros(D, int)}, r"R\.npz: mu is int64 \(5,\); wanted a mean"),
        ({"mu": np.array([None] * D)}, r"R\.npz: mu: refused: holds objects of Python"),
        ({"mu": np.zeros(7), "sigma": np.eye(7)}, r"mu has 7 dimensions, the features of --features inception have 5"),
        ({"mu_s": np.zeros(5), "sigma_s": np.eye(5)}, r"mu_s has 5 dimensions, the features of .* have 4"),
    ],
)
def test_what_is_no_mean_and_covariance_is_one_line(samples, changes, line, monkeypatch, capsys):
    np.savez("R.npz", **reference(**changes))
    ends_with(line, monkeypatch, capsys)


@pytest.mark.parametrize("d", [1 << 17, 4097])
def test_sizes_are_read_before_values(samples, d, monkeypatch, capsys):
    absurd(mu=(d,), sigma=(d, d))
    ends_with(rf"R\.npz: mu: cut short or damaged: its header says float64 of shape \({d},\)", monkeypatch, capsys)
    Path("R.npz").write_bytes(Path("R.npz").read_bytes()[:100])
    ends_with(r"R\.npz: damaged, or not a file of numpy", monkeypatch, capsys)
    np.savez("R.npz", mu=np.zeros(4097), sigma=np.zeros((1, 1)))
    ends_with(r"R\.npz: mu is float64 \(4097,\); wanted a mean \(D,\) of floats, D up to 4096", monkeypatch, capsys)


def ends_with(line: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["evaluator.py", "S", "R.npz"])
    capsys.readouterr()
    assert run_main(evaluator.main) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(line, error) and error.count("\n") == 0
    assert not Path("S/metrics.json").exists()
