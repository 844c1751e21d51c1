"""Runs of classifier baselines: masks kept, moves that scale, and runs that stop and go on to the same bits."""

import math

import cases
import pytest
import torch
from steps import stats, weights, words

import train
from functions.config.methods import SalUn
from functions.storage.artifacts import load_mask
from runners import MODES
from runners.methods import orders

# ---- SFR-on, IU, FF


@pytest.mark.parametrize("mask_mode, stays", [("strict", True), ("gradient", False), ("null", False)])
def test_sfron_keeps_masked_weights_only_where_asked(folder, mask_mode, stays):
    """Its remain steps move all weights; without a word about it, too. Not by their decay alone: that is 0 there."""
    path = folder / "mask" / "with_0.5.safetensors"
    run = train.main(
        [
            *words(
                folder,
                "sfron",
                "--mask_path",
                str(path),
                "--set",
                f"unlearn.mask_mode={mask_mode}",
                "--set",
                "unlearn.forget_every=2",
                "--weight_decay",
                "5e-4" if stays else "0",
            ),
            "--save_dir",
            "out",
        ]
    )
    before, after = weights(folder / "origin"), weights(run)
    mask = load_mask(path, None, None)
    kept = [torch.equal(after[n][~m], before[n][~m]) for n, m in mask.items() if (~m).any()]
    assert len(kept) > 5 and (all(kept) if stays else not any(kept))
    assert any(not torch.equal(after[n][m], before[n][m]) for n, m in mask.items())


def moved(folder, mode, name, *more):
    run = train.main([*words(folder, mode, *more), "--save_dir", name])
    before, after = weights(folder / "origin"), weights(run)
    names = [n for n in before if "running" not in n and "tracked" not in n and n not in ("mean", "std")]
    return {n: (after[n] - before[n]).double() for n in names}, stats(run)


def test_ius_alpha_scales_the_move(folder):
    common = ["--set", "iu.k=10"]
    one, logged = moved(folder, "iu", "one", *common, "--alpha", "1")
    norm = math.sqrt(sum(float(d.square().sum()) for d in one.values()))
    assert norm > 1e-3 and logged[0]["moved"] == pytest.approx(norm, rel=1e-3)
    for alpha in (3.0, -2.0):
        other, _ = moved(folder, "iu", f"{alpha}", *common, f"--alpha={alpha}")
        assert all(torch.allclose(other[n], alpha * d, rtol=1e-3, atol=1e-6) for n, d in one.items())


def test_ffs_noise_follows_alpha_its_cap_and_the_head(folder):
    big = ["--set", "fisher_forget.cap=1e9", "--set", "fisher_forget.head_factor=1"]
    one, _ = moved(folder, "fisher_forget", "one", *big, "--alpha", "1e-6")
    other, _ = moved(folder, "fisher_forget", "other", *big, "--alpha", "4e-6")
    assert all(torch.allclose(other[n], 2 * d, rtol=1e-3, atol=1e-6) for n, d in one.items())
    flat = ["--set", "fisher_forget.cap=1e-4", "--alpha", "1e3"]  # the cap everywhere: plain noise of std 0.01
    capped, _ = moved(folder, "fisher_forget", "capped", *flat, "--set", "fisher_forget.head_factor=1")
    everything = torch.cat([d.flatten() for d in capped.values()])
    assert everything.std().item() == pytest.approx(0.01, rel=0.05) and abs(everything.mean()) < 1e-3
    head, _ = moved(folder, "fisher_forget", "head", *flat, "--set", "fisher_forget.head_factor=9")
    for n, d in capped.items():
        factor = 3 if n in ("head.weight", "head.bias") else 1
        assert torch.allclose(head[n], factor * d, rtol=1e-3, atol=1e-6), n


# ---- resume


RESUMED = {
    "salun split": ["salun", "--order", "split"],
    "salun joint": ["salun", "--order", "joint"],
    "salun_soft": ["salun_soft"],
    "scrub": ["scrub"],
    "bad_teacher": ["bad_teacher"],
    "boundary_expand": ["boundary_expand", "--epochs", "4"],
}


@pytest.mark.parametrize("case", RESUMED.values(), ids=RESUMED)
def test_a_stopped_run_goes_on_to_the_same_bits(folder, monkeypatch, case):
    mode, *more = case
    more = [*more, "--lr", "0.01", "--set", "training.snapshot_freq=3"]
    whole = train.main([*words(folder, mode, *more), "--save_dir", "whole"])
    step = MODES[mode].step

    def stop(self, k):
        if k == 5:
            raise KeyboardInterrupt
        return step(self, k)

    monkeypatch.setattr(MODES[mode], "step", stop)
    with pytest.raises(KeyboardInterrupt):
        train.main([*words(folder, mode, *more), "--save_dir", "half"])
    assert cases.load_meta("half")["step"] == 3
    monkeypatch.setattr(MODES[mode], "step", step)
    half = train.main([*words(folder, mode, *more), "--save_dir", "half", "--resume", "half"])
    one, two = weights(whole), weights(half)
    assert len(stats(whole)) > 5 and all(torch.equal(one[n], two[n]) for n in one)
    assert stats(half) == stats(whole)
    ours, theirs = (cases.load_state(r) for r in (half, whole))
    assert ours["positions"] == theirs["positions"]
    if mode == "boundary_expand":
        assert all(torch.equal(ours["extra"][n], theirs["extra"][n]) for n in ours["extra"])


def test_orders_are_those_of_the_command_line():
    assert set(orders.STEPS) == set(orders.PASSES) == set(SalUn.model_fields["order"].annotation.__args__)
