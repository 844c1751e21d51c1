"""What lies in the folder where the rows are typed: good things, made once, and broken ones."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path

import cases
import dits
import numpy as np
import pictures
import torch

from functions.files import write_json

DEEP = "a: " + "[" * 400
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


class Evil:
    """A pickle that would leave a file."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def _npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


FILES: dict[str, bytes | str] = {
    "file.txt": "words\n",
    "empty": "",
    "indices.json": "[0, 1, 2]",
    "far.json": "[0, 100000]",
    "negative.json": "[-1]",
    "words.json": '["a"]',
    "twice.json": "[1, 1]",
    "none.json": "[]",
    "list.json": "[1]",
    "evil.pt": pickle.dumps(Evil()),
    "evil.pth": pickle.dumps(Evil()),
    "evil.npy": _npy(np.array([Evil()], dtype=object)),
    "words.npz": _npz(arr_0=np.array(["a", "b"])),
    "cut.npz": _npz(arr_0=np.zeros((4, 8, 8, 3), np.uint8))[:100],
    # configs
    "list.yml": "- a\n",
    "word.yml": "word\n",
    "duplicate.yml": "base: digits_pretrain.yml\noptim: {lr: 1}\noptim: {lr: 2}\n",
    "deep.yml": DEEP,
    "latin.yml": "world: \xe9".encode("latin1"),
    "utf16.yml": "world: ddpm".encode("utf16"),
    "nul.yml": "world: a\0b",
    "control.yml": "world: \x1b[2J",
    "documents.yml": "a: 1\n---\nb: 2\n",
    "itself.yml": "data: &x {data: *x}\n",
    "laughs.yml": LAUGHS,
    "tags.yml": "world: !!python/object/apply:os.system ['touch executed']\n",
    "number.yml": f"base: digits_pretrain.yml\nseeds: {{seed: {'9' * 5000}}}\n",
    "date.yml": "base: digits_pretrain.yml\noptim: {lr: !!timestamp 2020-13-45}\n",
    "modes.yml": "base: digits_pretrain.yml\nmodes: [1]\n",
    "modes2.yml": "base: digits_pretrain.yml\nmodes: {1: {}}\n",
    "modes3.yml": "base: digits_pretrain.yml\nmodes: {pretrain: [1]}\n",
    "world.yml": "base: digits_pretrain.yml\nworld: {}\n",
    "key.yml": "? [a]\n: 1\n",
    "base1.yml": "base: nowhere.yml\n",
    "base2.yml": "base: base2.yml\n",
    "base3.yml": "base: [a]\n",
    "base4.yml": "base: ''\n",
    "huge.yml": "#" * (1 << 21),
    "over1.yml": "ddpm: 5\n",
    "over2.yml": "ddpm: {optim: 5}\n",
    "over3.yml": "ddpm: {optim: {lrr: 5}}\n",
    "classifier.only.yml": "classifier: {}\n",
}


def make(folder: Path, originals) -> None:
    """Everything, in `folder`. Of the originals copies are made."""
    for name, content in FILES.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "loop").symlink_to("loop")
    (folder / "void").mkdir()
    mask = originals["ddpm"].mask
    shutil.copytree(originals["ddpm"].run, folder / "run", symlinks=True)
    shutil.rmtree(folder / "run" / "class_samples", ignore_errors=True)
    unlearned = originals["classifier"]._made(cases.unlearn, "finetune", originals["classifier"].run)
    for name in ("classifier", "classifier2"):
        shutil.copytree(unlearned, folder / name, symlinks=True)
    _half(folder)
    pictures.save_images(folder / "strangers" / "train" / "dog", pictures.noise(2))
    _dits(folder)
    (folder / "other.safetensors").write_bytes(mask.read_bytes())
    (folder / "cut.safetensors").write_bytes(mask.read_bytes()[:200])
    for name in ("mask_cut", "mask_two"):
        shutil.copytree(mask.parent, folder / name)
    fisher = folder / "mask_cut" / "forget_fisher.safetensors"
    fisher.write_bytes(fisher.read_bytes()[:-9])
    (folder / "mask_two" / "remain_fisher.safetensors").unlink()
    judge = pictures.make_judge(folder)
    (folder / "cut.pth").write_bytes(judge.read_bytes()[:300])
    (folder / "cut.json").write_bytes(judge.with_suffix(".json").read_bytes())
    (folder / "alone.pth").write_bytes(judge.read_bytes())
    (folder / "evil.json").write_bytes(judge.with_suffix(".json").read_bytes())
    for c in range(2):
        pictures.save_images(folder / "samples" / str(c), pictures.noise(5, seed=c))
        pictures.save_images(folder / "reference" / str(c), pictures.noise(5, seed=9 + c))
        pictures.save_images(folder / "large" / str(c), pictures.noise(3, 9, seed=c))
    known = {"dataset": "digits", "n": 1500, "shape": [1, 8, 8], "fit": "middle", "moments": [4, 4, 4]}
    write_json(folder / "latents" / "index.json", {"format": 1, "vae": "a" * 64, "content": "b" * 64, **known})
    pictures.save_images(folder / "broken", pictures.noise(5))
    (folder / "broken" / "3.png").write_bytes((folder / "broken" / "3.png").read_bytes()[:40])


def _dits(folder: Path) -> None:
    """A DiT of the toy autoencoder's latents, and files that are none or not whole."""
    shutil.copytree(cases.VAE, folder / "vae")
    weights = dits.weights()
    less = {name: t for name, t in weights.items() if name != "blocks.2.mlp.fc2.bias"}
    nan = {**weights, "final_layer.linear.bias": weights["final_layer.linear.bias"].fill_(float("nan"))}
    for name, content in {"nan": nan, "less": less, "evil": {"model": weights, "args": Evil()}}.items():
        torch.save(content, folder / f"dit_{name}.pt")
    data = torch.save(dits.weights(), folder / "dit.pt") or (folder / "dit.pt").read_bytes()
    (folder / "dit_cut.pt").write_bytes(data[: len(data) // 2])
    (folder / "dit_changed.pt").write_bytes(data)
    (folder / "dit_changed.pt.sha256").write_text(f"{'0' * 64}  dit_changed.pt\n")
    (folder / "no_weights").mkdir()
    (folder / "no_weights" / "config.json").write_text('{"_class_name": "DiTTransformer2DModel"}')


def _half(folder: Path) -> None:
    """A run whose newest snapshot lost its weights' second half."""
    shutil.copytree(folder / "run", folder / "half", symlinks=True)
    for path in (folder / "half" / "ckpts").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
