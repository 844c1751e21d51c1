"""safetensors written one tensor at a time: the library's bytes without its memory; files whole or absent."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import safetensors.torch
import torch

from benchmarks.measure import peak_host_bytes
from functions.errors import InputError
from functions.files import sha256_bytes, sha256_file, stream_atomic, write_atomic
from functions.storage import checkpoint
from functions.storage.artifacts import save_tensors
from functions.storage.pickles import save_tensor_dict
from functions.storage.published import save_list
from functions.storage.tensors import DTYPES, write_tensors


def every_kind():
    torch.manual_seed(0)
    found = {f"{dtype}".removeprefix("torch."): (10 * torch.rand(3, 5)).to(dtype) for dtype in DTYPES}
    return {
        **found,
        "a.second": torch.rand(2).half(),
        "scalar": torch.tensor(3.0),
        "nothing": torch.zeros(0, 4),
        "transposed": torch.rand(4, 6).T,
        "channels_last": torch.rand(2, 3, 5, 5).to(memory_format=torch.channels_last),
        "part": torch.rand(100)[7:9],
        "grüße": torch.ones(1, requires_grad=True),
    }


@pytest.mark.parametrize("metadata", [None, {"provenance": '{"a": "grüße \\" 1"}'}])
def test_the_bytes_are_the_librarys(tmp_path, metadata):
    with stream_atomic(tmp_path / "ours") as file:
        write_tensors(file, every_kind(), metadata)
    contiguous = {name: t.detach().contiguous() for name, t in every_kind().items()}
    wanted = safetensors.torch.save(contiguous, metadata)
    assert (tmp_path / "ours").read_bytes() == wanted and file.sha256 == sha256_bytes(wanted)
    found = safetensors.torch.load_file(tmp_path / "ours")
    assert all(torch.equal(found[name], t) for name, t in contiguous.items()) and len(found) == len(contiguous)


def test_a_type_that_the_format_does_not_have_is_named(tmp_path):
    with pytest.raises(InputError, match="w: torch.complex64 has no place"), stream_atomic(tmp_path / "f") as file:
        write_tensors(file, {"w": torch.zeros(2, dtype=torch.complex64)})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of resident memory from /proc")
def test_saving_a_checkpoint_holds_a_few_tensors_and_not_the_model(tmp_path):
    """96 MiB of weights that are not contiguous, 96 MiB of state; a copy of one tensor is 4 MiB."""
    shape = (64, 64, 16, 16)
    weights = {f"module.{i}": torch.ones(shape).to(memory_format=torch.channels_last) for i in range(24)}
    state = {"optimizers": [{i: torch.ones(shape) for i in range(24)}]}
    # The first save takes memory for code.
    checkpoint.save(tmp_path, 1, {"raw": {name: w[:1, :2] for name, w in weights.items()}}, {}, {}, 1)
    peak = peak_host_bytes(lambda: checkpoint.save(tmp_path, 2, {"raw": weights}, state, {}, 1))
    assert (tmp_path / "ckpts" / "step_0000002" / "state.pt").stat().st_size > 96 * 2**20
    assert peak < 24 * 2**20


# ---- whole or absent


def a_tensor_save(path):
    save_tensors(path, {"w": torch.rand(10_000)}, {})


def a_pickle(path):
    save_tensor_dict(path, {"w": torch.rand(10_000)})


def a_list(path):
    save_list(path, {"raw": {"w": torch.rand(10_000)}}, {"state": {}}, 1)


def some_bytes(path):
    write_atomic(path, torch.rand(10_000).numpy().tobytes())


@pytest.fixture
def a_small_disk():
    """No file of this process grows beyond 10 kB: as a full disk, the error comes from the write itself."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", [a_tensor_save, a_pickle, a_list, some_bytes])
def test_a_write_that_fails_halfway_leaves_the_old_file_and_says_which(tmp_path, a_small_disk, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="File too large") as error:
        write(path)
    assert error.value.filename == str(path)  # torch.save alone says: unexpected pos 1344 vs 1238
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"old"


def test_nothing_is_seen_before_the_end_and_the_hash_is_of_all(tmp_path):
    path = tmp_path / "folder" / "file"
    with stream_atomic(path) as file:
        file.write(b"first ")
        assert not path.exists() and len(list(path.parent.iterdir())) == 1
        file.write(b"second")
    assert path.read_bytes() == b"first second" and file.sha256 == sha256_file(path)
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_another_error_is_passed_on_and_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="ours"), stream_atomic(tmp_path / "file") as file:
        file.write(b"half")
        raise RuntimeError("ours")
    assert not list(tmp_path.iterdir())
