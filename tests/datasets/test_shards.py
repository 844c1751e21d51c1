"""Latents that are kept: what is written comes back, by index, and nothing else ever does."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from processes import Process
from toys import one_line, toy, write_and_die

from datasets import ImageSet, Stream, ordered
from datasets.latents import LatentImages
from datasets.shards import INDEX, Shards, check_same, claimed, identity_of
from functions.errors import InputError
from functions.files import note, write_json
from functions.locks import remove_leftovers

MOMENTS = (4, 2, 2)
WHO = {
    "format": 1,
    "vae": "a" * 64,
    "dataset": "toy",
    "n": 10,
    "content": "b" * 64,
    "shape": [1, 4, 4],
    "fit": "middle",
    "moments": list(MOMENTS),
}


def moments_of(images: list[int]) -> np.ndarray:
    """Those of image i are constant i, of its mirror image -i."""
    i = np.array(images, np.float16)
    return np.broadcast_to(np.stack([i, -i], axis=1)[:, :, None, None, None], (len(i), 2, *MOMENTS)).copy()


@pytest.fixture
def folder(tmp_path):
    """Two shards; of ten images 8 and 9 are missing."""
    there = claimed(tmp_path / "kept", WHO)
    for images in ([5, 2, 7], [0, 1, 3, 4, 6]):
        there.write(images, moments_of(images))
    note.cache_clear()
    return tmp_path / "kept"


def test_moments_come_back_by_index(folder):
    there = Shards(folder, identity_of(folder))
    assert np.array_equal(there.read([2, 6, 2, 5]), moments_of([2, 6, 2, 5]))
    assert there.missing(np.arange(10)).tolist() == [8, 9]
    with pytest.raises(InputError, match=r"kept: no latents of image 9 \(data.latents\); encode_dataset.py adds it"):
        there.read([2, 9])


def test_a_set_hands_out_moments_as_the_images_would_be(folder):
    """The same order, labels and flips; in place of a mirrored image its mirror image's moments."""
    images = toy()
    kept = LatentImages.of(images, Shards(folder, WHO))
    assert (kept.shape, kept.n_classes, kept.name, len(kept)) == ((1, 4, 4), 3, "toy", 10)
    options = {"batch_size": 3, "seed": 1, "purpose": "remain", "flip": True}
    # image i has i in its left half alone, so that where it is tells whether it was mirrored
    half = torch.cat([images.images[..., :2], torch.zeros_like(images.images[..., 2:])], dim=-1)
    pixels = Stream(ImageSet(half, images.labels, images.classes, "toy", "train"), torch.arange(1, 8), **options)
    latents = Stream(kept, torch.arange(1, 8), **options)
    flips = 0
    for _ in range(8):
        (x, c), (m, d) = next(pixels), next(latents)
        left, right = ((255 * x[:, 0, 0, k]).round() for k in (0, -1))
        assert torch.equal(m[:, 0, 0, 0], left - right) and m.shape == (3, *MOMENTS) and m.dtype == torch.float32
        assert torch.equal(c, d)
        flips += int((right > 0).sum())
    assert 0 < flips < 24
    (m, c), *_ = ordered(kept, torch.tensor([7, 3]), 8)
    assert m[:, 0, 0, 0].tolist() == [7, 3] and c.tolist() == [1, 0]
    assert kept.gather(torch.tensor([4]))[0].unique().tolist() == [4]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vae": "c" * 64}, r"made with vae aaaaaaaaaaaa\.\.\., this run has cccccccccccc\.\.\. \(encoder\.vae\)"),
        ({"shape": [1, 8, 8]}, r"made with shape \[1, 4, 4\], this run has \[1, 8, 8\] \(data\.image_size\)"),
        ({"fit": "adm"}, r"fit middle, this run has adm \(data\.fit\)"),
        ({"content": "d" * 64}, "other images, names or labels"),
        ({"dataset": "other"}, r"dataset toy, this run has other \(data\.dataset\)"),
    ],
)
def test_moments_of_anything_else_are_refused(folder, change, message):
    for refuse in (
        lambda: check_same(folder, identity_of(folder), WHO | change),
        lambda: claimed(folder, WHO | change),
    ):
        with pytest.raises(InputError, match=message) as error:
            refuse()
        one_line(error)


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda f: (f / "000000.f16").write_bytes((f / "000000.f16").read_bytes()[:-1]), r"000000\.f16: cut short"),
        (lambda f: (f / "000001.f16").unlink(), r"000001\.f16: cut short or missing: 0 of 320 bytes"),
        (lambda f: (f / "000000.json").write_text("{"), r"000000\.json: not valid JSON"),
        (lambda f: edit(f / "000000.json", of="e" * 64), r"000000\.json: of other latents than .*index\.json says"),
        (lambda f: edit(f / "000000.json", images=[5, 2, 10]), "its images are not those of the data set"),
        (lambda f: edit(f / "000000.json", crc=[]), "its images are not those of the data set, or their CRCs"),
    ],
)
def test_damage_that_opening_sees_is_one_line_and_encoded_anew(folder, break_it, message, capsys):
    break_it(folder)
    with pytest.raises(InputError, match=message) as error:
        Shards(folder, WHO)
    assert one_line(error).endswith("encode_dataset.py encodes it anew")
    there = claimed(folder, WHO)
    assert len(there.sha256) == 1 and "encoded anew" in capsys.readouterr().err


def edit(path, **change):
    content = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("sealed", "seal")}
    write_json(path, content | change)


def test_a_flipped_bit_is_noticed_by_who_reads_that_image_alone(folder, capsys):
    data = bytearray((folder / "000001.f16").read_bytes())
    data[70] ^= 4  # of image 1, the mirror image's comes from byte 96 on
    (folder / "000001.f16").write_bytes(data)
    there = Shards(folder, WHO)
    there.read([0, 3, 5])
    with pytest.raises(InputError, match=r"000001\.f16: damaged: the latents of image 1 are not what was written"):
        there.read([1])
    there = claimed(folder, WHO)
    assert list(there.drop_damaged()) == [0, 1] and there.missing(np.arange(8)).tolist() == [0, 1, 3, 4, 6]
    assert "000001.f16: damaged: encoded anew" in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["000000.f16", "000000.json", INDEX]


def test_moments_in_another_order_in_memory_are_the_same(folder):
    moments = np.random.default_rng(0).standard_normal((2, 2, *MOMENTS)).astype(np.float16)
    claimed(folder, WHO).write([8, 9], moments.transpose(0, 1, 3, 4, 2).copy().transpose(0, 1, 4, 2, 3))
    assert np.array_equal(Shards(folder, WHO).read([8, 9]), moments)


def test_what_is_not_finite_is_one_line(folder):
    bad = moments_of([8])
    bad[0, 1, 0, 0, 0] = np.nan
    claimed(folder, WHO).write([8], bad)
    with pytest.raises(InputError, match=r"000002\.f16: the latents of image 8 are NaN or infinite"):
        Shards(folder, WHO).read([8])


def test_moments_without_their_json_are_not_there(folder):
    """As a kill between the two leaves them."""
    (folder / "000001.json").unlink()
    there = claimed(folder, WHO)
    assert there.missing(np.arange(8)).tolist() == [0, 1, 3, 4, 6]
    list(there.drop_damaged())
    assert not (folder / "000001.f16").exists()
    there.write([0, 1], moments_of([0, 1]))
    assert np.array_equal(Shards(folder, WHO).read([1, 5]), moments_of([1, 5]))


def test_a_kill_in_the_middle_of_a_shard_leaves_those_before(tmp_path):
    """kill -9 while the third shard's file is written."""
    child = Process(write_and_die, (WHO,), tmp_path, "writer", {})
    assert child.wait().returncode == -signal.SIGKILL
    assert list((tmp_path / "kept").glob(".000002.f16.*"))
    remove_leftovers(tmp_path / "kept")
    there = claimed(tmp_path / "kept", WHO)
    assert list(there.drop_damaged()) == [0, 1] and there.missing(np.arange(10)).tolist() == [1, 3, 4, 6, 8, 9]
    there.write([1, 3], moments_of([1, 3]))
    assert len(list((tmp_path / "kept").iterdir())) == 7


def test_a_folder_of_something_else_is_one_line(tmp_path, folder):
    for other in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"no index\.json: not a folder that encode_dataset\.py has written"):
            identity_of(other)
    (folder / INDEX).unlink()
    with pytest.raises(InputError, match=r"holds latents without index\.json: nobody knows of what"):
        claimed(folder, WHO)
