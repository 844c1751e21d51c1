"""Batches of passes: each image so often, or so many batches of a shuffled set over and over."""

import types
from pathlib import Path

import cases
import pytest
import torch

import generate_fisher_mask
import train
from datasets import ImageSet
from functions.errors import InputError
from functions.storage.artifacts import load_mask, load_tensors
from functions.tasks import Rows
from runners.draws import EVERYTHING, fixed_draws

IMAGES = ImageSet(torch.arange(7).view(7, 1, 1, 1).to(torch.uint8), torch.arange(7), tuple("abcdefg"), "seven", "train")


class Task:
    """What is drawn: the images of the batch, and a number from its generator."""

    def draw(self, x, c, generator):
        assert torch.equal((255 * x).round().long().flatten(), c)
        return c.tolist(), torch.rand((), generator=generator).item()


def drawn(n_iters: int, batch_size: int, part: Rows = EVERYTHING, key: str = "fisher", seed: int = 0) -> list:
    seeds = types.SimpleNamespace(of=lambda purpose: seed)
    cfg = types.SimpleNamespace(seeds=seeds, data=types.SimpleNamespace(n_workers=0))
    materials = types.SimpleNamespace(images=IMAGES, task=Task(), device="cpu")
    indices = torch.tensor([1, 2, 3, 5, 6])
    return list(fixed_draws(cfg, materials, indices, key, batch_size=batch_size, part=part, n_iters=n_iters))


def test_so_many_full_batches_of_the_shuffled_set_over_and_over():
    """Ten batches of three are thirty images, each of five six times; the first five images are the first time round."""
    found = drawn(10, 3)
    images = [i for c, _ in found for i in c]
    assert [len(c) for c, _ in found] == 10 * [3]
    rounds = [sorted(images[i : i + 5]) for i in range(0, 30, 5)]
    assert rounds == 6 * [[1, 2, 3, 5, 6]] and len({tuple(images[i : i + 5]) for i in range(0, 30, 5)}) > 1
    assert len({noise for _, noise in found}) == 10  # each batch has its own
    assert found == drawn(10, 3) and found[:4] == drawn(4, 3)
    assert drawn(10, 3, seed=1) != found and drawn(10, 3, key="saliency") != found


@pytest.mark.parametrize("n, batch_size", [(7, 1), (4, 3), (1, 9)])
def test_the_parts_of_all_processes_are_everything(n, batch_size):
    whole, parts = drawn(n, batch_size), [drawn(n, batch_size, Rows(rank, 2)) for rank in range(2)]
    assert parts == [whole[0::2], whole[1::2]]


# ---- through the commands, on the classifier of digits

FISHER = ["--config", "digits_classifier.yml", "--n-iters", "3", "--batch-size", "5"]


def command(mode: str, run: Path, *words: str) -> Path:
    return train.main(["--mode", mode, "--ckpt_folder", str(run), "--forget-class", "4", *words])


@pytest.fixture
def run(originals) -> Path:
    return originals["classifier"].run


def test_a_fisher_of_so_many_batches_says_so_and_its_mask_too(run):
    folder = command("generate_fisher", run, *FISHER, "--mask-path", "masks")
    assert folder == Path("masks/4")
    for side in ("forget", "remain"):
        _, made = load_tensors(folder / f"{side}_fisher.safetensors")
        assert (made["n"], made["n_iters"], made["batch_size"], made["cost"]["backward"]) == (15, 3, 5, 15)
        assert "mask_path" not in made
    (mask,) = generate_fisher_mask.main(["--ckpt_folder", str(folder), "--threshold", "1"])
    assert load_tensors(mask)[1]["n_iters"] == 3


def test_a_score_of_so_many_batches_says_so(run):
    folder = command("generate_mask", run, *FISHER, "--mask-path", "masks")
    score, made = load_tensors(folder / "score.safetensors")
    assert folder == Path("masks/4") and (made["n"], made["n_iters"]) == (15, 3)
    other = load_tensors(command("generate_mask", run, *FISHER[:2], "--n-iters", "4") / "score.safetensors")
    assert not cases.same(score, other[0])


def test_batches_are_drawn_once():
    words = ["--set", "fisher.draws=2", "--config", "digits_fisher.yml", "--n_iters", "3"]
    with pytest.raises(
        InputError, match=r"fisher\.n_iters: each batch is drawn once; fisher\.draws must be 1, it is 2"
    ):
        command("generate_fisher", Path("x"), *words)
    words = ["--set", "fisher={n_iters: 2}", "--config", "digits_classifier.yml"]
    with pytest.raises(InputError, match=r"fisher\.n_iters: has no meaning in mode fisher_forget"):
        command("fisher_forget", Path("x"), *words)


# ---- masks by folder


@pytest.fixture
def masks(run) -> Path:
    """masks/4 with two masks."""
    folder = command("generate_fisher", run, *FISHER, "--mask-path", "masks")
    generate_fisher_mask.main(["--ckpt_folder", str(folder), "--threshold", "1", "3"])
    return folder


def unlearned(run: Path, *words: str) -> dict:
    return cases.load_meta(command("sfron", run, "--config", "digits_classifier.yml", *cases.TOY, *words))


def test_a_folder_of_masks_is_as_good_as_the_mask(run, masks, capsys):
    file = unlearned(run, "--mask_path", "masks/4/fisher_3.0.safetensors")
    folder = unlearned(run, "--mask-path", "masks", "--threshold", "3")
    assert "--mask_path masks: taking masks/4/fisher_3.0.safetensors" in capsys.readouterr().out
    assert file["files"] == folder["files"]
    assert file["config"]["unlearn"] == folder["config"]["unlearn"]
    default = unlearned(run, "--mask-path", "masks/4")  # its own folder will do, and gamma is 1
    assert default["config"]["unlearn"]["mask_path"] == "masks/4/fisher_1.0.safetensors"


def test_published_names_in_a_folder(run, masks):
    mask = load_mask(masks / "fisher_1.0.safetensors", None, None)
    (masks / "fisher_1.0.safetensors").unlink()
    torch.save({n: m.long() for n, m in mask.items()}, masks / "fisher_1.pt")
    assert unlearned(run, "--mask-path", "masks")["config"]["unlearn"]["mask_path"] == "masks/4/fisher_1.pt"


@pytest.mark.parametrize(
    "words, line",
    [
        ("--mask_path masks --threshold 2", r"masks/4/fisher_2\.0\.safetensors: no such file \(--mask_path masks, "
         r"--threshold 2\.0\); there are fisher_1\.0\.safetensors, fisher_3\.0\.safetensors"),
        ("--mask_path .", r"fisher_1\.0\.safetensors: no such file \(--mask_path \., --threshold 1\.0\); there is no mask"),
        ("--mask_path masks/4/fisher_3.0.safetensors --threshold 3", "--mask_path masks/4/fisher_3.0.safetensors is a file"),
        ("--mask_path nowhere", r"nowhere: no such file \(--mask_path\)"),
        ("--threshold 3", r"unlearn\.threshold: chooses a mask from a folder; set --mask_path"),
        ("--mask_path masks --threshold -1", r"unlearn\.threshold: got -1"),
    ],
)  # fmt: skip
def test_what_is_not_in_the_folder_is_said_with_what_is(run, masks, words, line):
    with pytest.raises(InputError, match=line):
        unlearned(run, *words.split())
