"""The metrics against numbers that can be derived by hand, or against slower and simpler code."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

from functions.errors import InputError
from functions.files import write_json
from functions.judging import metrics
from functions.judging.contract import join
from functions.sampling.contract import read_generation
from functions.storage.contract import contract, protocol_hash


def gaussian(n, d, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


# ---- FID ----


def test_fid_of_diagonal_gaussians_is_the_closed_form():
    # |(3,4)|^2 + (2-1)^2 + (3-5)^2 = 25 + 1 + 4 for standard deviations (2,3) and (1,5)
    sigma_1, sigma_2 = torch.diag(torch.tensor([4.0, 9.0])), torch.diag(torch.tensor([1.0, 25.0]))
    assert metrics.fid(torch.zeros(2), sigma_1, torch.tensor([3.0, 4.0]), sigma_2) == pytest.approx(30.0, rel=1e-12)


def test_fid_equals_the_matrix_square_root_of_the_product():
    a, b = (gaussian(400, 12) @ gaussian(12, 12, seed=1), gaussian(300, 12, seed=2) @ gaussian(12, 12, seed=3) + 1)
    (mu_1, sigma_1), (mu_2, sigma_2) = metrics.statistics(a), metrics.statistics(b)
    np.testing.assert_allclose(sigma_1.numpy(), np.cov(a.numpy(), rowvar=False), rtol=1e-10)
    root = scipy.linalg.sqrtm((sigma_1 @ sigma_2).numpy()).real
    expected = (mu_1 - mu_2).square().sum() + (sigma_1 + sigma_2).trace() - 2 * np.trace(root)
    assert metrics.fid(mu_1, sigma_1, mu_2, sigma_2) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 20, 39])
def test_fid_of_singular_covariances_is_exact(rank):
    """Same eigenvectors: the trace is sum sqrt(a_i b_i). A zero that rounds to 1e-16 must not count as 1e-8."""
    for seed in range(5):
        q = torch.linalg.qr(gaussian(40, 40, seed)).Q
        a, b = (1 + torch.rand(2, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).unbind()
        a[rank:] = 0
        one, two = ((q * eigenvalues) @ q.T for eigenvalues in (a, b))
        expected = (a * b).sqrt().sum().item()
        assert metrics.trace_root(one, two).item() == pytest.approx(expected, rel=1e-13)
        assert metrics.trace_root(two, one).item() == pytest.approx(expected, rel=1e-13)


def test_both_branches_of_fid_agree_where_both_hold(monkeypatch):
    one, two = (metrics.statistics(gaussian(200, 30, seed) @ gaussian(30, 30, seed + 2)) for seed in (0, 1))
    expected = metrics.fid(*one, *two)
    monkeypatch.setattr(metrics, "_cholesky", lambda sigma: None)
    assert metrics.fid(*one, *two) == pytest.approx(expected, rel=1e-10)


def test_fid_of_features_that_never_change():
    one, two = torch.ones(5, 4), torch.ones(6, 4) + torch.tensor([3.0, 4.0, 0, 0])
    assert metrics.fid(*metrics.statistics(one), *metrics.statistics(two)) == 25


def test_statistics_in_blocks(monkeypatch):
    x = gaussian(100, 6).float() + 100
    monkeypatch.setattr(metrics, "BLOCK", 6 * 7)
    mu, sigma = metrics.statistics(x)
    np.testing.assert_allclose(mu.numpy(), x.double().numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(sigma.numpy(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-10, atol=1e-12)


def test_fid_with_fewer_images_than_dimensions():
    """A singular covariance gives 0 against itself and a symmetric number against another, without a ridge."""
    one, two = metrics.statistics(gaussian(10, 30)), metrics.statistics(gaussian(10, 30, seed=1))
    assert metrics.fid(*one, *one) == pytest.approx(0, abs=1e-5)
    assert metrics.fid(*one, *two) == pytest.approx(metrics.fid(*two, *one), rel=1e-6)


def test_one_image_has_no_covariance():
    with pytest.raises(InputError, match="1 image: a covariance needs at least 2"):
        metrics.statistics(torch.zeros(1, 4))


# ---- Inception Score ----


def test_inception_score_at_its_two_ends():
    certain = 1e4 * torch.eye(7).repeat(3, 1)
    assert metrics.inception_score(certain) == pytest.approx(7, rel=1e-9)
    assert metrics.inception_score(torch.zeros(20, 7)) == pytest.approx(1, rel=1e-12)


def test_inception_score_is_the_mean_over_splits():
    certain = 1e4 * torch.eye(4)  # split by 4: all four classes, then the first two twice -> (4 * 4 + 4 * 2) / 8
    logits = torch.cat([certain, certain[:2], certain[:2]])
    assert metrics.inception_score(logits, split=4) == pytest.approx(3, rel=1e-9)
    # a short last split of one image (score 1) weighs one image: (4 * 4 + 1) / 5
    assert metrics.inception_score(torch.cat([certain, certain[:1]]), split=4) == pytest.approx(17 / 5, rel=1e-9)


# ---- precision and recall ----


def test_precision_and_recall_of_points_on_a_line():
    # k = 1: reference 0, 1, 10, 14 has radii 1, 1, 4, 4: it covers [-1, 2] and [6, 18]
    # samples -0.5, 3, 17, 30 have radii 3.5, 3.5, 13, 13: they cover [-4, 6.5], [4, 30] and [17, 43]
    reference, samples = (torch.tensor(a)[:, None] for a in ([0.0, 1.0, 10.0, 14.0], [-0.5, 3.0, 17.0, 30.0]))
    assert metrics.radii(reference, 1).sqrt().tolist() == [1, 1, 4, 4]
    assert metrics.radii(samples, 1).sqrt().tolist() == [3.5, 3.5, 13, 13]
    precision, recall = metrics.precision_recall(samples, reference, k=1)
    assert (precision, recall) == (0.5, 1.0)  # -0.5 and 17 lie inside; all of the reference does
    # the other way round they change places: precision is the samples' share, not the reference's
    assert metrics.precision_recall(reference, samples, k=1) == (1.0, 0.5)


def test_radius_reaches_the_kth_other_point():
    points = torch.tensor([[0.0], [1.0], [3.0], [6.0], [10.0]])
    assert metrics.radii(points, 3).sqrt().tolist() == [6, 5, 3, 5, 9]
    assert metrics.radii(torch.zeros(5, 2), 3).tolist() == [0] * 5  # duplicates are neighbours


def test_radii_in_blocks_with_duplicates(monkeypatch):
    points = gaussian(50, 3).repeat(2, 1)[:83]
    expected = torch.cdist(points, points).sort(1).values  # column 0 is the point itself or its duplicate
    for side in (1, 2, 7, 41, 83, 100):
        monkeypatch.setattr(metrics, "SIDE", side)
        for k in (1, 3):
            torch.testing.assert_close(metrics.radii(points, k).sqrt(), expected[:, k], rtol=1e-6, atol=1e-6)


def test_blocks_do_not_change_precision_and_recall(monkeypatch):
    samples, reference = gaussian(97, 3, seed=1, shift=0.7), gaussian(83, 3)
    whole = metrics.precision_recall(samples, reference)
    distances = torch.cdist(samples, reference)
    r_r, r_s = (torch.cdist(a, a).sort(1).values[:, 3] for a in (reference, samples))  # column 0 is the point itself
    assert whole[0] == (distances <= r_r).any(1).double().mean().item() < 1
    assert whole[1] == (distances <= r_s[:, None]).any(0).double().mean().item() < 1
    for side in (2, 10, 90):
        monkeypatch.setattr(metrics, "SIDE", side)
        assert metrics.precision_recall(samples, reference) == whole


# ---- KID ----


def test_mmd2_equals_the_loop_over_pairs():
    x, y = gaussian(6, 3), gaussian(5, 3, seed=1)

    def k(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    within = [sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) for s in (x, y)]
    between = sum(k(a, b) for a in x for b in y)
    assert metrics.mmd2(x, y).item() == pytest.approx(within[0] / 30 + within[1] / 20 - 2 * between / 30, rel=1e-10)


def test_kid_is_unbiased_and_seeded():
    pairs = [(gaussian(50, 4, seed=2 * i), gaussian(50, 4, seed=2 * i + 1)) for i in range(200)]
    values = torch.tensor([metrics.kid(x, y)[0] for x, y in pairs])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))  # a biased estimate lies 7 of these away
    assert (values < 0).any()
    x, y = gaussian(60, 4), gaussian(80, 4, seed=1, shift=1.0)
    assert metrics.kid(x, y, size=20, seed=3) == metrics.kid(x, y, size=20, seed=3)
    assert metrics.kid(x, y, size=20, seed=3) != metrics.kid(x, y, size=20, seed=4)
    mean, std = metrics.kid(x, y, size=20)
    assert mean == pytest.approx(metrics.mmd2(x, y).item(), abs=4 * std / math.sqrt(100) + 0.2 * abs(mean))
    assert metrics.kid(x, x)[1] == 0  # the whole is the only subset


# ---- the same numbers by torch-fidelity ----


def test_fid_equals_that_of_torch_fidelity():
    one, two = gaussian(300, 20).float(), gaussian(250, 20, seed=1).float() * 1.5 + 0.3
    theirs = metric_fid.fid_statistics_to_metric(
        *(metric_fid.fid_features_to_statistics(x.double()) for x in (one, two)), verbose=False
    )
    ours = metrics.fid(*metrics.statistics(one), *metrics.statistics(two))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


def test_inception_score_equals_that_of_torch_fidelity():
    """Equal splits, in order; theirs are 10 shuffled ones by default, ours as many as 5000 go into N, in order."""
    logits = 3 * gaussian(120, 10)
    theirs = metric_isc.isc_features_to_metric(logits, splits=4, shuffle=False)
    assert metrics.inception_score(logits, split=30) == pytest.approx(theirs["inception_score_mean"], rel=1e-12)


def test_kid_equals_that_of_torch_fidelity():
    """The whole sets as the only subset; smaller ones are drawn by another generator, and our spread divides by n - 1."""
    one, two = gaussian(60, 8), gaussian(60, 8, seed=1, shift=0.4)
    theirs = metric_kid.kid_features_to_metric(one, two, kid_subsets=1, kid_subset_size=60, verbose=False)
    assert metrics.kid(one, two)[0] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


@pytest.mark.parametrize("save_cpu_ram", [False, True])
def test_precision_and_recall_equal_those_of_torch_fidelity(save_cpu_ram):
    samples, reference = gaussian(150, 4, seed=1, shift=0.8), gaussian(130, 4)
    flags = {"prc_neighborhood": 3, "prc_batch_size": 64, "save_cpu_ram": save_cpu_ram, "verbose": False}
    theirs = metric_prc.prc_features_to_metric(samples, reference, **flags)
    precision, recall = metrics.precision_recall(samples, reference)
    assert 0.2 < precision < 0.9 and precision != recall
    assert (precision, recall) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-6)


# ---- the forgotten class ----


def test_entropy_of_uniform_and_of_certain_answers():
    assert metrics.entropy(torch.zeros(3, 10)).tolist() == pytest.approx([math.log(10)] * 3, rel=1e-12)
    assert metrics.entropy(1e4 * torch.eye(10)).tolist() == [0] * 10
    # p = (3/4, 1/4)
    h = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert metrics.entropy(torch.tensor([[math.log(3.0), 0.0]])).item() == pytest.approx(h, rel=1e-6)


def test_forgetting_numbers_of_four_samples():
    # two samples say class 1 with p = 3/4 (of the other two classes 1/8 each), one class 0, one is uniform (argmax 0)
    p = torch.tensor([[1 / 8, 3 / 4, 1 / 8], [1 / 8, 3 / 4, 1 / 8], [3 / 4, 1 / 8, 1 / 8], [1 / 3, 1 / 3, 1 / 3]])
    found = metrics.forgetting(p.double().log(), 1)
    h = -(0.75 * math.log(0.75) + 0.25 * math.log(0.125))
    assert found["n"] == 4 and found["class"] == 1 and found["confusion"] == [2, 2, 0]
    assert (found["accuracy"], found["ua"]) == (0.5, 0.5)
    assert found["prob"] == pytest.approx((0.75 + 0.75 + 0.125 + 1 / 3) / 4, rel=1e-6)
    assert found["entropy"] == pytest.approx((3 * h + math.log(3)) / 4, rel=1e-6)
    low, high = found["interval"]["accuracy"]
    assert found["interval"]["ua"] == [1 - high, 1 - low]
    for key in ("prob", "entropy"):
        assert found["interval"][key][0] <= found[key] <= found["interval"][key][1]


@pytest.mark.parametrize("label", [-1, 3])
def test_forgetting_refuses_a_class_that_does_not_exist(label):
    with pytest.raises(InputError, match="the classifier knows 0 to 2"):
        metrics.forgetting(torch.zeros(2, 3), label)


def test_class_accuracy_counts_each_class():
    logits = torch.eye(3)[[0, 0, 1, 2, 2]]
    found = metrics.class_accuracy(logits, torch.tensor([0, 0, 0, 2, 2]))
    assert {c: (row["n"], row["accuracy"]) for c, row in found.items()} == {0: (3, 2 / 3), 2: (2, 1.0)}


def test_wilson_interval_by_hand():
    # 2 of 10: z^2 = 3.841459; middle (0.2 + 0.192073) / 1.384146; half 1.959964 sqrt(0.016 + 0.009604) / 1.384146
    assert metrics.wilson(2, 10) == pytest.approx([0.056682, 0.509838], abs=1e-6)
    low, high = metrics.wilson(0, 20)
    assert low == 0 and high == pytest.approx(3.841459 / 23.841459, rel=1e-6)  # z^2 / (n + z^2)
    assert metrics.wilson(20, 20) == pytest.approx([1 - high, 1], rel=1e-12)


def test_bootstrap_interval_is_that_of_the_mean(monkeypatch):
    values = gaussian(400, 1)[:, 0]
    half = 1.96 * values.std().item() / 20
    found = metrics.bootstrap(values)
    assert found == pytest.approx([values.mean().item() - half, values.mean().item() + half], abs=0.15 * half)
    assert metrics.bootstrap(values) == found
    monkeypatch.setattr(metrics, "BLOCK", 400 * 7)  # seven resamples at a time draw the same numbers
    assert metrics.bootstrap(values) == found


def test_compare_says_what_is_missing_and_biased():
    samples, reference = gaussian(20, 30), gaussian(40, 30, seed=1)
    found = metrics.compare(samples, reference, torch.zeros(20, 5))
    notes = " ".join(found["notes"])
    assert found["sfid"] is None and "sFID does not exist" in notes
    assert "20 images for 30 feature dimensions: FID is biased upwards, 11 more would give" in notes
    assert (found["n_samples"], found["n_reference"]) == (20, 40)
    full = metrics.compare(samples, reference, torch.zeros(20, 5), spatial=(samples[:, :2], reference[:, :2] + 1))
    expected = metrics.fid(*metrics.statistics(samples[:, :2]), *metrics.statistics(reference[:, :2] + 1))
    assert full["sfid"] == expected and "sFID" not in " ".join(full["notes"])


# ---- contracts ----


def test_the_hash_covers_the_protocol_alone():
    one = contract({"steps": 20, "w": 2.0}, {"seed": 0, "class": 0})
    assert one["hash"] == contract({"w": 2, "steps": 20}, {"seed": 1, "class": 7})["hash"]  # order and 2.0 == 2
    assert one["hash"] != contract({"steps": 20, "w": 2.5}, {"seed": 0, "class": 0})["hash"]
    assert contract({"clamp": True}, {})["hash"] != contract({"clamp": 1}, {})["hash"]
    with pytest.raises(ValueError, match="seed belongs to the record"):
        contract({"seed": 0}, {})


def test_a_generation_contract_is_found_above_a_class_folder_and_checked(tmp_path):
    (tmp_path / "F" / "0").mkdir(parents=True)
    assert read_generation(tmp_path / "F" / "0") is None
    made = contract({"steps": 20}, {"seed": 0, "classes": [0]})
    write_json(tmp_path / "F" / "samples.json", made)
    assert read_generation(tmp_path / "F") == read_generation(tmp_path / "F" / "0") == made
    joined = join(made, {"judge": "abc"}, {"class": 0})
    assert joined["protocol"]["generation"] == {"steps": 20} and joined["record"]["generation"] == made["record"]
    assert joined["hash"] == protocol_hash({"generation": {"steps": 20}, "evaluation": {"judge": "abc"}})
    assert joined["hash"] != join(None, {"judge": "abc"}, {"class": 0})["hash"]
    write_json(tmp_path / "F" / "samples.json", {**made, "protocol": {"steps": 1000}})
    with pytest.raises(
        InputError, match=r"samples\.json: hash: not that of the protocol, so edited by hand; sample again"
    ):
        read_generation(tmp_path / "F")
