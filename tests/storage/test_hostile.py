"""Hostile files: none runs, none takes more than a gigabyte or ten seconds, each ends as one line and no exit code 0."""

import argparse
import json
import pickle
import re
from pathlib import Path

import cases
import dits
import hostile
import numpy as np
import pytest
import torch
from pictures import noise, save_images
from processes import Process

from functions.arrays import read_npy, read_npz
from functions.errors import InputError
from functions.storage import pickles
from functions.storage.inspection import Forgotten

# name -> (how it is made, what is said of it). Read as the mask of a run, which any of them could be.
MASKS = {
    "code": (lambda p, c: hostile.torch_file(p, {"w": hostile.code(c)}), "it calls _?io.open, and data needs no such"),
    "old code": (lambda p, c: hostile.torch_file(p, {"w": hostile.code(c)}, False), "it calls _?io.open, and"),
    "blocked": (lambda p, c: hostile.in_torch(p, b"\x80\x02cposix\nsystem\n."), "it calls posix.system, and"),
    "plain pickle": (lambda p, c: hostile.raw(p, pickle.dumps(hostile.code(c))), "it calls _?io.open, and"),
    "tar": (hostile.tar, "refused: a .tar file of torch"),
    "deflated": (lambda p, c: hostile.deflated(p), r"refused: .*data/0 is deflated, 1,\d+,\d+ bytes of 1,572,864,000"),
    "expanded": (lambda p, c: hostile.expanded(p), r"w: a tensor of shape \(100000000000,\) in a storage of 1 numbers"),
    "old expanded": (lambda p, c: hostile.expanded(p, False), r"w: a tensor of shape .* in a storage of 1 numbers"),
    "larger": (lambda p, c: hostile.larger_than_stored(p), r"w: a tensor of shape \(10000000000,\) in a storage of 4"),
    "views": (lambda p, c: hostile.many_views(p), "its tensors take 3,145,728,000 bytes, more than twice the file's"),
    "sparse": (lambda p, c: hostile.sparse(p), r"holds a sparse tensor \(torch._utils._rebuild_sparse_tensor\)"),
    "meta": (lambda p, c: hostile.torch_file(p, {"w": torch.empty(10**11, device="meta")}), "holds a meta tensor"),
    "bytearray": (lambda p, c: hostile.in_torch(p, hostile.BYTEARRAY), r"it calls (__builtin__|builtins)\.bytearray"),
    "old bytearray": (lambda p, c: hostile.old(p, hostile.BYTEARRAY), r"it calls (__builtin__|builtins)\.bytearray"),
    "memo": (lambda p, c: hostile.in_torch(p, hostile.MEMO), "keeps object 3 in place 2,147,483,648 of its memo"),
    "long": (lambda p, c: hostile.in_torch(p, hostile.LONG), "an integer of 7,999,993 bits"),
    "opcodes": (lambda p, c: hostile.in_torch(p, hostile.OPCODES), "more than 1,000,000 instructions"),
    "settings": (lambda p, c: hostile.torch_file(p, argparse.Namespace(w=hostile.code(c))), "it calls _?io.open, and"),
    "shadowed": (lambda p, c: hostile.shadowed(p), "an OrderedDict with attributes"),
}
PICKLES = {
    "pkl code": (lambda p, c: hostile.raw(p, pickle.dumps({"w": hostile.code(c)})), "it calls _?io.open, and"),
    "pkl bytes": (lambda p, c: hostile.repeated_bytes(p), "its calls take more room than the file"),
    "pkl storages": (lambda p, c: hostile.repeated_storages(p), "its calls take more room than the file"),
    "pkl memo": (lambda p, c: hostile.raw(p, hostile.MEMO), "in place 2,147,483,648 of its memo"),
    "pkl code inside": (
        lambda p, c: hostile.raw(p, pickle.dumps({"w": hostile.Calls(torch.storage._load_from_bytes, inner(c))})),
        "it calls _?io.open, and",
    ),
}


def inner(canary: Path) -> bytes:
    return hostile.torch_file(Path("inner"), hostile.code(canary), zipped=False).read_bytes()


@pytest.mark.parametrize("name", MASKS)
def test_files_of_torch_save(tmp_path, name):
    make, message = MASKS[name]
    path, canary = tmp_path / "mask.pt", tmp_path / "owned"
    make(path, canary)
    with pytest.raises(InputError, match=rf"^mask\.pt: .*{message}") as error:
        pickles.load_torch(path, "mask.pt")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300 and not canary.exists()


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_of_tensors(tmp_path, name):
    make, message = PICKLES[name]
    path, canary = tmp_path / "fisher.pkl", tmp_path / "owned"
    make(path, canary)
    with pytest.raises(InputError, match=rf"fisher\.pkl: .*{message}") as error:
        pickles.load_tensor_dict(path)
    assert "\n" not in str(error.value) and not canary.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_what_people_save_is_read(tmp_path, zipped):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    parts = {"view": torch.rand(10)[3:5], "turned": torch.rand(2, 3).T, "none": torch.zeros(0, 3), "n": torch.tensor(7)}
    content = [
        model.state_dict(),
        optimizer.state_dict(),
        3,
        parts,
        {"flag": True, "rate": 0.5, "name": "x", "no": None},
    ]
    found = pickles.load_torch(hostile.torch_file(tmp_path / "ckpt.pth", content, zipped), "ckpt.pth")
    assert [cases.same(found[i], content[i]) for i in (0, 3)] == [True, True]
    assert found[1]["param_groups"] == content[1]["param_groups"] and found[2:5:2] == content[2:5:2]
    shared = torch.rand(5)
    pickles.load_torch(hostile.torch_file(tmp_path / "tied.pth", {"a": shared, "b": shared}, zipped), "tied.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_settings_beside_weights_are_left_out(tmp_path, zipped, mapped):
    """What published training code saves; nothing of its argparse.Namespace is kept."""
    settings = argparse.Namespace(lr=1e-4, classes=[207], path=None, own={"w": torch.zeros(2)})
    content = {"model": {"w": torch.arange(3.0)}, "args": settings}
    found = pickles.load_torch(hostile.torch_file(tmp_path / "c.pt", content, zipped), "c.pt", mapped)
    assert cases.same(found["model"], content["model"])
    assert (
        type(found["args"]) is Forgotten and not hasattr(found["args"], "__dict__") and not hasattr(found["args"], "lr")
    )


# ---- arrays


def test_arrays_are_read_as_they_were_saved(tmp_path):
    indices, images = np.arange(12).reshape(3, 4), noise(4, colour=True)
    np.save(tmp_path / "i.npy", np.asfortranarray(indices))
    assert (read_npy(tmp_path / "i.npy") == indices).all()
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "s.npz", arr_0=images, arr_1=np.arange(4), other=np.zeros(3))
        found = read_npz(tmp_path / "s.npz", ("arr_0", "arr_1", "arr_2"))
        assert list(found) == ["arr_0", "arr_1"] and (found["arr_0"] == images).all()
    np.savez_compressed(tmp_path / "black.npz", arr_0=np.zeros((1000, 32, 32, 3), np.uint8))
    assert read_npz(tmp_path / "black.npz", ("arr_0",))["arr_0"].sum() == 0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p, c: hostile.npz(p), r"arr_0: cut short or damaged: its header says uint8 of shape \(100000000000, 8"),
        (lambda p, c: hostile.npz_deflated(p), "refused: arr_0 is .* bytes that unpack to 1,572,864,"),
        (hostile.npz_pickled, "arr_0: refused: holds objects of Python"),
        (lambda p, c: hostile.raw(p, b"PK\x03\x04 nothing"), "damaged, or not a file of numpy"),
    ],
)
def test_arrays_that_are_not_what_they_say(tmp_path, make, message):
    make(tmp_path / "s.npz", tmp_path / "owned")
    with pytest.raises(InputError, match=rf"s\.npz: {message}") as error:
        read_npz(tmp_path / "s.npz", ("arr_0",))
    assert "\n" not in str(error.value) and not (tmp_path / "owned").exists()


# ---- every script that reads files


def commands(toys: dict, judge: Path, canary: Path) -> dict[str, tuple[str, list[str]]]:
    """Name -> (script, words): each reads a hostile file in its own place."""
    run, own = str(toys["classifier"].run), Path("files").resolve()
    own.mkdir()
    unlearn = ["--mode", "finetune", "--config", "digits_classifier.yml", *cases.from_run(run, 0)]
    samples = save_images(own / "samples" / "0", noise(4)).parent
    found = {}
    for name, (make, _) in MASKS.items():
        make(own / f"{name}.pt", canary)
        found[f"mask {name}"] = ("train", [*unlearn, "--mask_path", str(own / f"{name}.pt")])
    for name, (make, _) in PICKLES.items():
        make(own / f"{name}.pkl", canary)
        words = ["--mode", "sa", "--config", "digits_classifier.yml", *cases.from_run(run, 0)]
        found[name] = ("train", [*words, "--set", f"sa.fisher_path={own / name}.pkl"])
    dit = ["--config", *cases.DIT, "--set", dits.MODEL]
    for name in ("code", "deflated", "expanded", "tar", "memo", "views", "settings"):
        words = [str(own / f"{name}.pt"), "--config", "digits_pretrain.yml", "--out", str(own / "imported")]
        found[f"import {name}"] = ("convert", words)
        found[f"import {name} as a DiT"] = ("convert", [words[0], *dit, *words[3:]])
        start = ["--mode", "finetune", *dit, "--ckpt", words[0], "--label_to_forget", "0"]
        found[f"start from {name}"] = ("train", start)
    wide = {"w": {"dtype": "F32", "shape": [10**11], "data_offsets": [0, 4 * 10**11]}}
    both = {n: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for n in "ab"}
    for name, header in (
        ("wide", (wide, None)),
        ("long", ("{}", 2**40)),
        ("overlap", (both, None)),
        ("text", ("[", None)),
    ):
        mask = hostile.safetensors(own / f"{name}.safetensors", *header)
        found[f"mask {name}.safetensors"] = ("train", [*unlearn, "--mask_path", str(mask)])
        found[f"import {name}.safetensors"] = ("convert", [str(mask), *dit, "--out", str(own / "imported")])
        folder = own / name
        folder.mkdir()
        for side in ("forget", "remain"):
            hostile.safetensors(folder / f"{side}_fisher.safetensors", *header)
        found[f"fishers {name}"] = ("generate_fisher_mask", ["--ckpt_folder", str(folder), "--threshold", "1"])
    for name, sizes in {"wide": {"attention_head_dim": 16000}, "far": {"sample_size": 8192, "patch_size": 1}}.items():
        theirs = hostile.diffusers(own / f"{name}_dit", dits.weights(), **sizes)
        found[f"import {name} of diffusers"] = ("convert", [str(theirs), *dit, "--out", str(own / "imported")])
    indices = hostile.npy(own / "indices.npy")
    found["indices"] = ("train", [*unlearn[:6], "--forget_idx", str(indices)])
    judged = ["--features", f"classifier:{judge}", "--out", str(own / "metrics.json")]
    for name, make in {"npz": hostile.npz, "deflated npz": hostile.npz_deflated, "image": hostile.image}.items():
        path = make(own / name / ("0/0.png" if name == "image" else "s.npz")) if not (own / name).mkdir() else None
        source = str(path.parent.parent if name == "image" else path)
        found[f"samples {name}"] = ("evaluator", [source, str(samples), *judged])
        found[f"reference {name}"] = ("evaluator", [str(samples), source, *judged])
        words = ["--dataset", "digits", "--label_of_forgotten_class", "0", "--classifier", str(judge)]
        found[f"judged {name}"] = ("classifier_evaluation", ["--sample_path", source, *words])
    pictures = hostile.image(own / "folder" / "train" / "a" / "0.png").parent.parent.parent
    hostile.image(pictures / "train" / "b" / "0.png")
    words = ["--mode", "pretrain", "--config", "digits_classifier.yml", "--set", "data.dataset=folder"]
    found["folder"] = ("train", [*words, "--data_path", str(pictures), "--save_dir", str(own / "trained")])
    aliases = hostile.raw(own / "aliases.yml", hostile.aliases())
    for script in ("train", "sample", "fim"):
        mode = {"train": ["--mode", "pretrain"], "sample": ["--mode", "sample_fid"], "fim": []}[script]
        found[f"aliases {script}"] = (script, [*mode, "--config", str(aliases)])
    found["overlay"] = ("train", [*unlearn, "--overlay", str(aliases)])
    draw = ["--mode", "sample_fid", "--config", "digits_sample.yml", "--ckpt_folder", str(toys["ddpm"].run)]
    found["too many"] = ("sample", [*draw, "--n_samples_per_class", "100000000000"])
    found["a million"] = ("sample", [*draw, "--n_samples_per_class", "1000000"])
    found["batch"] = ("train", [*unlearn, "--batch_size", "1000000000"])
    found["timesteps"] = ("sample", [*draw, "--timesteps", "100000000000"])
    return found


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    from pictures import make_judge

    return make_judge(tmp_path_factory.mktemp("judge"))


def test_every_script_refuses_them_in_one_line_ten_seconds_and_a_gigabyte(originals, judge, tmp_path):
    canary = tmp_path / "owned"
    asked = commands(originals, judge, canary)
    Process(hostile.attacked, (asked, str(tmp_path / "found.json")), tmp_path, "attacked", {}).wait()
    found = json.loads((tmp_path / "found.json").read_text())
    said = {name: of["said"] for name, of in found.items()}
    assert list(found) == list(asked)
    assert not canary.exists()
    assert {n: of["code"] for n, of in found.items() if of["code"] != 2} == {}
    assert {n: of["seconds"] for n, of in found.items() if of["seconds"] > hostile.SECONDS} == {}
    # what went before, which picture folders lack a test part, is no complaint
    line = re.compile(r"(train|sample|fim|convert|evaluator|classifier_evaluation|generate_fisher_mask): .{10,600}")
    assert {n: text for n, text in said.items() if not line.fullmatch(text.splitlines()[-1]) or "Trace" in text} == {}
    for name, (_, message) in MASKS.items():
        assert re.search(message, said[f"mask {name}"]), said[f"mask {name}"]
