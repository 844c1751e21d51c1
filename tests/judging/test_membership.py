"""Membership inference against scalar loops, plain SVCs and Gaussians whose rates can be derived; divergences and gaps."""

import math
from statistics import NormalDist

import bounds
import numpy as np
import pytest
import torch

from benchmarks.measure import peak_bytes
from functions.errors import InputError
from functions.judging import comparison, membership
from functions.judging import forgetting as forgetting_metrics

CPU = torch.device("cpu")


def judged(n: int, seed: int, margin: float, spread: float = 6.0, k: int = 10):
    """Logits (n,k) whose true class leads the others by N(margin, spread^2), and labels."""
    g = torch.Generator().manual_seed(seed)
    labels, z = torch.randint(k, (n,), generator=g), torch.randn(n, k, generator=g)
    lead = margin + spread * torch.randn(n, generator=g)
    return z.scatter(1, labels[:, None], (z.max(1).values + lead)[:, None]), labels


# ---- features


def scalar_m_entropy(z: list[float], y: int) -> float:
    top = max(z)
    e = [math.exp(v - top) for v in z]
    p = [v / sum(e) for v in e]
    rest = [sum(e[j] for j in range(len(z)) if j != c) / sum(e) for c in range(len(z))]  # 1 - p_c, without cancelling
    return -rest[y] * math.log(p[y]) - sum(p[c] * math.log(rest[c]) for c in range(len(z)) if c != y)


@pytest.mark.parametrize("margin", [0.0, 3.0, 15.0, -15.0])
def test_m_entropy_is_the_scalar_formula(margin):
    z, y = judged(60, 0, margin, 4.0)
    expected = [scalar_m_entropy(row, c) for row, c in zip(z.double().tolist(), y.tolist())]
    assert membership.m_entropy(z, y).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_features_by_hand_and_of_saturated_logits():
    z, y = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]]), torch.tensor([1, 0])
    assert membership.correctness(z, y).tolist() == [0.0, 1.0]  # a tie goes to the first class
    assert membership.confidence(z, y).tolist() == pytest.approx([0.5, 0.75])
    assert membership.entropy(z, y)[0].item() == pytest.approx(math.log(2))
    # p = 3/4 for y: -(1/4) log(3/4) - (1/4) log(3/4)
    assert membership.m_entropy(z, y)[1].item() == pytest.approx(-0.5 * math.log(0.75))
    assert membership.prob(z, y)[1].tolist() == pytest.approx([0.75, 0.25])
    sure = torch.tensor([[800.0, 0.0, 0.0], [0.0, 800.0, 0.0]])
    for y in (torch.tensor([0, 1]), torch.tensor([1, 2])):
        for name, feature in membership.FEATURES.items():
            assert feature(sure, y).isfinite().all(), name
        assert membership.phi(sure, y).isfinite().all()
    # wrong and sure: (1 - p_y) log p_y = -800 and p_c log(1 - p_c) = -800 + log 2
    assert membership.m_entropy(sure, torch.tensor([1, 2])).tolist() == pytest.approx([1600 - math.log(2)] * 2)


@pytest.mark.parametrize("feature", ["m_entropy", "entropy", "prob"])
def test_features_need_memory_linear_in_the_images(feature):
    small, large = judged(2000, 0, 3.0), judged(4000, 0, 3.0)
    peaks = [peak_bytes(lambda part=part: membership.FEATURES[feature](*part), CPU) for part in (small, large)]
    assert peaks[1] <= 2.1 * peaks[0]


def test_blocks_of_rows_change_no_feature(monkeypatch):
    z, y = judged(100, 0, 3.0)
    features = (membership.m_entropy, membership.entropy)
    whole = [feature(z, y) for feature in features]
    monkeypatch.setattr(membership, "BLOCK", 70)
    for feature, wanted in zip(features, whole):
        assert bounds.error(feature(z, y), wanted) < bounds.TIGHT


# ---- SVC-MIA and entropy-LR MIA


def plain_calls(members, nonmembers, forget):
    """The published attack: every row by itself."""
    from sklearn.svm import SVC

    rows, truth = np.concatenate([members, nonmembers]), np.repeat([1, 0], [len(members), len(nonmembers)])
    return SVC(C=3, gamma="auto", kernel="rbf").fit(rows, truth).predict(forget)


@pytest.mark.parametrize("margins", [(20.0, 12.0, 16.0), (3.0, 1.0, 2.0), (9.0, 9.0, 9.0), (40.0, 3.0, 40.0)])
@pytest.mark.parametrize("feature", membership.FEATURES)
def test_merged_duplicates_predict_as_unmerged(feature, margins):
    """The second set is unsaturated, the last saturates nearly all members."""
    parts = [judged(n, i, margin) for i, (n, margin) in enumerate(zip((300, 300, 200), margins))]
    rows = [membership.svc_feature(feature, *part) for part in parts]
    assert np.array_equal(membership.svc_calls(*rows), plain_calls(*rows))
    published = [membership.FEATURES[feature](*part).float().reshape(len(part[1]), -1).numpy() for part in parts]
    assert np.array_equal(membership.svc_calls(*rows), plain_calls(*published))  # rounding to 2^-24 moves none


def test_counts_of_duplicates_decide():
    """At 0: 30 members and 10 non-members, at 1 the reverse; without the counts both would be ties."""
    members = np.repeat([[0.0], [1.0]], [30, 10], axis=0)
    calls = membership.svc_calls(members, 1 - members, np.array([[0.0], [1.0], [0.0]]))
    assert calls.tolist() == [1.0, 0.0, 1.0]


def test_directions_are_opposite():
    """A forget set like the members: no share called non-member, all called member; like the non-members: the reverse."""
    members, others = judged(400, 0, 12.0, 1.0), judged(400, 1, 0.5, 1.0)
    seen, unseen = judged(200, 2, 12.0, 1.0), judged(200, 3, 0.5, 1.0)
    assert membership.svc_mia(members, others, seen)["confidence"] < 0.05
    assert membership.svc_mia(members, others, unseen)["confidence"] > 0.9
    assert membership.entropy_lr_mia(members, others, seen) > 0.95
    assert membership.entropy_lr_mia(members, others, unseen) < 0.2
    assert list(membership.svc_mia(members, others, seen)) == [
        "correctness",
        "confidence",
        "entropy",
        "m_entropy",
        "prob",
    ]


def test_members_are_the_first_of_the_remain_set():
    z, y = judged(400, 0, 12.0, 1.0)
    late = (torch.cat([z, judged(400, 4, -5.0)[0]]), torch.cat([y, y]))
    others, forget = judged(400, 1, 0.5, 1.0), judged(100, 2, 3.0)
    assert membership.svc_mia(late, others, forget) == membership.svc_mia((z, y), others, forget)


def test_more_nonmembers_than_members_are_drawn():
    """As many as there are members, the same at each call, from the whole; up to equal numbers nothing is drawn."""
    assert membership.drawn(30, 30) is None and membership.drawn(30, 29) is None
    one, again, other = (membership.drawn(30, n) for n in (300, 300, 299))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert len(one.unique()) == 30 and one[0] < 100 and 200 <= one[-1] < 300 and torch.equal(one, one.sort().values)
    remain, test, forget = judged(30, 0, 12.0, 1.0), judged(300, 1, 0.5, 1.0), judged(50, 2, 12.0, 1.0)
    found = membership.svc_mia(remain, test, forget)
    assert found == membership.svc_mia(remain, tuple(part[one] for part in test), forget)
    # 1 : 10 would call everything that overlaps a non-member
    assert found["confidence"] < 0.1


def test_one_member_is_enough():
    remain, test, forget = judged(1, 0, 12.0), judged(40, 1, 0.5), judged(20, 2, 3.0)
    assert all(0 <= share <= 1 for share in membership.svc_mia(remain, test, forget).values())
    assert 0 <= membership.entropy_lr_mia(remain, test, forget) <= 1


def test_balanced_however_many_remain():
    """9 members for each non-member at both entropies: the weights make the boundary what 1 : 1 gives."""
    low, high = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.5, 0.0]])
    part = lambda n_low, n_high: (
        torch.cat([low.expand(n_low, 2), high.expand(n_high, 2)]),
        torch.zeros(n_low + n_high, dtype=torch.long),
    )
    # members 60 % low entropy, non-members 40 %: unbalanced counts would call everything a member
    assert membership.entropy_lr_mia(part(540, 360), part(40, 60), part(0, 10)) == 0.0
    assert membership.entropy_lr_mia(part(540, 360), part(40, 60), part(10, 0)) == 1.0


def test_a_test_set_that_outnumbers_the_remain_set_is_cut_to_its_size(monkeypatch):
    members, test, forget = judged(50, 0, 3.0), judged(80, 1, 0.0), judged(20, 2, 1.0)
    sizes, calls = [], membership.svc_calls
    monkeypatch.setattr(membership, "svc_calls", lambda *s: sizes.append([len(part) for part in s]) or calls(*s))
    found = membership.svc_mia(members, test, forget)
    assert sizes == [[50, 50, 20]] * 5 and found == membership.svc_mia(members, test, forget)  # one draw
    # of equal sizes, as ever: the first of D_r, all of D_test
    cut = tuple(part[:50] for part in test)
    assert membership.svc_mia(judged(60, 0, 3.0), cut, forget) == membership.svc_mia(
        tuple(part[:50] for part in judged(60, 0, 3.0)), cut, forget
    )


def test_the_contract_says_which_set_was_cut():
    told = lambda retain, test: comparison.attacks({"retain": retain, "test": test})
    # without a remain set nothing is drawn either
    assert told(9, 9) == told(10, 9) == told(0, 9) and told(9, 9)[1] == {}
    rules, draw = told(8, 9)
    assert "|D_r| of D_test drawn with seed 0" in rules["SVC_MIA_forget_efficacy"]
    assert draw == {"svc_nonmembers": {"seed": 0, "n": 8, "of": 9}}


def test_sets_that_cannot_be_attacked_are_refused():
    some, none = judged(30, 0, 3.0), judged(0, 0, 3.0)
    for attack in (membership.svc_mia, membership.entropy_lr_mia):
        with pytest.raises(InputError, match="the remain set has no images"):
            attack(none, some, some)
    for attack in (membership.svc_mia, membership.entropy_lr_mia):
        with pytest.raises(InputError, match="the forget set has no images"):
            attack(some, some, none)
        with pytest.raises(InputError, match="the test set has no images"):
            attack(some, none, some)


# ---- U-LiRA


def test_phi_is_the_log_odds():
    z, y = judged(50, 0, 2.0, 2.0)
    p = membership.confidence(z, y)
    assert membership.phi(z, y).tolist() == pytest.approx((p.log() - (1 - p).log()).tolist(), rel=1e-9)


def thirds(n_models: int, n: int, seed: int):
    """Bool (M,N): a random third of the examples unlearned, another out, for each model."""
    g = torch.Generator().manual_seed(seed)
    rank = torch.rand(n_models, n, generator=g).argsort(1).argsort(1)
    return rank < n // 3, (rank >= n // 3) & (rank < 2 * (n // 3)), g


@pytest.mark.parametrize("n_models,rule", [(240, "per example"), (60, "pooled")])
def test_rate_of_two_gaussians(n_models, rule):
    """Unlearned N(m + d, s), out N(m, s), m by example: the ratio is monotone in phi - m, TPR = Phi(d/s - z_0.99)."""
    unlearned, out, g = thirds(n_models, 60, 0)
    d, s = 2.4, 0.8
    phi = 30 * torch.randn(60, generator=g, dtype=torch.float64) + s * torch.randn(
        n_models, 60, generator=g, dtype=torch.float64
    )
    found = membership.u_lira(torch.where(unlearned, phi + d, phi), unlearned, out)
    normal = NormalDist()
    expected = normal.cdf(d / s - normal.inv_cdf(0.99))  # 0.75
    assert found["variance"] == rule
    assert found["tpr"] == pytest.approx(expected, abs=0.07)  # fitted means cost a little
    assert found["auc"] == pytest.approx(normal.cdf(d / s / math.sqrt(2)), abs=0.01)
    assert found["balanced_accuracy"] == pytest.approx(normal.cdf(d / s / 2), abs=0.01)
    for key in ("tpr", "auc", "balanced_accuracy"):
        low, high = found["interval"][key]
        assert low < found[key] < high and high - low < 0.2
    assert found["n_unlearned"] == found["n_out"] == 20 * n_models and found["bootstrap"] == "target models"


def test_no_difference_gives_chance():
    """Twelve models: did a target count among its own shadows, the rate would be far above 1 %."""
    unlearned, out, g = thirds(12, 300, 1)
    phi = 5 * torch.randn(300, generator=g) + torch.randn(12, 300, generator=g)
    found = membership.u_lira(phi, unlearned, out)
    assert found["tpr"] < 0.03 and found["auc"] == pytest.approx(0.5, abs=0.04)
    assert found["balanced_accuracy"] == pytest.approx(0.5, abs=0.04)
    assert found["interval"]["tpr"][0] <= 0.01 <= found["interval"]["tpr"][1] + 0.01


def test_scores_are_the_formula_from_the_other_models():
    phi = torch.tensor([[4.0], [3.0], [5.0], [0.0], [2.0], [1.0]])
    unlearned = torch.tensor([[True], [True], [True], [False], [False], [False]])
    scores, rule = membership.lira_scores(phi, unlearned, ~unlearned)
    assert rule == "pooled"
    # target 4: N(4, 2) of 3, 5 against N(1, 1) of 0, 2, 1
    assert scores[0].item() == pytest.approx(-math.log(2) / 2 + 9 / 2)
    # target 0: N(4, 1) of 4, 3, 5 against N(1.5, 1/2) of 2, 1
    assert scores[3].item() == pytest.approx(-16 / 2 + 1.5**2 / (2 * 0.5) + math.log(0.5) / 2)
    with pytest.raises(InputError, match="no example has two other models"):
        membership.lira_scores(phi[:4], unlearned[:4], ~unlearned[:4])


def test_pairs_without_a_state_or_without_others_have_no_score():
    unlearned, out, g = thirds(12, 30, 2)
    scores, _ = membership.lira_scores(torch.randn(12, 30, generator=g), unlearned, out)
    others = lambda state: state.sum(0) - state.long() > 0
    expected = (unlearned | out) & others(unlearned) & others(out)
    assert torch.equal(scores.isfinite(), expected) and torch.equal(membership.scorable(unlearned, out), expected)
    assert not (others(unlearned) & others(out)).all()  # the case is there


def test_threshold_is_conservative_under_ties():
    negative = torch.tensor([0.0] * 95 + [1.0] * 5)
    positive = torch.tensor([1.0] * 10 + [2.0] * 30)
    found = membership.rates(positive, negative, 0.01)
    assert found["tpr"] == 0.75  # above 1, not at it: at 1 the false positive rate would be 5 %
    # 5 of 100 negatives tie with 10 positives: (10 (95 + 5/2) + 30 * 100) / 4000
    assert found["auc"] == pytest.approx((10 * 97.5 + 3000) / 4000)
    assert membership.rates(positive, torch.arange(100.0) / 100, 0.01)["tpr"] == 1.0
    # 200 distinct negatives: two may pass, so the threshold is the third largest
    assert membership.rates(torch.tensor([196.5, 197.5]), torch.arange(200.0), 0.01)["tpr"] == 0.5


def test_one_target_is_resampled_by_pairs_and_reproducibly():
    g = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(50, generator=g), torch.randn(200, generator=g))]
    one, again = (membership._resampled(pairs, 0.01, 0) for _ in range(2))
    assert one == again and len({r["auc"] for r in one}) > 100
    assert one != membership._resampled(pairs, 0.01, 1)


def test_too_few_out_scores_for_one_percent_are_refused():
    unlearned, out, g = thirds(32, 9, 3)  # 32 * 3 = 96 out scores
    with pytest.raises(
        InputError, match="96 unlearned and 96 out scores; a rate at 1% false positives needs 1 and 100"
    ):
        membership.u_lira(torch.randn(32, 9, generator=g), unlearned, out)


# ---- divergences and gaps


def test_divergences_by_hand():
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    found = forgetting_metrics.divergences(p, q)
    assert found["D_KL"] == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    js = 0.5 * (
        0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3) + 0.9 * math.log(0.9 / 0.7) + 0.1 * math.log(0.1 / 0.3)
    )
    assert found["JS"] == pytest.approx(js) == forgetting_metrics.divergences(q, p)["JS"]


def test_divergences_at_their_bounds():
    sure, other = torch.tensor([[1000.0, 0.0, 0.0]]), torch.tensor([[0.0, 1000.0, 0.0]])
    assert forgetting_metrics.divergences(sure, sure) == {"D_KL": 0.0, "JS": 0.0}
    far = forgetting_metrics.divergences(sure, other)
    assert far["JS"] == pytest.approx(math.log(2)) and far["JS"] <= math.log(2)
    assert far["D_KL"] == pytest.approx(1000)
    z, _ = judged(500, 0, 10.0)
    found = forgetting_metrics.divergences(z, z.flip(1))
    assert math.isfinite(found["D_KL"]) and 0 < found["JS"] <= math.log(2)


def test_average_gap():
    values = {"UA": 10.0, "RA": 99.0, "TA": 90.0, "MIA": 20.0}
    retrained = {"UA": 6.0, "RA": 100.0, "TA": 93.0, "MIA": 12.0}
    assert forgetting_metrics.average_gap(values, retrained) == 4.0  # (4 + 1 + 3 + 8) / 4
    assert forgetting_metrics.average_gap(retrained, retrained) == 0.0
    blank = {"TA": None, "MIA": None}
    assert forgetting_metrics.average_gap(values | blank, retrained | blank) == 2.5  # (4 + 1) / 2


def test_accuracy_in_percent():
    z, y = torch.eye(4), torch.tensor([0, 1, 2, 0])
    assert forgetting_metrics.accuracy(z, y) == 75.0 and forgetting_metrics.accuracy(z[:0], y[:0]) is None


def test_attacks_set_a_forgotten_class_against_the_kept_ones():
    """Test images of the forgotten class look like nothing else; with or without them in the file, all is the same."""
    z, y = judged(600, 0, 3.0, 2.0)
    test, labels = judged(300, 1, 2.0, 2.0)
    test[labels == 3] = 0.0
    parts = {"remain": (y != 3).nonzero()[:450, 0], "forget": (y == 3).nonzero()[:, 0], "val": torch.arange(0)}
    numbers = lambda kept, c: forgetting_metrics.forgetting_numbers(z, y, parts, test[kept], labels[kept], c)
    whole, cut = numbers(labels >= 0, [3]), numbers(labels != 3, [3])
    assert whole.pop("TA_forgotten") is not None and cut.pop("TA_forgotten") is None and whole == cut
    counted = numbers(labels >= 0, [])
    assert counted["entropy_lr_mia"] != cut["entropy_lr_mia"]
    assert counted["SVC_MIA_forget_efficacy"] != cut["SVC_MIA_forget_efficacy"]
    none = numbers(labels == 3, [3])
    assert none["notes"] == ["SVC-MIA and LR-MIA are blank: the test set has no images of kept classes"]
    assert [none[key] for key in ("TA", "MIA", "SVC_MIA_forget_efficacy", "entropy_lr_mia")] == [None] * 4
    assert none["interval"]["TA"] is None and none["TA_forgotten"] is not None
    assert (none["UA"], none["RA"], whole["notes"]) == (whole["UA"], whole["RA"], [])
