"""Training from latents that are kept: encode_dataset.py, and that nothing changes but half precision's rounding."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cases
import numpy as np
import pytest
import torch

import datasets
import encode_dataset
import models
import train
from datasets.latents import LatentImages
from datasets.shards import Shards, identity_of
from functions.config.load import load_config
from functions.errors import InputError
from functions.files import note
from functions.locks import Busy, writing_folder
from functions.storage.artifacts import load_fishers, load_tensors, read_provenance
from models import encoders
from runners.passes import encode
from runners.passes.encode import Encoding

WORLD = [*cases.DIT, "--set", "data.flip=true"]
POOL = ["--label_to_forget", "0", "--remain_pool", "60"]


def encoded(folder, *more: str):
    return encode_dataset.main(["--config", *WORLD, "--latents", str(folder), *more])


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The latents of class 0 and a pool of 60."""
    return encoded(tmp_path_factory.mktemp("latents") / "kept", *POOL)


@pytest.fixture
def origin(originals):
    return str(originals["dit"].run)


@pytest.fixture
def no_vae_later(monkeypatch):
    """Called, it makes loading an autoencoder fail."""

    def load(*_):
        raise AssertionError("an autoencoder was loaded")

    return lambda: monkeypatch.setattr(encoders, "load_vae", load)


def vae() -> encoders.Latents:
    return models.encoder(models.encoder_meta("latents", vae=str(cases.VAE)))


# ---- encode_dataset.py


def test_the_forget_class_and_the_pool_are_there_and_nothing_else(kept):
    there = Shards(kept, identity_of(kept))
    labels = datasets.load("digits").labels
    found = np.flatnonzero(there.shard >= 0)
    n_f = int((labels == 0).sum())
    assert len(found) == n_f + 60 and (labels[found] == 0).sum() == n_f
    assert set(torch.bincount(labels[found])[1:].tolist()) <= {6, 7}


def test_moments_are_the_posteriors_of_image_and_mirror_image(kept):
    there, images, encoder = Shards(kept, identity_of(kept)), datasets.load("digits"), vae()
    chosen = torch.from_numpy(np.flatnonzero(there.shard >= 0)[:20])
    x, _ = images.gather(chosen)
    for flipped, pixels in enumerate((x, x.flip(-1))):
        posterior = encoder.vae.encode(2 * pixels - 1).latent_dist
        wanted = torch.cat([posterior.mean, posterior.logvar], dim=1).half()
        assert torch.equal(torch.from_numpy(there.read(chosen.tolist())[:, flipped]), wanted)


def test_draws_have_the_same_distribution(kept):
    """z = scale (mean + sigma n): mean and variance over n of draws from what is kept, and from the images."""
    images, encoder = datasets.load("digits"), vae()
    cached = LatentImages.of(images, Shards(kept, identity_of(kept)))
    chosen = torch.from_numpy(np.flatnonzero(cached.shards.shard >= 0)[:4])
    m, n, found = 1000, len(chosen), []
    for seed, source in enumerate((cached, images)):  # other normals: it is distributions that are compared
        g, x = torch.Generator().manual_seed(seed), source.gather(chosen)[0]
        z = encoder.encode(x.repeat(m, 1, 1, 1), lambda shape, g=g: torch.randn(shape, generator=g))
        found.append(z.unflatten(0, (m, n)))
    (mean, true_mean), (variance, true_variance) = ([z.mean(0) for z in found], [z.var(0) for z in found])
    # standard errors of the difference of two means, and of two log variances; the largest of 128 is below 4.5
    assert ((mean - true_mean).abs() < 4.5 * (true_variance * 2 / m).sqrt()).all()
    assert ((variance / true_variance).log().abs() < 4.5 * math.sqrt(4 / m)).all()


def test_the_same_normals_give_the_same_draw_up_to_rounding(kept):
    images, encoder = datasets.load("digits"), vae()
    cached = LatentImages.of(images, Shards(kept, identity_of(kept)))
    chosen = torch.from_numpy(np.flatnonzero(cached.shards.shard >= 0))
    drawn = [
        encoder.encode(
            s.gather(chosen)[0], lambda shape: torch.randn(shape, generator=torch.Generator().manual_seed(0))
        )
        for s in (cached, images)
    ]
    assert not torch.equal(*drawn)
    assert torch.allclose(*drawn, rtol=2**-10, atol=2**-10 * float(drawn[1].abs().max()))


def test_it_goes_on_where_it_was_stopped_and_adds_what_another_class_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encode, "SHARD", 256 * 50)
    write, shards = Shards.write, []

    def interrupted(self, images, moments):
        if len(shards) == 2:
            raise KeyboardInterrupt
        shards.append(images)
        write(self, images, moments)

    monkeypatch.setattr(Shards, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encoded(tmp_path / "kept", *POOL)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "kept").iterdir()}
    assert len(before) == 5
    monkeypatch.setattr(Shards, "write", write)
    encoded(tmp_path / "kept", *POOL)
    there = Shards(tmp_path / "kept", identity_of(tmp_path / "kept"))
    assert all(p.stat().st_mtime_ns == t for p, t in before.items()) and len(there.sha256) == 5
    encoded(tmp_path / "kept", *POOL)
    encoded(tmp_path / "kept", "--label_to_forget", "1", "--remain_pool", "60")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("latents of")]
    assert "(109 new)" in said[0] and "(0 new)" in said[1] and "(0 new)" not in said[2]


def test_of_two_at_once_one_writes(tmp_path):
    with writing_folder(tmp_path / "kept"), pytest.raises(Busy, match="kept: process .* is writing here"):
        encoded(tmp_path / "kept", *POOL)


def test_damage_is_encoded_anew(tmp_path, capsys):
    note.cache_clear()
    folder = encoded(tmp_path / "kept", *POOL)
    right = (folder / "000000.f16").read_bytes()
    (folder / "000000.f16").write_bytes(right[:99] + bytes([right[99] ^ 1]) + right[100:])
    encoded(folder, *POOL)
    assert "000000.f16: damaged: encoded anew" in capsys.readouterr().err
    assert (folder / "000000.f16").read_bytes() == right


@pytest.mark.parametrize("value, said", [(7e4, "70000"), (math.nan, "nan"), (math.inf, "inf")])
def test_what_half_precision_cannot_hold_is_never_written(tmp_path, monkeypatch, value, said):
    moments = encoders.Latents.moments

    def broken(self, x):
        found = moments(self, x)
        found[3, 0, 0, 0] = value
        return found

    monkeypatch.setattr(encoders.Latents, "moments", broken)
    with pytest.raises(InputError, match=rf"{cases.VAE.name}: the latents of image \d+ are as large as {said}"):
        encoded(tmp_path / "kept", *POOL)
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["index.json"]


def test_too_little_room_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(
        encode.shutil, "disk_usage", lambda _: os.statvfs_result((0,) * 10) and type("", (), {"free": 9})
    )
    with pytest.raises(
        InputError, match=r"1,500 images take 0\.0 GB, and 0\.0 GB are free \(--latents, --remain_pool\)"
    ):
        encoded(tmp_path / "kept")


def test_a_model_of_pixels_has_no_latents(tmp_path):
    words = ["--config", "dit.yml", *cases.DIT[1:3], "--set", "encoder=null", "--set", "encoder={name: pixels}"]
    with pytest.raises(InputError, match=r"encoder\.name: pixels are not encoded"):
        encode_dataset.main([*words, "--latents", str(tmp_path / "kept")])


def test_dry_run_says_how_much_it_will_be(tmp_path, capsys):
    encoded(tmp_path / "kept", *POOL, "--dry_run")
    assert f"209 of 1,500 images of digits, 0 KiB each: 0 MiB in {tmp_path / 'kept'}" in capsys.readouterr().out
    assert not (tmp_path / "kept").exists()


# ---- training from them


def unlearned(mode: str, origin: str, *more: str):
    # SGD: Adam's first steps are signs, and where a gradient is near 0 rounding turns them
    optim = ["--set", "optim={name: sgd, lr: 0.01}"]
    return cases.unlearn("dit", mode, Path(origin), "--set", "data.flip=true", "--remain_pool", "60", *optim, *more)


@pytest.mark.parametrize("mode, more", [("sfron", ()), ("finetune", ()), ("sa", ("--set", "sa.replay=remain"))])
def test_a_run_is_the_same_up_to_rounding(kept, originals, origin, no_vae_later, mode, more):
    if mode == "sa":
        more = (*more, "--set", f"sa.fisher_path={originals['dit'].mask.parent / 'remain_fisher.safetensors'}")
    plain = cases.weights(unlearned(mode, origin, *more))
    no_vae_later()
    from_latents = unlearned(mode, origin, "--latents", str(kept), *more)
    found, start = cases.weights(from_latents), cases.weights(Path(origin))
    moved = max(float((plain[n] - start[n]).abs().max()) for n in plain)
    apart = max(float((plain[n] - found[n]).abs().max()) for n in plain)
    assert moved > 0 and apart < 0.02 * moved
    meta = cases.load_meta(from_latents)
    assert meta["data"] == cases.load_meta(Path(origin))["data"]
    assert sorted(cases.load_indices(from_latents)) == ["forget", "remain", "val"]
    assert len(cases.load_indices(from_latents)["remain"]) == 60


def test_a_run_is_gone_on_with_to_the_same_bits(kept, origin):
    whole = unlearned("finetune", origin, "--latents", str(kept))
    half = unlearned("finetune", origin, "--latents", str(kept), "--set", "training.n_iters=2", "--save_dir", "half")
    train.main(["--resume", str(half), "--set", "training.n_iters=4"])
    assert cases.same(cases.weights(half), cases.weights(whole))


def test_a_preview_alone_needs_the_autoencoder(kept, origin, monkeypatch):
    load, loaded = encoders.load_vae, []
    monkeypatch.setattr(encoders, "load_vae", lambda *of: loaded.append(of) or load(*of))
    run = unlearned("finetune", origin, "--latents", str(kept), "--set", "training.preview=1")
    assert len(loaded) == 1 and list((run / "previews").glob("*.png"))


def test_saliency_from_latents_is_the_same_up_to_rounding(kept, origin, no_vae_later):
    words = ["--mode", "generate_mask", "--config", *WORLD, "--ckpt_folder", origin, *POOL]
    scores = []
    for more in ((), ("--latents", str(kept))):
        folder = train.main([*words, "--save_dir", f"mask{len(more)}", *more])
        scores.append(load_tensors(folder / "score.safetensors")[0])
        no_vae_later()
    one, other = scores
    assert all(torch.allclose(one[n], other[n], rtol=0.02, atol=0.02 * float(one[n].max())) for n in one)


def test_fishers_and_masks_are_made_for_the_same(kept, origin, no_vae_later, tmp_path):
    made = {}
    for name, more in (("images", ()), ("latents", ("--latents", str(kept)))):
        folder = str(tmp_path / name)
        words = ["--mode", "generate_fisher", "--config", *cases.WORLDS["dit"]["fisher"], "--ckpt_folder", origin]
        made[name] = train.main([*words, *POOL, "--save_dir", folder, *more])
        no_vae_later()
    (f, r, of_f, of_r), (g, s, og_f, og_r) = (load_fishers(folder) for folder in made.values())
    for a, b in ((f, g), (r, s)):
        assert all(torch.allclose(a[n], b[n], rtol=0.02, atol=0.02 * float(a[n].max())) for n in a)
    free = {"cost", "version"}
    for a, b in ((of_f, og_f), (of_r, og_r)):
        assert {k: v for k, v in a.items() if k not in free} == {k: v for k, v in b.items() if k not in free}
    assert read_provenance(made["latents"] / "remain_fisher.safetensors")["n"] == 60


@pytest.mark.parametrize(
    "more, message",
    [
        (["--latents", "nowhere"], r"nowhere: no index\.json: not a folder that encode_dataset\.py has written"),
        (["--remain_pool", "61"], r"has no latents of 1 of the 210 images that this run needs \(first: image \d+\)"),
        (["--label_to_forget", "3"], "images that this run needs"),
        (["--image_size", "16"], r"data\.shape: the checkpoint has|this run has \[1, 16, 16\] \(data\.image_size\)"),
    ],
)
def test_latents_that_are_not_there_are_one_line(kept, origin, more, message):
    words = ["--mode", "finetune", "--config", *WORLD, *cases.TOY, "--ckpt_folder", origin, *POOL]
    with pytest.raises(InputError, match=message) as error:
        train.main([*words, "--latents", str(kept), *more])
    assert "\n" not in str(error.value)


def test_a_ddpm_of_pixels_reads_no_latents(kept, originals):
    words = ["--mode", "finetune", "--config", "digits_baselines.yml", *cases.TOY, *POOL, "--latents", str(kept)]
    with pytest.raises(
        InputError, match=r"data\.latents: has no meaning where the model sees pixels \(encoder\.name\)"
    ):
        train.main([*words, "--ckpt_folder", str(originals["ddpm"].run)])


def test_an_autoencoder_that_was_not_fetched_is_the_one_that_made_them(kept):
    """Of a published name nobody knows the hash before it is there."""
    from runners.latents import kept as read

    encoder, images = vae(), datasets.load("digits")
    known, encoder.sha256 = encoder.sha256, None
    cfg = load_config("dit.yml", "encode", settings=[cases.DIT[2], cases.DIT[4], f"data.latents={kept}"])
    data = Encoding.of(cfg).data
    assert len(read(cfg, images, data, encoder, torch.tensor([], dtype=torch.long))) == len(images)
    assert encoder.sha256 == known
