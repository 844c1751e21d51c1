"""Masks: the ratio rule, their files, the provenance that guards them, and generate_fisher_mask.py."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file as save_safetensors

import generate_fisher_mask
from functions.curvature.saliency import kept_share, ratio_mask, top_share_mask, top_share_masks
from functions.errors import InputError
from functions.storage.artifacts import (
    export_mask_pt,
    load_mask,
    load_tensors,
    pack_bits,
    read_provenance,
    save_mask,
    save_tensors,
    unpack_bits,
)

MADE = {
    "checkpoint": "abc",
    "forget": {"dataset": "digits", "label": 3},
    "estimator": "per_example",
    "guidance": 0.0,
    "draws": 8,
    "clip": None,
    "weights": "ema",
    "version": "0",
    "zero_ratio_salient": False,
    "cost": {"seconds": 1.0, "forward": 80, "backward": 80},
}
NAMES = ("down.0.block.0.conv1.weight", "down.0.block.0.conv1.bias", "conv_in.weight")


def a_mask():
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 5), (3,), (17,))
    return {n: torch.rand(s, generator=generator) < 0.5 for n, s in zip(NAMES, shapes)}


def shapes_of(tensors):
    return {n: tuple(t.shape) for n, t in tensors.items()}


def save_fishers(folder, **differences):
    """Ratios 2, 1/2, and 0/0, F_f > 0 = F_r, F_f = 0 < F_r. `differences` go into the remain Fisher's provenance."""
    f = {"conv.a.weight": torch.tensor([[4.0, 1.0], [0.0, 1e-30]]), "norm.b.bias": torch.tensor([0.0])}
    r = {"conv.a.weight": torch.tensor([[2.0, 2.0], [0.0, 0.0]]), "norm.b.bias": torch.tensor([1.0])}
    save_tensors(folder / "forget_fisher.safetensors", f, {**MADE, "set": "forget"})
    save_tensors(folder / "remain_fisher.safetensors", r, {**MADE, "set": "remain", **differences})
    return f, r


# ---- the rule


@pytest.mark.parametrize(
    ("gamma", "published", "expected"),
    [
        # ratios: 2, 1/2, 0/0, inf
        (1.0, False, [True, False, False, True]),
        (0.5, False, [True, True, False, True]),  # equality keeps
        (2.0, False, [True, False, False, True]),
        (2.1, False, [False, False, False, True]),
        (0.0, False, [True, True, False, True]),
        (1.0, True, [True, False, True, True]),  # 0/0 counts as 1
        (1.1, True, [True, False, False, True]),
    ],
)
def test_ratio_mask(gamma, published, expected):
    f = {"w": torch.tensor([4.0, 1.0, 0.0, 1e-30])}
    r = {"w": torch.tensor([2.0, 2.0, 0.0, 0.0])}
    mask = ratio_mask(f, r, gamma, zero_ratio_salient=published)["w"]
    assert mask.dtype == torch.bool and mask.tolist() == expected


def test_kept_share_counts_weights_and_groups_by_the_first_two_names():
    mask = {n: torch.zeros(m.shape, dtype=torch.bool) for n, m in a_mask().items()}
    mask["down.0.block.0.conv1.bias"][:] = True
    share, groups = kept_share(mask)
    assert share == 3 / 35
    assert groups == {"down.0": (3, 18), "conv_in.weight": (0, 17)}


@pytest.mark.parametrize("shape", [(), (1,), (8,), (9,), (3, 5, 7), (0,)])
def test_packed_bits_are_numpys_and_come_back(shape):
    m = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = pack_bits(m)
    assert packed.tolist() == np.packbits(m.numpy().reshape(-1)).tolist()
    assert torch.equal(unpack_bits(packed, m.shape), m)


def by_rank(score, share):
    """What the published code means: sort all scores, ties by place, keep the first int(N q)."""
    flat = torch.cat([s.flatten() for s in score.values()])
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[flat.argsort(descending=True, stable=True)[: int(len(flat) * share)]] = True
    return kept


def joined(mask):
    return torch.cat([m.flatten() for m in mask.values()])


SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.mark.parametrize("levels", [2, 7, 1000, 0])  # 0: hardly any ties
@pytest.mark.parametrize("chunk", [5, 1 << 22])
def test_masks_of_several_shares_come_from_one_ranking(monkeypatch, levels, chunk):
    monkeypatch.setattr("functions.curvature.saliency.CHUNK", chunk)
    generator = torch.Generator().manual_seed(levels)
    score = {n: torch.rand(s, generator=generator) for n, s in (("a", (7, 11)), ("b", ()), ("c", (0,)), ("d", (53,)))}
    if levels:
        score = {n: (s * levels).floor() / levels for n, s in score.items()}
    masks = top_share_masks(score, SHARES)
    assert list(masks) == SHARES
    smaller = torch.zeros(131, dtype=torch.bool)
    for share, mask in masks.items():
        assert {n: m.shape for n, m in mask.items()} == {n: s.shape for n, s in score.items()}
        assert torch.equal(joined(mask), by_rank(score, share)), share
        assert torch.equal(joined(mask), joined(top_share_mask(score, share)))
        assert not (smaller & ~joined(mask)).any()  # nested
        smaller = joined(mask)


# int(10 * 0.7) = 7, but int(100 * 0.29) = 28 and int(3 * (0.1 + 0.2)) = 0: rounding as published
@pytest.mark.parametrize("n", [1, 3, 10, 33, 100, 997])
def test_the_number_kept_is_the_published_expression(n):
    shares = [*SHARES, 0.29, 0.57, 0.1 + 0.2, 0.0]
    for share, mask in top_share_masks({"w": torch.rand(n)}, shares).items():
        assert int(mask["w"].sum()) == int(n * share)
    assert not torch.stack(list(top_share_mask({"w": torch.zeros(n)}, 0.0).values())).any()
    assert int(top_share_mask({"w": torch.zeros(100)}, 0.29)["w"].sum()) == 28


# ---- files


def test_a_mask_comes_back_and_takes_an_eighth_of_a_byte_per_weight(tmp_path):
    mask, path = a_mask(), tmp_path / "fisher_1.0.safetensors"
    save_mask(path, mask, MADE)
    found = load_mask(path, shapes_of(mask), MADE)
    assert found.keys() == mask.keys() and all(torch.equal(found[n], mask[n]) for n in mask)
    assert {n: t.numel() for n, t in load_file(path).items()} == dict(zip(NAMES, (2, 1, 3)))
    assert load_tensors(path)[1].items() >= MADE.items()


def test_fishers_come_back_with_their_provenance(tmp_path):
    fisher_f, _ = save_fishers(tmp_path)
    found, made = load_tensors(tmp_path / "forget_fisher.safetensors")
    assert made == {**MADE, "set": "forget"} and all(torch.equal(found[n], f) for n, f in fisher_f.items())


def refused(path, shapes, wanted):
    """The one line that refuses the mask."""
    with pytest.raises(InputError) as error:
        load_mask(path, shapes, wanted)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("difference", "line"),
    [
        (
            {"forget": {"dataset": "digits", "label": 0}},
            "mask {}: made for class 3, this run forgets class 0 (--label_to_forget)",
        ),
        (
            {"forget": {"dataset": "shapes", "label": 3}},
            "mask {}: made for digits, this run uses shapes (data.dataset)",
        ),
        (
            {"checkpoint": "xyz"},
            "mask {}: made from another checkpoint (abc, this run starts from xyz; --ckpt_folder, init_weights)",
        ),
    ],
)
def test_a_mask_made_for_something_else_is_refused(tmp_path, difference, line):
    path = tmp_path / "fisher_1.0.safetensors"
    save_mask(path, a_mask(), MADE)
    assert refused(path, shapes_of(a_mask()), {**MADE, **difference}) == line.format(path)


def forget_set(**fields):
    return {**MADE, "forget": {"dataset": "digits", **fields}}


A, B = "a" * 64, "b" * 64  # hashes of indices
CLASS_3, OLD_3 = forget_set(label=3, name="3", indices=A), forget_set(label=3)
RANDOM = forget_set(label=None, name="random4500_s2", indices=A)
SETS = "(--num_indexes_to_replace, --forget_idx, --seed)"


@pytest.mark.parametrize(
    ("made", "asked", "line"),
    [
        (
            CLASS_3,
            forget_set(label=0, name="0", indices=B),
            "made for class 3, this run forgets class 0 (--label_to_forget)",
        ),
        (
            OLD_3,
            forget_set(label=0, name="0", indices=B),
            "made for class 3, this run forgets class 0 (--label_to_forget)",
        ),
        (
            CLASS_3,
            forget_set(label=3, name="3", indices=B),
            f"made for forget set 3 ({A[:12]}), this run forgets 3 ({B[:12]}) {SETS}",
        ),
        (
            RANDOM,
            forget_set(label=None, name="random4500_s3", indices=B),
            f"made for forget set random4500_s2 ({A[:12]}), this run forgets random4500_s3 ({B[:12]}) {SETS}",
        ),
        (
            RANDOM,
            forget_set(label=None, name="random4500_s2", indices=B),
            f"made for forget set random4500_s2 ({A[:12]}), this run forgets random4500_s2 ({B[:12]}) {SETS}",
        ),
        (RANDOM, CLASS_3, f"made for forget set random4500_s2 ({A[:12]}), this run forgets 3 ({A[:12]}) {SETS}"),
        (OLD_3, RANDOM, f"made for forget set 3, this run forgets random4500_s2 ({A[:12]}) {SETS}"),
        (
            CLASS_3,
            forget_set(label=None, name="random100_c3_s2", indices=B),
            f"made for forget set 3 ({A[:12]}), this run forgets random100_c3_s2 ({B[:12]}) {SETS}",
        ),
        (
            {**RANDOM, "forget": {**RANDOM["forget"], "dataset": "shapes"}},
            CLASS_3,
            "made for shapes, this run uses digits (data.dataset)",
        ),
    ],
)
def test_a_mask_of_another_forget_set_is_refused(tmp_path, made, asked, line):
    path = tmp_path / "with_0.5.safetensors"
    save_mask(path, a_mask(), made)
    assert refused(path, shapes_of(a_mask()), asked) == f"mask {path}: {line}"


@pytest.mark.parametrize(("made", "asked"), [(RANDOM, RANDOM), (OLD_3, CLASS_3), (CLASS_3, OLD_3), (OLD_3, OLD_3)])
def test_what_an_older_file_does_not_say_is_not_compared(tmp_path, made, asked):
    path = tmp_path / "with_0.5.safetensors"
    save_mask(path, a_mask(), made)
    assert joined(load_mask(path, shapes_of(a_mask()), asked)).equal(joined(a_mask()))


def test_the_provenance_alone(tmp_path):
    save_mask(tmp_path / "ours.safetensors", a_mask(), MADE)
    export_mask_pt(tmp_path / "theirs.pt", a_mask())
    made = read_provenance(tmp_path / "ours.safetensors")
    assert made.pop("shapes") == {n: list(s) for n, s in shapes_of(a_mask()).items()} and made == MADE
    assert read_provenance(tmp_path / "theirs.pt") == {}
    with pytest.raises(InputError, match="no such file"):
        read_provenance(tmp_path / "none.safetensors")


def test_a_mask_for_another_architecture_is_refused(tmp_path):
    path, mask = tmp_path / "fisher_1.0.safetensors", a_mask()
    save_mask(path, mask, MADE)
    wanted = {**shapes_of(mask), NAMES[0]: (5, 3), **{f"extra.{i}": (1,) for i in range(6)}}
    line = refused(path, wanted, MADE)
    assert f"7 names or shapes differ: {NAMES[0]}, extra.0, extra.1, extra.2, extra.3, ..." in line


def test_a_file_that_is_no_mask_is_refused(tmp_path):
    shapes = shapes_of(a_mask())
    assert "no such file" in refused(tmp_path / "none.safetensors", shapes, MADE)
    assert "no such file" in refused(tmp_path / "none.pt", shapes, MADE)
    save_mask(tmp_path / "whole.safetensors", a_mask(), MADE)
    torch.save(a_mask(), tmp_path / "whole.pt")
    for whole in ("whole.safetensors", "whole.pt"):
        data = (tmp_path / whole).read_bytes()
        for name, part in (("half", data[: len(data) // 2]), ("empty", b""), ("text", b"this is no mask at all")):
            path = tmp_path / f"{name}.{whole.split('.')[1]}"
            path.write_bytes(part)
            assert "damaged" in refused(path, shapes, MADE)
    save_safetensors({"w": torch.ones(3)}, tmp_path / "plain.safetensors")
    assert "no provenance" in refused(tmp_path / "plain.safetensors", shapes, MADE)
    save_fishers(tmp_path)
    assert "is no mask" in refused(tmp_path / "forget_fisher.safetensors", shapes, MADE)
    for content in (["a", "list"], {"w": "text"}, {"w": torch.rand(3)}, {3: torch.ones(3)}):
        torch.save(content, tmp_path / "content.pt")
        assert "wanted a" in refused(tmp_path / "content.pt", shapes, MADE)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_a_foreign_mask_is_read_with_a_warning(tmp_path, capsys, dtype):
    mask, path = a_mask(), tmp_path / "with_0.5.pt"
    mask[NAMES[2]][:] = False
    torch.save({f"module.{n}": 0 if n == NAMES[2] else m.to(dtype) for n, m in mask.items()}, path)
    found = load_mask(path, shapes_of(mask), MADE)
    assert all(found[n].dtype == torch.bool and torch.equal(found[n], m) for n, m in mask.items())
    assert "provenance: none" in capsys.readouterr().err
    short = {n: s for n, s in shapes_of(mask).items() if n != NAMES[0]}
    assert f"1 names or shapes differ: {NAMES[0]}" in refused(path, short, MADE)


# ---- the script


def test_the_script_writes_one_mask_per_threshold_and_prints_shares(tmp_path, capsys):
    save_fishers(tmp_path)
    paths = generate_fisher_mask.main(["--ckpt_folder", str(tmp_path), "--threshold", "1.0", "0.5", "3"])
    assert [p.name for p in paths] == ["fisher_1.0.safetensors", "fisher_0.5.safetensors", "fisher_3.0.safetensors"]
    kept = [sum(int(m.sum()) for m in load_mask(p, None, MADE).values()) for p in paths]
    assert kept == [2, 3, 1]
    out = re.sub(r" +", " ", capsys.readouterr().out)
    assert "gamma 1.0: 40.00% of the weights" in out and "conv.a 50.00% of 4" in out and "norm.b 0.00% of 1" in out
    made = load_tensors(paths[1])[1]
    assert made["threshold"] == 0.5 and made["kept_share"] == 0.6 and made["forget"] == MADE["forget"]
    arguments = ["--ckpt_folder", str(tmp_path), "--threshold", "1", "--zero_ratio_salient"]
    (published,) = generate_fisher_mask.main(arguments)
    assert sum(int(m.sum()) for m in load_mask(published, None, None).values()) == 3
    assert load_tensors(published)[1]["zero_ratio_salient"] is True


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ({"checkpoint": "xyz"}, "differ in checkpoint: abc and xyz"),
        ({"estimator": "batch"}, "differ in estimator: per_example and batch"),
        ({"forget": {"dataset": "digits", "label": 4}}, "differ in forget"),
        ({"set": "forget"}, "remain_fisher.safetensors: holds the Fisher of the forget set, not of the remain set"),
    ],
)
def test_the_script_refuses_fishers_that_do_not_belong_together(tmp_path, differences, words):
    save_fishers(tmp_path, **differences)
    with pytest.raises(InputError, match=words):
        generate_fisher_mask.main(["--ckpt_folder", str(tmp_path), "--threshold", "1"])
    assert not list(tmp_path.glob("fisher_*"))


def test_the_script_refuses_bad_input(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        generate_fisher_mask.main(["--ckpt_folder", str(tmp_path / "none"), "--threshold", "1"])
    with pytest.raises(InputError, match=r"forget_fisher\.safetensors: no such file"):
        generate_fisher_mask.main(["--ckpt_folder", str(tmp_path), "--threshold", "1"])
    save_fishers(tmp_path)
    for gamma in ("-1", "nan"):
        with pytest.raises(InputError, match="--threshold"):
            generate_fisher_mask.main(["--ckpt_folder", str(tmp_path), "--threshold", gamma])
    broken = {**save_fishers(tmp_path)[1], "norm.b.bias": torch.tensor([torch.nan])}
    save_tensors(tmp_path / "remain_fisher.safetensors", broken, {**MADE, "set": "remain"})
    with pytest.raises(InputError, match=r"remain_fisher.*NaN or infinite values in 1 tensors: norm.b.bias"):
        generate_fisher_mask.main(["--ckpt_folder", str(tmp_path), "--threshold", "1"])
    save_tensors(tmp_path / "remain_fisher.safetensors", {"conv.a.weight": torch.ones(3)}, {**MADE, "set": "remain"})
    with pytest.raises(InputError, match="2 names or shapes differ"):
        generate_fisher_mask.main(["--ckpt_folder", str(tmp_path), "--threshold", "1"])
