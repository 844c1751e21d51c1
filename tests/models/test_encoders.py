"""The latent space of an autoencoder: draws of posteriors, whose folder is checked and whose identity is its weights."""

import json
import math
import shutil

import cases
import pytest
import torch
from toys import one_line

import models
from functions.errors import InputError
from functions.files import sha256_file
from functions.tasks import denoising
from models.encoders import ENCODERS, PUBLISHED, WEIGHTS, Latents, facts_of, load_vae, local_folder

DIFFUSION = {"timesteps": 10, "beta_start": 1e-4, "beta_end": 0.02, "p_uncond": 0.5, "reduction": "mean"}


@pytest.fixture
def latents() -> Latents:
    return models.encoder(models.encoder_meta("latents", vae=str(cases.VAE)))


@pytest.fixture
def folder(tmp_path):
    """A copy of the toy autoencoder that a test may damage."""
    return shutil.copytree(cases.VAE, tmp_path / "vae")


def zeros(shape):
    return torch.zeros(tuple(shape))


def test_a_draw_is_scale_times_mean_plus_sigma_n(latents):
    x, n = torch.rand(3, 1, 8, 8), torch.randn(3, 2, 4, 4)
    mean, log_variance = latents.moments(x).chunk(2, dim=1)
    assert mean.shape == (3, 2, 4, 4) and latents.shape((1, 8, 8)) == (2, 4, 4)
    wanted = 0.8 * (mean + torch.exp(log_variance / 2) * n)  # 0.8 is the folder's scaling_factor
    torch.testing.assert_close(latents.encode(x, lambda shape: n), wanted)
    assert not torch.allclose(latents.encode(x, zeros), wanted)


def test_moments_stand_for_their_images(latents):
    x = torch.rand(3, 1, 8, 8)
    moments = latents.moments(x)
    assert latents.shape(tuple(moments.shape[1:])) == (2, 4, 4)
    n = torch.randn(3, 2, 4, 4)
    assert torch.equal(latents.encode(moments, lambda s: n), latents.encode(x, lambda s: n))


def test_decoded_images_lie_in_0_1(latents):
    images = latents.decode(100 * torch.randn(2, 2, 4, 4))
    assert images.shape == (2, 1, 8, 8) and images.min() >= 0 and images.max() <= 1 and images.std() > 0


def test_the_autoencoder_is_read_once_without_gradients_and_moves_nothing_random(latents):
    torch.manual_seed(0)
    wanted = torch.randn(1)
    torch.manual_seed(0)
    assert "vae" not in vars(latents)  # shapes are known without it
    assert not any(p.requires_grad for p in latents.vae.parameters()) and not latents.vae.training
    assert torch.equal(torch.randn(1), wanted)
    assert latents.vae is latents.vae


def test_what_an_encoder_draws_comes_from_the_draws_generator(latents):
    task = denoising({**DIFFUSION, "learned_variance": True}, latents, 10)
    x, c = torch.rand(4, 1, 8, 8), torch.arange(4)
    drawn = [task.draw(x, c, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0].x, drawn[1].x) and not torch.equal(drawn[0].x, drawn[2].x)
    again = denoising(DIFFUSION, latents, 10)._encoded(x, torch.Generator().manual_seed(0))
    other = denoising(DIFFUSION, latents, 10)._encoded(x, torch.Generator().manual_seed(1))
    assert not torch.equal(again, other)  # the posterior itself is drawn from, not its mean taken


@pytest.mark.parametrize(
    "shape, words", [((3, 8, 8), "takes 1-channel images"), ((1, 9, 8), "sides multiples of 2"), ((1, 8, 7), "1x8x7")]
)
def test_images_it_cannot_take_are_refused(latents, shape, words):
    with pytest.raises(InputError, match=words) as error:
        latents.shape(shape)
    assert "encoder.vae" in one_line(error)


def break_config(folder, **more):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


DAMAGES = {
    "missing folder": (shutil.rmtree, "no config.json"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), f"no {WEIGHTS}"),
    "another kind": (lambda f: break_config(f, _class_name="VQModel"), "not of an AutoencoderKL"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "damaged"),
    "not finite": (lambda f: break_config(f, scaling_factor=math.nan), "damaged"),
    "zero": (lambda f: break_config(f, scaling_factor=0), "damaged"),
    "huge": (lambda f: break_config(f, block_out_channels=[10**9]), "damaged"),
    "not a list": (lambda f: break_config(f, block_out_channels=4), "damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_line(folder, damage):
    change, words = DAMAGES[damage]
    change(folder)
    with pytest.raises(InputError, match=words) as error:
        facts_of(str(folder))
    assert str(folder) in one_line(error)


@pytest.mark.parametrize("layers", [1, 2**14])
def test_weights_that_do_not_fit_their_config_are_one_line(folder, layers):
    break_config(folder, layers_per_block=2 * layers, latent_channels=4)
    with pytest.raises(InputError, match="damaged|more than") as error:
        load_vae(folder, None)
    one_line(error)


def test_cut_weights_are_one_line(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged") as error:
        load_vae(folder, None)
    one_line(error)


def test_other_weights_than_the_models_are_refused(folder):
    meta = models.encoder_meta("latents", vae=str(folder))
    assert meta["kwargs"]["sha256"] == sha256_file(folder / WEIGHTS)
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(InputError, match="another autoencoder than the one") as error:
        models.encoder(meta).encode(torch.rand(1, 1, 8, 8), zeros)
    one_line(error)


def test_published_names_are_known_without_network(monkeypatch):
    for name in PUBLISHED:
        encoder = models.encoder(models.encoder_meta("latents", vae=name))
        assert encoder.shape((3, 256, 256)) == (4, 32, 32) and encoder.sha256 is None
    with pytest.raises(InputError, match="could not be fetched .*--vae FOLDER") as error:
        local_folder("stabilityai/sd-vae-ft-ema")
    one_line(error)
    assert local_folder("somebody/else").parts == ("somebody", "else")  # nothing is fetched by any name


def test_encoders_of_configs_records_and_models_are_the_same():
    from functions.config import schema
    from functions.storage import meta

    named = {s.model_fields["name"].annotation.__args__[0] for s in (schema.PixelsEncoder, schema.LatentsEncoder)}
    assert named == set(ENCODERS) == set(meta.ENCODERS)
