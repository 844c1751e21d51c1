"""sample.py on DiTs: published flags, the autoencoder's place, one `.npz`, several runs on one picture."""

import json
import shutil
from pathlib import Path

import cases
import numpy as np
import pytest
import torch
from PIL import Image
from test_sample import files, pixels

import models
import sample
from functions.errors import InputError
from functions.files import read_json
from functions.sampling import npz, sheet, source, write
from functions.sampling.contract import check_complete, read_generation
from functions.sampling.folders import find_samples
from functions.storage import checkpoint
from models.encoders import encoder_meta


def make_run(folder="run", classes=10, seed=0, **changes):
    """A run folder with one snapshot of a random DiT of the toy autoencoder's latents."""
    kwargs = {"patch_size": 2, "hidden_size": 16, "depth": 1, "num_heads": 2}
    kwargs |= {"in_channels": 2, "image_size": 4, "n_classes": classes, "learned_variance": True}
    noise = {"timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "p_uncond": 0.1, "reduction": "mean"}
    meta = cases.meta() | {
        "world": "dit",
        "model": {"name": "dit", "kwargs": kwargs},
        "encoder": encoder_meta("latents", vae=str(cases.VAE)),
        "diffusion": {**noise, "learned_variance": True},
        "data": {
            "dataset": "digits",
            "n_classes": classes,
            "shape": [1, 8, 8],
            "classes": [f"c{k}" for k in range(classes)],
        },
        "forget": None,
        **changes,
    }
    torch.manual_seed(seed)
    weights = {name: t + 0.1 * torch.randn_like(t) for name, t in models.build(meta["model"]).state_dict().items()}
    checkpoint.save(folder, 1, {"raw": weights}, {}, meta, keep=3)
    return Path(folder)


def run(folder, mode, *more, n=2, vae=cases.VAE):
    few = [] if n is None else ["--n_samples_per_class", str(n)]
    words = ["--config", "dit.yml", "--set", "data={dataset: digits}", "--vae", str(vae), *few]
    return sample.main([*words, "--ckpt", str(folder), "--mode", mode, *more])


STEPS = ["--timesteps", "4"]
ALL_OF = {"count": None, "fraction": None, "index_file": None}  # a class forgotten as a whole
PUBLISHED = ["--sample-type", "learned_range", "--num-sampling-steps", "5", "--cfg-scale", "4.0", "--global-seed", "3"]


def test_published_flags_say_the_same_as_ours(capsys):
    words = ["--num-fid-samples", "6", "--per-proc-batch-size", "2", "--sample-dir", "samples", "--image-size", "8"]
    one = run(make_run(), "sample_classes", *PUBLISHED, *words, "--classes_to_generate", "c1,3,7", n=None)
    assert "--cfg_scale 4 means --cond_scale 3" in capsys.readouterr().out
    assert one == Path("samples/class_samples") and len(files(one)) == 7
    ours = ["--sample_type", "learned_range", "--timesteps", "5", "--cond_scale", "3", "--seed", "3"]
    two = run("run", "sample_classes", *ours, "--classes_to_generate", "1,3,7")
    assert read_json(one / "samples.json") == read_json(two / "samples.json")
    for name in set(files(one)) - {"samples.json"}:
        assert abs(pixels(one / name) - pixels(two / name)).max() <= 1


@pytest.mark.parametrize(
    "words, line",
    [
        (["--cfg_scale", "0.5"], "--cfg_scale: got '0.5'; wanted a finite number, 1 or more"),
        (["--cfg_scale", "4", "--cond_scale", "4"], "--cfg_scale 4.0 and --cond_scale 4.0: differ"),
        (["--num_fid_samples", "7"], r"--num_fid_samples: 7|--num_fid_samples and --n_samples_per_class"),
        (["--out", "a", "--sample_dir", "b"], "--out a and --sample_dir b: wanted one of them"),
        (["--beside", "run"], "--beside run: mode visualization alone draws several runs"),
        (["--image_size", "16"], "run: data.image_size: the checkpoint draws 8x8 pixels, the config says 16"),
        (["--guided_channels", "three"], "sampling.guided_channels: three, and the model draws 2"),
        (["--sample_type", "learned_range", "--timesteps", "1"], "learned_range takes 2 to 1000"),
        (["--seed", "1", "--global_seed", "2"], "--global_seed 2: both set seeds.seed, and differ"),
        (["--vae", "nowhere"], "nowhere: no config.json; wanted the folder of a diffusers AutoencoderKL"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(words, line):
    make_run()
    with pytest.raises(InputError, match=line):
        run("run", "sample_classes", *STEPS, *words)
    assert not Path("run/class_samples").exists()


def test_a_number_of_images_that_classes_cannot_share():
    make_run()
    with pytest.raises(InputError, match="--num_fid_samples 7: not the same number of 3 classes; 6 or 9 are"):
        run("run", "sample_classes", *STEPS, "--classes_to_generate", "1,3,7", "--num_fid_samples", "7", n=None)
    with pytest.raises(InputError, match="--npz: is for folders of samples"):
        run("run", "visualization", *STEPS, "--npz")


def test_the_autoencoder_may_lie_elsewhere_and_no_other_takes_its_place(tmp_path):
    make_run()
    shutil.copytree(cases.VAE, "moved")
    assert files(run("run", "sample_classes", *STEPS, "--classes_to_generate", "1", vae="moved"))
    weights = Path("moved/diffusion_pytorch_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")  # the last weight's exponent
    with pytest.raises(InputError, match="run: encoder: the checkpoint has .*--vae"):
        run("run", "sample_classes", *STEPS, "--classes_to_generate", "2", vae="moved")
    assert not Path("run/class_samples/2").exists()


# ---- one file


def test_npz_holds_what_the_folder_holds(monkeypatch):
    """Image 0 of every class first; its contract inside; the same bytes when it is written again; any batch."""
    monkeypatch.setattr(npz, "BATCH", 2)
    folder = run(make_run(), "sample_classes", *STEPS, "--classes_to_generate", "1,3,7", "--npz")
    path = Path("run/class_samples.npz")
    with np.load(path) as found:
        assert found["arr_0"].shape == (6, 8, 8, 1) and found["arr_0"].dtype == np.uint8
        assert found["arr_1"].tolist() == [1, 3, 7, 1, 3, 7]
        for image, c, k in zip(found["arr_0"], found["arr_1"], [0, 0, 0, 1, 1, 1]):
            assert (image[..., 0] == pixels(folder / f"{c}/{k}.png")).all()
    assert read_generation(path) == read_generation(folder)
    check_complete(path, find_samples(path).labels.tolist())
    with pytest.raises(InputError, match="1 images of class 7, samples.json says 2"):
        check_complete(path, [1, 3, 7, 1, 3])
    before = path.read_bytes()
    run("run", "sample_classes", *STEPS, "--classes_to_generate", "1,3,7", "--npz")
    assert path.read_bytes() == before
    run("run", "sample_classes", *STEPS, "--classes_to_generate", "2", "--npz")  # the folder has more, and so has it
    assert find_samples(path).labels.tolist() == [1, 2, 3, 7, 1, 2, 3, 7]


def test_npz_of_other_images_or_of_others_is_not_overwritten():
    make_run()
    one = ["--classes_to_generate", "1", "--npz", "--out", "a"]
    run("run", "sample_classes", *STEPS, *one)
    shutil.move("a", "away")
    with pytest.raises(InputError, match=r"a\.npz: is there, and is not of images made in this way"):
        run("run", "sample_classes", *STEPS, *one, "--seed", "1")
    np.savez("b.npz", np.zeros(3))
    with pytest.raises(InputError, match=r"b\.npz: is there"):
        run("run", "sample_classes", *STEPS, "--classes_to_generate", "1", "--npz", "--out", "b")
    assert not Path("a").exists() and not Path("b").exists()


def test_npz_waits_for_the_last_image_and_is_whole_or_absent(monkeypatch):
    folder = run(make_run(), "sample_classes", *STEPS, "--classes_to_generate", "1,3")
    (folder / "3/1.png").unlink()
    with pytest.raises(InputError, match="1 images of class 3, samples.json says 2"):
        npz.write(folder)
    run("run", "sample_classes", *STEPS, "--classes_to_generate", "1,3")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        npz.write(folder)
    assert not list(Path("run").glob("*.npz*")) and not list(Path("run").glob(".*"))


# ---- several runs on one picture


@pytest.fixture
def pages(monkeypatch):
    """The sides and rows of every page."""
    seen, draw = [], sheet.sheet
    monkeypatch.setattr(write.sheet, "sheet", lambda sides, rows: seen.append((sides, rows)) or draw(sides, rows))
    return seen


def test_runs_stand_beside_one_another_from_the_same_noise(pages):
    make_run()
    make_run("after", seed=1, mode="sfron", forget={"label": 7, **ALL_OF})
    make_run("again", seed=1, mode="sfron", forget={"label": 7, **ALL_OF})
    others = ["--beside", "after", "--beside", "again"]
    path = run("run", "visualization", *STEPS, *others, "--classes_to_generate", "3,7")
    (sides, rows), made = pages[0], json.loads(path.with_suffix(".json").read_text())
    assert list(sides) == ["original", "sfron after", "sfron again"]
    assert [(row.c, row.forgotten) for row in rows] == [(3, False), (7, True)]
    before, after, again = ([[np.asarray(i) for i in row] for row in side] for side in sides.values())
    assert np.array_equal(after, again) and not np.array_equal(before, after)
    own = run("after", "sample_classes", *STEPS, "--classes_to_generate", "7", "--cond_scale", "3")
    assert np.abs(after[1][1].astype(int) - pixels(own / "7/1.png")).max() <= 1  # the same images as in folders
    assert [made["record"]["checkpoint"], *(b["record"]["checkpoint"] for b in made["beside"])] == [
        cases.weights_hash(folder, "raw") for folder in ("run", "after", "again")
    ]
    with Image.open(path) as page:
        assert page.width > 3 * 2 * 64


def test_other_pictures_do_not_stand_beside_one_another():
    make_run()
    make_run("eleven", classes=11)
    with pytest.raises(InputError, match="--beside eleven: data.classes: "):
        run("run", "visualization", *STEPS, "--beside", "eleven")
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        run("run", "visualization", *STEPS, "--beside", "nowhere")


def test_of_many_classes_a_picture_shows_the_forgotten_ones_and_their_neighbours(pages):
    make_run(classes=50, forget={"label": 20, **ALL_OF}, mode="sfron")
    run("run", "visualization", "--timesteps", "1", n=1)
    assert [row.c for row in pages[0][1]] == [20, 19, 21, 18, 22, 17, 23, 16, 24, 15]
    assert [row.name for row in pages[0][1]][:2] == ["c20", "c19"]
    assert source.ROWS == 10
