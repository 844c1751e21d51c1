"""Masks as the published classification scripts read and write them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from functions.errors import InputError
from functions.files import sha256_file
from functions.storage.artifacts import export_mask_pt, load_mask


def a_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def a_mask(model):
    torch.manual_seed(1)
    return {n: torch.rand(p.shape) < 0.5 for n, p in model.named_parameters()}


def shapes_of(model):
    return {n: tuple(p.shape) for n, p in model.named_parameters()}


def test_comes_back_and_takes_a_byte_per_weight(tmp_path):
    model = nn.Linear(300, 300)
    mask, path = a_mask(model), tmp_path / "folder" / "with_0.5.pt"
    export_mask_pt(path, mask)
    written = torch.load(path, weights_only=True)
    assert type(written) is dict and list(written) == list(mask)
    assert all(m.dtype == torch.uint8 and m.device.type == "cpu" for m in written.values())
    assert 90300 < path.stat().st_size < 93000
    found = load_mask(path, shapes_of(model), {"anything": "is not compared"})
    assert all(found[n].dtype == torch.bool and torch.equal(found[n], m) for n, m in mask.items())
    assert sorted(p.name for p in path.parent.iterdir()) == ["with_0.5.pt", "with_0.5.pt.sha256"]
    assert (path.parent / "with_0.5.pt.sha256").read_text() == f"{sha256_file(path)}  with_0.5.pt\n"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    model, path = a_model(), tmp_path / "with_0.5.pt"
    export_mask_pt(path, a_mask(model))
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("functions.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        export_mask_pt(path, {n: ~m for n, m in a_mask(model).items()})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def published_steps(model, mask, n):
    """Their masked step: SGD with momentum and weight decay, gradients times m, then theta = m theta + (1 - m) keep."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    keep = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(n):
        optimizer.zero_grad()
        model(torch.rand(8, 6)).square().sum().backward()
        for name, p in model.named_parameters():
            p.grad *= mask[name]
        optimizer.step()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(mask[name] * p + (1 - mask[name]) * keep[name])
    return keep


def test_the_published_arithmetic_works_with_it(tmp_path):
    model = a_model()
    mask = a_mask(model)
    export_mask_pt(tmp_path / "with_0.5.pt", mask)
    before = published_steps(model, torch.load(tmp_path / "with_0.5.pt", weights_only=True), 3)
    for name, p in model.named_parameters():
        assert torch.equal(p[~mask[name]], before[name][~mask[name]])
        assert (p[mask[name]] != before[name][mask[name]]).all(), name
    with pytest.raises(RuntimeError, match="bool"):
        published_steps(model, mask, 1)  # why it is not bool


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_theirs_is_read_whatever_its_type(tmp_path, dtype):
    model = a_model()
    mask = a_mask(model)
    torch.save({n: m.to(dtype) for n, m in mask.items()}, tmp_path / "with_0.5.pt")
    found = load_mask(tmp_path / "with_0.5.pt", shapes_of(model), None)
    assert all(found[n].dtype == torch.bool and torch.equal(found[n], m) for n, m in mask.items())


def test_other_names_and_shapes_are_counted_and_five_are_shown(tmp_path):
    model, path = a_model(), tmp_path / "with_0.5.pt"
    mask = {**a_mask(model), "2.bias": torch.ones(4, dtype=torch.bool)}  # 3 in the model
    for i in range(6):
        mask[f"extra.{i}"] = torch.ones(1, dtype=torch.bool)
    export_mask_pt(path, mask)
    with pytest.raises(InputError) as error:
        load_mask(path, shapes_of(model), None)
    shown = "2.bias, extra.0, extra.1, extra.2, extra.3, ..."
    wanted = f"mask {path}: made for another architecture: 7 names or shapes differ: {shown}"
    assert str(error.value) == wanted
