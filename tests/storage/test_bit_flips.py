"""One flipped bit in any file that the toolkit writes: refused by name, or what was there computed anew. Never a number."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cases
import dits
import numpy as np
import pytest
import torch
from PIL import Image

import convert
import datasets
import models
import train_vae
from datasets import shards
from datasets.split import load_indices, save_indices
from functions.errors import InputError
from functions.files import note, read_json, write_atomic, write_json
from functions.judging.classifier import load_classifier, save_classifier
from functions.judging.contract import REFERENCE, reference_rule
from functions.judging.features import Features, Network, cache_path, of_both
from functions.judging.logits import fingerprint, logits_of, read_run
from functions.judging.metrics_file import read_section, replace_section
from functions.sampling import npz
from functions.sampling.contract import GENERATION, check_complete, read_generation
from functions.sampling.folders import find_samples
from functions.storage import dit_files
from functions.storage.artifacts import export_mask_pt, load_fishers, load_mask, load_tensors
from functions.storage.checkpoint import Snapshot
from functions.storage.contract import contract
from functions.storage.pickles import load_tensor_dict
from functions.storage.published import load_list
from functions.storage.run import read_origin
from models.encoders import facts_of

POSITIONS = 24


class Kind(NamedTuple):
    """A file in a folder, and what its readers take from the folder; `again`: damage is no error, only work."""

    file: Callable[[Path], Path]
    read: Callable[[Path], object]
    again: bool = False


# ---- a folder with everything in it


@pytest.fixture(scope="module")
def everything(originals, tmp_path_factory):
    """Toy runs of both worlds with all that scripts put beside them."""
    folder = tmp_path_factory.mktemp("everything")
    ddpm, classifier = originals["ddpm"], originals["classifier"]
    for source in (ddpm.mask, ddpm.replay_fisher):  # made now, in the run
        assert source.exists()
    shutil.copytree(ddpm.run, folder / "ddpm")
    shutil.copytree(ddpm.saliency.parent, folder / "saliency")
    shutil.copytree(classifier.run, folder / "classifier")
    npz.write(folder / "ddpm" / "class_samples")
    mask = load_mask(folder / "ddpm" / "mask_0" / "fisher_1.0.safetensors", None, None)
    export_mask_pt(folder / "mask.pt", mask)
    convert.main([str(folder / "ddpm"), "--export", "ddim", "--out", str(folder / "theirs.pth")])
    dit = dits.make_run(folder / "dit")
    convert.main([str(dit), "--export", "dit", "--weights", "both", "--out", str(folder / "dit.pt")])
    convert.main([str(dit), "--export", "diffusers", "--out", str(folder / "dit_folder")])
    model = models.build(cases.meta()["model"])
    record = {"dataset": "digits", "arch": "cnn", "model": cases.meta()["model"], "classes": ["0"], "shape": [1, 8, 8]}
    record |= {"preprocessing": "", "test_accuracy": 0.5, "n_test": 10}
    save_classifier(folder / "judge.pth", model, record)
    replace_section(folder / "metrics.json", "evaluator", {"fid": 38.0, "contract": {}})
    save_indices(folder / "forget.json", torch.arange(0, 90, 3), {"dataset": "digits", "split": "train", "n": 90})
    made = {"dataset": "digits", "n": 4, "shape": [1, 8, 8], "fit": "middle", "moments": [4, 4, 4]}
    made |= {"format": 1, "vae": "a" * 64, "content": "b" * 64}
    moments = np.random.default_rng(0).standard_normal((4, 2, 4, 4, 4)).astype(np.float16)
    shards.claimed(folder / "latents", made).write(range(4), moments)
    tiny = ["--width", "2", "--halvings", "1", "--steps", "1"]
    train_vae.main(["--dataset", "digits", *tiny, "--out", str(folder / "vae")])
    (folder / "reference").mkdir()
    for k in range(4):
        pixels = np.random.default_rng(k).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "reference" / f"{k}.png")
    write_json(folder / "reference" / REFERENCE, contract({"dataset": "digits"}, {"label": 0, "n": 4}))
    shutil.copytree(folder / "reference", folder / "samples")
    return folder


def snapshot(folder: Path) -> Path:
    return folder / "ddpm" / "ckpts" / "step_0000004"


def opened(folder: Path) -> dict:
    """All that a snapshot holds."""
    found = Snapshot.open(folder / "ddpm")
    return {
        "meta": found.meta,
        "raw": found.weights("raw"),
        "ema": found.weights("ema"),
        "indices": found.indices(),
        "state": found.state(),
    }


PASSES = []


def compared(folder: Path) -> tuple:
    """Features of samples and of the reference by a network that says how often it looked."""
    run = lambda x: PASSES.append(len(x)) or Features(x.flatten(1)[:, :3], x.flatten(1)[:, 3:5])
    found, known, _ = of_both(Network("toy", "0" * 64, run, 1, {}), *sets(folder), 8, "cpu", 1)
    return tuple(found), tuple(known)


def sets(folder: Path) -> tuple:
    return find_samples(folder / "samples"), find_samples(folder / "reference")


def logits(folder: Path) -> torch.Tensor:
    images = datasets.load("digits", split="test")
    build = lambda *meta: PASSES.append(0) or models.build(*meta)
    return logits_of(read_run(folder / "classifier"), images, fingerprint(images), build, datasets.ordered)


def kept_logits(folder: Path) -> Path:
    return next((folder / "classifier" / "logits").iterdir())


KINDS = {
    "the Fisher of the forget set": Kind(
        lambda f: f / "ddpm" / "mask_0" / "forget_fisher.safetensors", lambda f: load_fishers(f / "ddpm" / "mask_0")
    ),
    "the Fisher of the remain set": Kind(
        lambda f: f / "ddpm" / "mask_0" / "remain_fisher.safetensors", lambda f: load_fishers(f / "ddpm" / "mask_0")
    ),
    "a mask": Kind(
        lambda f: f / "ddpm" / "mask_0" / "fisher_1.0.safetensors",
        lambda f: load_mask(f / "ddpm" / "mask_0" / "fisher_1.0.safetensors", None, None),
    ),
    "a score": Kind(
        lambda f: f / "saliency" / "score.safetensors", lambda f: load_tensors(f / "saliency" / "score.safetensors")
    ),
    "SA's Fisher": Kind(
        lambda f: f / "ddpm" / "fisher_dict.safetensors", lambda f: load_tensors(f / "ddpm" / "fisher_dict.safetensors")
    ),
    **{
        f"{name} of a snapshot": Kind(lambda f, name=name: snapshot(f) / name, opened)
        for name in ("meta.json", "model.safetensors", "ema.safetensors", "indices.safetensors", "state.pt")
    },
    "SA's Fisher, exported": Kind(
        lambda f: f / "ddpm" / "fisher_dict.pkl", lambda f: load_tensor_dict(f / "ddpm" / "fisher_dict.pkl")
    ),
    "a mask, exported": Kind(lambda f: f / "mask.pt", lambda f: load_mask(f / "mask.pt", None, None)),
    "a checkpoint, exported": Kind(lambda f: f / "theirs.pth", lambda f: load_list(f / "theirs.pth")),
    "a DiT, exported": Kind(lambda f: f / "dit.pt", lambda f: load_dit(f / "dit.pt")),
    "a DiT's weights for diffusers": Kind(
        lambda f: f / "dit_folder" / "transformer" / "diffusion_pytorch_model.safetensors",
        lambda f: load_dit(f / "dit_folder"),
    ),
    "a DiT's config for diffusers": Kind(
        lambda f: f / "dit_folder" / "transformer" / "config.json", lambda f: load_dit(f / "dit_folder")
    ),
    "an export's hash": Kind(lambda f: f / "theirs.pth.sha256", lambda f: load_list(f / "theirs.pth")),
    "latest": Kind(lambda f: f / "ddpm" / "ckpts" / "latest", opened, again=True),
    "samples.json": Kind(
        lambda f: f / "ddpm" / "class_samples" / GENERATION, lambda f: read_generation(f / "ddpm" / "class_samples")
    ),
    "samples in one file": Kind(lambda f: f / "ddpm" / "class_samples.npz", lambda f: packed(f / "ddpm")),
    "a sample": Kind(lambda f: f / "samples" / "2.png", lambda f: find_samples(f / "samples").images(1)),
    "reference.json": Kind(
        lambda f: f / "reference" / REFERENCE, lambda f: reference_rule(f / "reference", lambda: "not asked")
    ),
    "metrics.json": Kind(lambda f: f / "metrics.json", lambda f: read_section(f / "metrics.json", "evaluator")),
    "the reference's features": Kind(lambda f: cache_path(f / "reference", "toy-00000000"), compared, again=True),
    "logits": Kind(kept_logits, logits, again=True),
    "a judge": Kind(lambda f: f / "judge.pth", lambda f: judge(f)),
    "a judge's JSON": Kind(lambda f: f / "judge.json", lambda f: judge(f)),
    "origin.json": Kind(lambda f: f / "ddpm" / "logs" / "origin.json", lambda f: read_origin(f / "ddpm")),
    **{
        f"latents: {name}": Kind(lambda f, name=name: f / "latents" / name, lambda f: latents(f / "latents"))
        for name in ("index.json", "000000.json", "000000.f16")
    },
    **{
        f"an autoencoder: {name}": Kind(lambda f, name=name: f / "vae" / name, lambda f: facts_of(str(f / "vae")))
        for name in ("config.json", train_vae.WEIGHTS, "config.json.sha256")
    },
    "what is known of an autoencoder": Kind(lambda f: f / "vae" / "vae.json", lambda f: read_json(f / "vae/vae.json")),
    "indices": Kind(lambda f: f / "forget.json", lambda f: load_indices(f / "forget.json")),
    "the source of indices": Kind(lambda f: f / "forget.source.json", lambda f: load_indices(f / "forget.json")),
}


def latents(folder: Path) -> list:
    return shards.Shards(folder, shards.identity_of(folder)).read(range(4)).tolist()


def load_dit(path: Path) -> tuple:
    return tuple(dit_files.load(path, models.build))


def packed(folder: Path) -> tuple:
    """All of a folder's images in one `.npz`: its contract, labels, pixels."""
    path = folder / "class_samples.npz"
    made, found = read_generation(path), find_samples(path)
    check_complete(path, found.labels.tolist())
    return made, found.labels, found.images(1)


def judge(folder: Path) -> tuple:
    model, record = load_classifier(folder / "judge.pth", models.build)
    return model.state_dict(), record


# ---- the flips


def same(a: object, b: object) -> bool:
    """Equal to the bit, whatever it is made of."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def flipped(data: bytes) -> list[tuple[int, bytes]]:
    """One bit each, at its ends and at places between them that no structure of a file knows of."""
    g = torch.Generator().manual_seed(len(data))
    places = [0, len(data) - 1, *torch.randint(len(data), (POSITIONS,), generator=g).tolist()]
    bits = torch.randint(8, (len(places),), generator=g).tolist()
    return [(at, data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]) for at, bit in zip(places, bits)]


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_never_becomes_another_number(everything, name):
    kind = KINDS[name]
    kind.read(everything)  # caches are made
    path, right = kind.file(everything), kind.read(everything)
    data = path.read_bytes()
    for at, wrong in flipped(data):
        write_atomic(path, wrong)  # a file of its own: tensors may be mapped from the one before
        try:
            found = kind.read(everything)
        except InputError as error:
            assert not kind.again, f"byte {at} of {len(data)}: {error}"
            assert path.stem in str(error) and "\n" not in str(error), f"byte {at}: {error}"
        else:
            assert same(found, right), f"byte {at} of {len(data)}: another value, and nobody noticed"
            assert kind.again or path.suffix in (".json", ".png", ".sha256", ".npz"), (
                f"byte {at} of {len(data)}: went unnoticed"
            )
        finally:
            write_atomic(path, data)
    assert same(kind.read(everything), right)


@pytest.mark.parametrize("name", ["the reference's features", "logits"])
def test_what_is_kept_is_read_and_what_is_damaged_is_computed(everything, name, capsys):
    kind = KINDS[name]
    kind.read(everything)
    PASSES.clear()
    kind.read(everything)
    seldom = len(PASSES)
    path = kind.file(everything)
    _, wrong = flipped(path.read_bytes())[5]
    note.cache_clear()
    path.write_bytes(wrong)
    PASSES.clear()
    kind.read(everything)
    assert len(PASSES) == seldom + 1 and f"{path}: computed anew" in capsys.readouterr().err
