"""DiT on ImageNet's folders: a class by its English name, and no image opened but its own and the pool's."""

from __future__ import annotations

from pathlib import Path

import cases
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from toys import write

import encode_dataset
import train
from functions import imagenet, pictures

TENCH, RETRIEVER, CRANE = (imagenet.wnids()[c] for c in (0, 207, 134))
DIT = ["dit.yml", "--set", "data={dataset: imagenet, image_size: 8, fit: adm, flip: true, n_workers: 0}"]
DIT += ["--set", "encoder={name: latents, vae: vae}", "--data_path", "images"]
FORGET = ["--label_to_forget", "golden retriever", "--remain_pool", "4"]


@pytest.fixture
def here(tmp_path):
    """images/ of three classes of six, vae/, and run/, a tiny DiT of all 1000 classes."""
    for c, wnid in enumerate((TENCH, RETRIEVER, CRANE)):
        for k in range(6):
            write(tmp_path / "images" / "train" / wnid / f"{k}.JPEG", np.full((9 + k, 12, 3), 40 * c + k), "RGB")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(**blocks, block_out_channels=(4, 4), norm_num_groups=2, latent_channels=2).save_pretrained("vae")
    model = ["--set", "model={name: dit, hidden_size: 8, depth: 1, num_heads: 1, patch_size: 2}"]
    train.main(["--mode", "pretrain", "--config", *DIT, *model, *cases.TOY, "--save_dir", "run"])
    return tmp_path


@pytest.fixture
def opened(here, monkeypatch):
    """The names of the class folders of all files that are opened, by file."""
    found: dict[str, str] = {}
    open_file = pictures.opened

    def watched(path):
        found[str(path)] = Path(path).parent.name
        return open_file(path)

    monkeypatch.setattr(pictures, "opened", watched)
    return found


def test_only_the_class_and_the_pool_are_opened(opened):
    encode_dataset.main(["--config", *DIT, *FORGET, "--latents", "kept"])
    assert len(opened) == 6 + 4 and sorted(opened.values()).count(RETRIEVER) == 6
    assert list(opened.values()).count(TENCH) == list(opened.values()).count(CRANE) == 2
    words = ["--mode", "sfron", "--config", *DIT, *FORGET, *cases.TOY, "--ckpt_folder", "run"]
    chosen = set(opened)
    opened.clear()
    kept = train.main([*words, "--latents", "kept"])
    assert not opened  # moments are all that is read
    assert train.main(words) and set(opened) == chosen
    meta = cases.load_meta(kept)
    assert (meta["selection"]["label"], meta["data"]["n_classes"], meta["data"]["shape"]) == (207, 1000, [3, 8, 8])
