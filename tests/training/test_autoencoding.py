"""The autoencoder's objective, its measures, and train_vae.py at toy size."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

import train_vae
from functions.errors import InputError
from functions.files import check_exported, read_json
from functions.interrupts import Stopped
from functions.training import autoencoding
from models.encoders import Latents, facts_of
from models.vae import vae

TINY = ["--dataset", "digits", "--width", "4", "--halvings", "1", "--steps", "3", "--out", "vae"]


class Known:
    """q(z|x) = N(3 x, 0.5^2) of each pixel; decodes z to z / 3 + 0.2."""

    def encode(self, x):
        mean = 3 * x
        q = SimpleNamespace(mean=mean, var=torch.full_like(mean, 0.25))
        q.sample = q.mode = lambda: mean
        q.kl = lambda: torch.full((len(x),), 7.0)
        return SimpleNamespace(latent_dist=q)

    def decode(self, z):
        return SimpleNamespace(sample=z / 3 + 0.2)


def batches(*values):
    return [(torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), None)]


def test_the_loss_is_a_sum_over_an_image():
    # 4 pixels, each 0.2 off, and a tenth of the KL
    assert autoencoding.losses(Known(), batches(0.5, 0.1)[0][0], 0.1).tolist() == pytest.approx([1.5, 1.5])


def test_decibels_and_the_latents_deviation_by_hand():
    # half of 0.2 in [0, 1]: 10 log10(1 / 0.01)
    assert autoencoding.psnr(Known(), batches(0.5, 0.25)) == pytest.approx(20, abs=1e-4)
    # means 3 (2 x - 1) = -3 and 3: variance 9, and 0.25 of the draw; in two batches as in one
    assert autoencoding.latent_std(Known(), batches(0.0) + batches(1.0)) == pytest.approx(math.sqrt(9.25))


def test_it_starts_with_little_noise_and_can_tell_images_apart():
    torch.manual_seed(0)
    model = vae(3, 8, width=8, halvings=2, latent_channels=4)
    q = model.encode(torch.rand(5, 3, 8, 8)).latent_dist
    assert q.mean.shape == (5, 4, 2, 2) and q.std.mean() < 0.1
    with pytest.raises(InputError, match="--halvings: got 2; wanted what images of 6 pixels allow"):
        vae(3, 6, 8, 2, 4)


def test_the_folder_is_an_encoder_and_says_how_it_was_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train_vae.main(TINY)
    folder = tmp_path / "vae"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vae"]
    made, config = read_json(folder / "vae.json"), json.loads((folder / "config.json").read_text())
    assert made["dataset"] == "digits" and made["shape"] == [1, 8, 8] and made["training"]["steps"] == 3
    assert config["scaling_factor"] == 1 / made["latent_std"] and 0 < made["psnr"] < 40
    for name in ("config.json", train_vae.WEIGHTS):
        check_exported(folder / name)
    encoder = Latents(**facts_of("vae"))
    assert encoder.shape((1, 8, 8)) == (4, 4, 4)
    assert (folder / "reconstructions.png").is_file() and "PSNR" in capsys.readouterr().out
    weights = (folder / train_vae.WEIGHTS).read_bytes()
    with pytest.raises(InputError, match="--out vae: exists; wanted a new name"):
        train_vae.main(TINY)
    train_vae.main([*TINY[:-1], "again"])
    assert (tmp_path / "again" / train_vae.WEIGHTS).read_bytes() == weights


@pytest.mark.parametrize("error", [Stopped(2), OSError(28, "No space left on device")])
def test_what_stops_it_leaves_nothing(tmp_path, monkeypatch, error):
    monkeypatch.chdir(tmp_path)

    def stop(*_):
        raise error

    monkeypatch.setattr(train_vae, "draw", stop)
    with pytest.raises(type(error)):
        train_vae.main(TINY)
    assert list(tmp_path.iterdir()) == []


def test_an_autoencoder_that_diverged_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--lr"):
        train_vae.main([*TINY, "--lr", "1e30"])
    assert list(tmp_path.iterdir()) == []
