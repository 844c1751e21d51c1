"""Pickles of tensors are read, and nothing in them is run."""

import codecs
import io
import os
import pickle
import shutil
import tracemalloc
from collections import OrderedDict

import pytest
import torch
from torch import nn

from functions.errors import InputError
from functions.storage import pickles


class Exploit:
    """A pickle of it creates a file when a plain unpickler reads it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (shutil.copyfile, (__file__, self.path))


class Calls:
    """A pickle of it calls `function` on `arguments`."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def written(folder, content, protocol=None):
    path = folder / "fisher_dict.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def tensors():
    torch.manual_seed(0)
    return {
        "a.weight": torch.rand(4, 3),
        "a.bias": torch.rand(4).half(),
        "n": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "transposed": torch.rand(2, 5).T,
        "part": torch.rand(10)[3:5],
        "none": torch.zeros(0, 3),
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_every_protocol(tmp_path, protocol):
    published = {f"module.{name}": t for name, t in tensors().items()}
    assert same(pickles.load_tensor_dict(written(tmp_path, published, protocol)), tensors())


def test_parameters_and_ordered_dicts_arrive_as_plain_tensors(tmp_path):
    content = OrderedDict(w=nn.Parameter(torch.ones(2)), v=torch.ones(2).requires_grad_())
    found = pickles.load_tensor_dict(written(tmp_path, content))
    assert type(found) is dict
    assert all(type(t) is torch.Tensor and not t.requires_grad for t in found.values())


def test_tensors_of_a_gpu_arrive_on_the_cpu(tmp_path):
    buffer = io.BytesIO()
    torch.save(torch.arange(3.0)._typed_storage(), buffer, _use_new_zipfile_serialization=False)
    on_gpu = buffer.getvalue().replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:1")
    assert on_gpu != buffer.getvalue()
    bytes_of = Calls(torch.storage._load_from_bytes, on_gpu)
    tensor = Calls(torch._utils._rebuild_tensor_v2, bytes_of, 0, (3,), (1,), False, OrderedDict())
    found = pickles.load_tensor_dict(written(tmp_path, {"module.w": tensor}))
    assert found["w"].tolist() == [0, 1, 2] and found["w"].device.type == "cpu"


def test_round_trip_and_the_published_reader(tmp_path):
    path = tmp_path / "fisher_dict.pkl"
    pickles.save_tensor_dict(path, tensors())
    assert same(pickles.load_tensor_dict(path), tensors())
    with open(path, "rb") as file:
        assert same(pickle.load(file), tensors())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fisher_dict.pkl", "fisher_dict.pkl.sha256"]


def test_only_the_part_of_a_view_is_written(tmp_path):
    pickles.save_tensor_dict(tmp_path / "f.pkl", {"w": torch.zeros(100_000)[:2]})
    assert (tmp_path / "f.pkl").stat().st_size < 2000


def test_one_tensor_at_a_time_is_copied(tmp_path):
    many = {f"w{i}": torch.rand(250_000) for i in range(10)}  # 1 MB each, and pickled bytes are Python's
    tracemalloc.start()
    try:
        pickles.save_tensor_dict(tmp_path / "f.pkl", many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6 < (tmp_path / "f.pkl").stat().st_size


# ---- what is refused


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: {"w": e}, lambda e: {"w": torch.zeros(1), "x": [e]}])
def test_code_is_named_and_not_run(tmp_path, protocol, wrap):
    path = written(tmp_path, wrap(Exploit(tmp_path / "owned")), protocol)
    with pytest.raises(
        InputError, match=r"fisher_dict\.pkl: refused, nothing of it was run: it calls shutil\.copyfile"
    ) as e:
        pickles.load_tensor_dict(path)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "owned").exists()
    pickle.loads(path.read_bytes())  # the exploit is a real one
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_the_bytes_of_a_storage_is_not_run(tmp_path, zipped):
    buffer = io.BytesIO()
    torch.save(Exploit(tmp_path / "owned"), buffer, _use_new_zipfile_serialization=zipped)
    path = written(tmp_path, {"w": Calls(torch.storage._load_from_bytes, buffer.getvalue())})
    with pytest.raises(InputError, match=r"refused, nothing of it was run: it calls shutil\.copyfile,"):
        pickles.load_tensor_dict(path)
    assert not (tmp_path / "owned").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content, named",
    [
        (Calls(os.system, "touch owned"), r"posix\.system"),
        (Calls(eval, "open('owned', 'w')"), r"builtins\.eval"),
        (Calls(torch.load, "owned"), r"torch\.serialization\.load"),
        (Calls(getattr, "text", "upper"), r"builtins\.getattr"),
        (Calls(OrderedDict, state={"keys": 1}), "BUILD"),
        (torch._utils._rebuild_tensor_v3, r"torch\._utils\._rebuild_tensor_v3"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_other_globals_are_named(tmp_path, content, named):
    with pytest.raises(InputError, match=f"it calls {named},"):
        pickles.load_tensor_dict(written(tmp_path, {"w": content}))
    assert not (tmp_path / "owned").exists()


def test_only_storages_are_taken_out_of_bytes(tmp_path):
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    path = written(tmp_path, {"w": Calls(torch.storage._load_from_bytes, buffer.getvalue())})
    with pytest.raises(InputError, match="wanted the storage of a tensor, got a list"):
        pickles.load_tensor_dict(path)


def test_bytes_as_text_are_latin1_only(tmp_path):
    path = written(tmp_path, {"w": Calls(codecs.encode, "aa", "rot13")})
    with pytest.raises(InputError, match=r"damaged or not a pickle of tensors \(bytes encoded as rot13\)"):
        pickles.load_tensor_dict(path)


@pytest.mark.parametrize(
    "content, message",
    [
        ([torch.zeros(1)], "wanted a dict of tensors by name, got a list"),
        ({}, "holds no tensors"),
        ({"w": 1.0}, "w: wanted a tensor by name, got a float"),
        ({"w": {"v": torch.zeros(1)}}, "w: wanted a tensor by name, got a dict"),
        ({3: torch.zeros(1)}, "3: wanted a tensor by name"),
    ],
)
def test_other_contents_are_named(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        pickles.load_tensor_dict(written(tmp_path, content))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_refused(tmp_path, protocol, share):
    path = written(tmp_path, tensors(), protocol)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"fisher_dict\.pkl: damaged") as error:
        pickles.load_tensor_dict(path)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_an_altered_file_is_an_input_error_or_read(tmp_path):
    path = written(tmp_path, {"w": torch.rand(3)}, 2)
    data, generator = path.read_bytes(), torch.Generator().manual_seed(0)
    for _ in range(300):
        altered = bytearray(data)
        altered[int(torch.randint(len(data), (), generator=generator))] ^= int(
            torch.randint(1, 256, (), generator=generator)
        )
        path.write_bytes(altered)
        try:
            pickles.load_tensor_dict(path)
        except InputError as error:
            assert "\n" not in str(error)


def test_no_such_file():
    with pytest.raises(InputError, match="nowhere: no such file"):
        pickles.load_tensor_dict("nowhere")
