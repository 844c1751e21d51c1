"""The ways through a set of images: gather, ordered, and streams that cross epochs and resume."""

from __future__ import annotations

import torch
from toys import take, toy, which

import datasets
from datasets import Stream, ordered
from functions.randomness import order_generator


def test_gather_and_ordered():
    x, c = toy().gather(torch.tensor([7, 2]))
    assert x.dtype == torch.float32 and which(x) == [7, 2] and c.tolist() == [1, 2]
    assert torch.equal(x[0], torch.full((1, 4, 4), 7 / 255))
    batches = list(ordered(toy(), torch.tensor([5, 3, 9, 0, 1]), 2))
    assert [which(x) for x, _ in batches] == [[5, 3], [9, 0], [1]] and batches[0][1].tolist() == [2, 0]


def test_stream_crosses_epochs_with_full_batches():
    stream = Stream(toy(), torch.tensor([1, 3, 5, 7, 9]), 3, seed=0, purpose="remain")
    drawn = []
    for _ in range(5):
        x, c = next(stream)
        drawn += which(x)
        assert c.tolist() == [k % 3 for k in which(x)]
    assert stream.position == 5
    assert [sorted(drawn[e : e + 5]) for e in (0, 5, 10)] == [[1, 3, 5, 7, 9]] * 3
    assert len({tuple(drawn[e : e + 5]) for e in (0, 5, 10)}) == 3  # another order each epoch


def test_stream_batch_larger_than_the_set():
    x, _ = next(Stream(toy(), torch.tensor([4, 6]), 7, seed=0, purpose="forget"))
    assert [which(x).count(k) for k in (4, 6)] in ([3, 4], [4, 3])


def test_stream_depends_on_seed_purpose_and_position_alone():
    def make(seed=0, purpose="remain", **options):
        return Stream(toy(), torch.arange(10), 4, seed, purpose, flip=True, crop=1, **options)

    whole = take(make(), 9)
    torch.manual_seed(123)
    resumed = make()
    resumed.position = 6
    assert all(torch.equal(a, b) for a, b in zip(take(resumed, 3), whole[6:]))
    assert resumed.position == 9
    resumed.position = 1  # also backwards, after use
    assert torch.equal(next(resumed)[0], whole[1])
    for other in (make(seed=1), make(purpose="forget")):
        assert not all(torch.equal(a, b) for a, b in zip(take(other, 9), whole))
    plain = Stream(toy(), torch.arange(10), 4, 0, "remain")
    assert [which(x) for x in take(plain, 9)] == [which(x) for x in whole]  # augmentation keeps the order


def test_stream_keeps_the_global_generator(folder):
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    for images in (toy(), datasets.load("folder", path=folder)):
        take(Stream(images, torch.arange(len(images)), 4, 0, "remain", flip=True), 3)
    assert torch.equal(torch.rand(1), wanted)


def test_order_generator_tells_keys_apart():
    keys = [(0, "a"), (1, "a"), (0, "b"), ("0a",), (0, "a", 0), (0, "a", 1)]
    assert len({int(torch.randint(2**60, (1,), generator=order_generator(*k))) for k in keys}) == len(keys)
