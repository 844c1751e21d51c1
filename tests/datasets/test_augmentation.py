"""Crops and flips: exact pixels, and the same distribution as torchvision's transforms on PIL images."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision import transforms
from torchvision.transforms import functional as tv

from datasets import ImageSet, Stream
from datasets.images import Shuffle, augment, to_pil

SIZE, PAD = 32, 4
WINDOWS, N_OUTCOMES = (2 * PAD + 1) ** 2, 2 * (2 * PAD + 1) ** 2  # 81 and 162


def marked() -> torch.Tensor:
    """(3, 32, 32) uint8: every pixel differs from all others and from the padding, so every outcome shows."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return torch.stack([y + 1, x + 1, torch.full_like(x, 255)]).byte()


def our_outcomes(n: int, batch_size: int) -> list[bytes]:
    """What a stream of copies of that image hands out, n in all, over several epochs."""
    copies = marked().expand(batch_size, -1, -1, -1).contiguous()
    images = ImageSet(copies, torch.zeros(batch_size, dtype=torch.long), ("a",), "marked", "train")
    stream = Stream(images, torch.arange(batch_size), batch_size, 0, "remain", flip=True, crop=PAD)
    batches = [(next(stream)[0] * 255).round().byte().numpy() for _ in range(n // batch_size)]
    return [x.tobytes() for batch in batches for x in batch]


def torchvision_outcomes(n: int) -> set[bytes]:
    torch.manual_seed(0)
    transform = transforms.Compose([transforms.RandomCrop(SIZE, padding=PAD), transforms.RandomHorizontalFlip()])
    image = to_pil(marked())
    return {as_bytes(transform(image)) for _ in range(n)}


def as_bytes(image: Image.Image) -> bytes:
    return np.asarray(image).transpose(2, 0, 1).tobytes()  # (C, H, W)


def by_hand() -> set[bytes]:
    """All windows of the padded image, each as it is and mirrored."""
    padded = tv.pad(to_pil(marked()), PAD)
    windows = [tv.crop(padded, i, j, SIZE, SIZE) for i in range(2 * PAD + 1) for j in range(2 * PAD + 1)]
    assert len(windows) == WINDOWS
    return {as_bytes(image) for w in windows for image in (w, tv.hflip(w))}


def test_the_outcomes_are_torchvisions():
    # Drawn n times from 162, one is never seen with probability below 162 exp(-n / 162): 3e-9 for 4,000.
    ours, theirs = set(our_outcomes(16_200, 1_620)), torchvision_outcomes(4_000)
    assert ours == theirs == by_hand() and len(ours) == N_OUTCOMES


def test_every_outcome_is_as_likely():
    """Chi-square against 1/162 each, 100 draws of each expected: flip, row and column are uniform and independent."""
    counts = Counter(our_outcomes(16_200, 1_620))
    assert stats.chisquare([counts[outcome] for outcome in by_hand()]).pvalue > 0.001


def test_images_of_a_batch_are_drawn_apart():
    """Neighbours have equal outcomes in 1 of 162 pairs: 100 of 16,200, standard deviation 10."""
    drawn = our_outcomes(16_200, 1_620)
    assert 60 < sum(a == b for a, b in itertools.pairwise(drawn)) < 140


def test_floats_are_those_of_to_tensor():
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = ImageSet(grey, torch.zeros(1, dtype=torch.long), ("a",), "grey", "train")
    x, _ = next(Stream(images, torch.arange(1), 1, 0, "remain"))
    assert torch.equal(x[0], transforms.ToTensor()(to_pil(grey[0])))


@pytest.mark.parametrize("h, w", [(5, 9), (9, 5)])
def test_oblong_images(h, w):
    x = torch.randint(1, 256, (200, 2, h, w), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    g = torch.Generator().manual_seed(1)
    flip, shift = torch.randint(2, (200,), generator=g), torch.randint(5, (200, 2), generator=g)
    for image, f, (dy, dx), found in zip(x, flip, shift.tolist(), augment(x, flip, shift, crop=2)):
        wanted = torch.nn.functional.pad(image, (2, 2, 2, 2))[:, dy : dy + h, dx : dx + w]
        assert torch.equal(found, wanted.flip(2) if f else wanted)


def test_augment_moves_and_mirrors():
    x = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.uint8).expand(4, 2, 3, 3)
    flip, shift = torch.tensor([0, 1, 0, 1]), torch.tensor([[1, 1], [1, 1], [0, 2], [2, 1]])
    out = augment(x, flip, shift, crop=1)
    assert torch.equal(out[:, 0], out[:, 1])  # channels move together
    assert out[:, 0].tolist() == [
        [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        [[3, 2, 1], [6, 5, 4], [9, 8, 7]],
        [[0, 0, 0], [2, 3, 0], [5, 6, 0]],  # window one up, one right
        [[6, 5, 4], [9, 8, 7], [0, 0, 0]],  # one down, mirrored
    ]


def test_stream_draws_every_flip_and_shift():
    marked = torch.zeros(1, 1, 3, 3, dtype=torch.uint8)
    marked[0, 0, 1, 0] = 255  # left of the middle: a flip moves it right
    images = ImageSet(marked, torch.zeros(1, dtype=torch.long), ("a",), "dot", "train")
    x, _ = next(Stream(images, torch.arange(1), 400, 0, "remain", flip=True))
    assert 160 < x[:, 0, 1, 0].sum() < 240 and x.sum() == 400  # 200, standard deviation 10
    x, _ = next(Stream(images, torch.arange(1), 900, 0, "remain", crop=1))
    seen = x[:, 0].sum(0)  # it stays, or moves by one: 6 places of 9, each 100; 3 windows lose it
    assert (seen[:, :2] > 60).all() and (seen[:, :2] < 140).all() and (seen[:, 2] == 0).all()


def test_frozen_augmentation_belongs_to_the_image():
    """Published: an image is flipped once and for all. Fresh: it is flipped in about half of the epochs."""
    indices = torch.arange(40)
    frozen = Shuffle(indices, 0, "forget", True, 2, torch.device("cpu"), True)
    fresh = Shuffle(indices, 0, "forget", True, 2, torch.device("cpu"))
    by_index = lambda rows: rows[rows[:, 0].argsort()]
    first, second = (by_index(frozen.epoch(e)) for e in (0, 1))
    assert torch.equal(first, second) and 0 < first[:, 1].sum() < 40
    assert not torch.equal(frozen.epoch(0)[:, 0], frozen.epoch(1)[:, 0])  # the order is drawn afresh all the same
    assert not torch.equal(*(by_index(fresh.epoch(e))[:, 1] for e in (0, 1)))
