"""sample.py: names, contracts, resume, refusals, on a toy checkpoint."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import cases
import numpy as np
import pytest
import torch
from PIL import Image

import models
import sample
from functions.errors import InputError
from functions.sampling import samplers, sheet
from functions.sampling import write as sample_writing
from functions.sampling.source import Source
from functions.storage import checkpoint

ROOT = Path(__file__).resolve().parents[2]
FEW = ["--n_samples_per_class", "2", "--timesteps", "4", "--set", "sampling.batch_size=3"]


def make_run(folder="run", step=1, kinds=("raw", "ema"), channels=1, **changes):
    """A run folder with one snapshot of a random toy U-Net; `ema` differs from `raw`."""
    kwargs = {
        "ch": 8,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [4],
        "image_size": 8,
        "dropout": 0.5,
        "in_channels": channels,
        "out_ch": channels,
        "n_classes": 10,
    }
    meta = cases.meta() | {
        "world": "ddpm",
        "model": {"name": "unet", "kwargs": kwargs},
        "diffusion": {"timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "p_uncond": 0.1, "reduction": "sum"},
        "data": {"dataset": "digits", "n_classes": 10, "shape": [channels, 8, 8], "classes": list("0123456789")},
        "forget": None,
        **changes,
    }
    torch.manual_seed(step)
    weights = {kind: models.build(meta["model"]).state_dict() for kind in kinds}
    checkpoint.save(folder, step, weights, {}, meta, keep=3)
    return Path(folder)


def run(folder, mode, *more, few=FEW):
    return sample.main(["--config", "digits_sample.yml", "--ckpt_folder", str(folder), "--mode", mode, *few, *more])


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def pixels(path):
    with Image.open(path) as image:
        return np.array(image).astype(int)


@pytest.mark.parametrize(
    "asked, name",
    [
        (["--classes_to_generate", "x0"], "fid_samples_without_label_0_guidance_2.0"),
        (["--classes_to_generate", "1,2,3,4,5,6,7,8,9"], "fid_samples_without_label_0_guidance_2.0"),
        (["--classes_to_generate", "x1,x0"], "fid_samples_without_label_0_1_guidance_2.0"),
        ([], "fid_samples_guidance_2.0"),
        (["--classes_to_generate", "3, 1", "--cond_scale", "0"], "fid_samples_only_label_1_3_guidance_0.0"),
    ],
)
def test_sample_fid_is_named_after_the_classes_made(asked, name):
    folder = run(make_run(), "sample_fid", *asked)
    assert folder == Path("run", name)
    classes = json.loads((folder / "samples.json").read_text())["record"]["classes"]
    assert files(folder) == sorted([f"{c}/{k}.png" for c in classes for k in range(2)] + ["samples.json"])
    assert len(classes) == (10 if not asked else 8 if "x1,x0" in asked else 2 if "3, 1" in asked else 9)


def test_sample_classes_collects_classes_in_one_folder():
    make_run()
    assert run("run", "sample_classes", "--classes_to_generate", "0") == Path("run/class_samples")
    run("run", "sample_classes", "--classes_to_generate", "4,2")
    assert files("run/class_samples") == [f"{c}/{k}.png" for c in (0, 2, 4) for k in range(2)] + ["samples.json"]
    made = json.loads(Path("run/class_samples/samples.json").read_text())
    assert made["record"]["classes"] == [0, 2, 4]
    assert made["protocol"] == {
        "sampler": "dpm_solver",
        "steps": 4,
        "eta": None,
        "skip_type": None,
        "guidance": 2.0,
        "weights": "auto",
        "n_per_class": 2,
        "range": "clamp",
        "train_mode": False,
    }
    assert made["record"].pop("version").startswith("0.")
    assert made["record"] == {
        "seed": 0,
        "weights": "ema",
        "checkpoint": cases.weights_hash("run", "ema"),
        "step": 1,
        "dataset": "digits",
        "classes": [0, 2, 4],
        "names": list("0123456789"),
    }


def test_pngs_are_what_the_sampler_gives_and_do_not_depend_on_the_batch():
    make_run()
    asked = ["--seed", "5", "--weights", "raw"]
    folder = run("run", "sample_classes", "--classes_to_generate", "3,7", *asked)
    other = run(make_run("again"), "sample_classes", *asked, "--set", "sampling.batch_size=50")
    meta = cases.load_meta("run")
    unet = models.build(meta["model"])
    unet.load_state_dict(cases.load_weights("run", "raw"))
    cfg = sample.config.load_config("digits_sample.yml", "sample", flags={"ckpt_folder": "run", "timesteps": 4})
    task, _ = Source.open(cfg, models).load(cfg, models)
    images = samplers.generate(task, unet, [3, 3, 7, 7], [0, 1, 0, 1], (1, 8, 8), cfg.sampling, seed=5)
    for (c, k), wanted in zip([(3, 0), (3, 1), (7, 0), (7, 1)], images):
        grey = pixels(folder / f"{c}/{k}.png")
        assert grey.shape == (8, 8)
        assert abs(grey - (wanted[0].numpy() * 255)).max() <= 1.5
        assert abs(grey - pixels(other / f"{c}/{k}.png")).max() <= 1
    assert abs(pixels(folder / "3/0.png") - pixels(folder / "7/0.png")).max() > 10


def test_weights_auto_takes_the_ema_where_there_is_one():
    make_run()
    make_run("raw_only", kinds=("raw",))
    one = ["--classes_to_generate", "0"]
    auto = pixels(run("run", "sample_classes", *one) / "0/0.png")
    ema = pixels(run(make_run("b"), "sample_classes", *one, "--weights", "ema") / "0/0.png")
    raw = pixels(run(make_run("c"), "sample_classes", *one, "--weights", "raw") / "0/0.png")
    assert (auto == ema).all() and not (auto == raw).all()
    folder = run("raw_only", "sample_classes", *one)
    assert json.loads((folder / "samples.json").read_text())["record"]["weights"] == "raw"
    with pytest.raises(InputError, match="no ema weights"):
        run("raw_only", "sample_classes", *one, "--weights", "ema")


def test_resume_draws_exactly_what_is_missing(monkeypatch):
    folder = run(make_run(), "sample_fid", "--classes_to_generate", "1,2")
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    (folder / "1/1.png").unlink()
    (folder / "2/0.png").unlink()
    (folder / "2/.0.png.partial").write_bytes(b"half a picture of a killed run")
    kept = (folder / "1/0.png").stat().st_mtime_ns
    drawn, generate = [], samplers.generate

    def spy(task, model, labels, indices, *more):
        drawn.extend(zip(labels, indices))
        return generate(task, model, labels, indices, *more)

    monkeypatch.setattr(samplers, "generate", spy)
    run("run", "sample_fid", "--classes_to_generate", "1,2")
    assert drawn == [(1, 1), (2, 0)]
    assert (folder / "1/0.png").stat().st_mtime_ns == kept
    assert files(folder) == sorted(before)
    for name in set(before) - {"samples.json"}:
        assert abs(pixels(folder / name) - pixels_of(before[name])).max() <= 1
    drawn.clear()
    state = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    run("run", "sample_fid", "--classes_to_generate", "1,2")  # finished: nothing is touched
    assert not drawn and state == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def pixels_of(data):
    Path("old.png").write_bytes(data)
    return pixels("old.png")


@pytest.mark.parametrize(
    "more, words",
    [
        (["--timesteps", "5"], "steps 4, this command asks for steps 5"),
        (["--n_samples_per_class", "3"], "n_per_class 2, this command asks for n_per_class 3"),
        (["--seed", "1"], "seed 0, this command asks for seed 1"),
        (["--cond_scale", "1"], "guidance 2.0, this command asks for guidance 1.0"),
        (["--minmax"], "range clamp, this command asks for range minmax"),
        (["--weights", "raw"], "weights auto, this command asks for weights raw"),
        (["--sample_type", "generalized"], "sampler dpm_solver, this command asks for sampler generalized"),
    ],
)
def test_a_folder_made_another_way_is_refused(more, words):
    folder = run(make_run(), "sample_classes", "--classes_to_generate", "0")
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    with pytest.raises(InputError, match=f"{words}: move the folder away"):
        run("run", "sample_classes", "--classes_to_generate", "0,1", *more)
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_newer_snapshot_does_not_mix_with_the_samples_of_an_older_one():
    run(make_run(), "sample_classes", "--classes_to_generate", "0")
    make_run(step=2)
    with pytest.raises(InputError, match=r"checkpoint .* this command asks for checkpoint"):
        run("run", "sample_classes", "--classes_to_generate", "1")


def test_a_folder_of_unknown_images_is_refused():
    folder = make_run() / "class_samples" / "0"
    folder.mkdir(parents=True)
    Image.new("L", (8, 8)).save(folder / "0.png")
    with pytest.raises(InputError, match=r"class_samples: holds images but no samples.json"):
        run("run", "sample_classes")
    assert files("run/class_samples") == ["0/0.png"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("x01", r"no class 01, there are 0 to 9 \(did you mean x0,x1\?\)"),
        ("x99", "no class 99, there are 0 to 9$"),
        ("10", r"no class 10, there are 0 to 9 \(did you mean 1,0\?\)"),
        ("x0,1", "wanted classes"),
        ("cat", "wanted classes"),
        ("", "wanted classes"),
        ("-1", "wanted classes"),
        (",".join(f"x{c}" for c in range(10)), "leaves no class"),
    ],
)
def test_bad_classes(text, words):
    make_run()
    before = files("run")
    with pytest.raises(InputError, match=words):
        run("run", "sample_fid", f"--classes_to_generate={text}")
    assert files("run") == before


def test_good_classes():
    assert sample.parse_classes(None, 3) == [0, 1, 2]
    assert sample.parse_classes("2,0,2", 3) == [0, 2]
    assert sample.parse_classes("x2, x0", 3) == [1]
    assert sample.parse_classes("x10", 11) == list(range(10))


@pytest.mark.parametrize(
    "changes, more, words",
    [
        ({"world": "classifier", "diffusion": None}, [], "a checkpoint of world classifier"),
        ({"data": {**cases.meta()["data"], "dataset": "shapes"}}, [], "has shapes, the config digits"),
        ({}, ["--set", "diffusion.timesteps=500"], "diffusion: the checkpoint has"),
        ({}, ["--eta", "0.5"], "only sample_type generalized has one"),
        ({}, ["--sample_type", "generalized", "--timesteps", "30"], "nearest that do: 25 and 40"),
        ({}, ["--timesteps", "0"], "sampling.timesteps: got 0"),
        ({}, ["--set", "sampling.tmesteps=3"], "did you mean 'timesteps'"),
    ],
)
def test_other_bad_input(changes, more, words):
    make_run(**changes)
    before = files("run")
    with pytest.raises(InputError, match=words):
        run("run", "sample_fid", *more)
    assert files("run") == before


def test_missing_and_damaged_checkpoints():
    with pytest.raises(InputError, match="nowhere: no such folder"):
        run("nowhere", "sample_fid")
    model = next(make_run().rglob("ema.safetensors"))
    model.write_bytes(model.read_bytes()[:1000])
    before = files("run")
    with pytest.raises(InputError, match="damaged"):
        run("run", "sample_fid")
    assert files("run") == before


def test_out_names_the_place_and_changes_nothing_else():
    make_run()
    named, elsewhere = run("run", "sample_classes"), run("run", "sample_classes", "--out", "there/samples")
    assert elsewhere == Path("there/samples") and files(named) == files(elsewhere)
    assert all((named / f).read_bytes() == (elsewhere / f).read_bytes() for f in files(named))
    assert run("run", "visualization", "--out", "look.png") == Path("look.png") and Path("look.png").is_file()
    for mode, out in (("visualization", "folder"), ("sample_fid", "x.png")):
        with pytest.raises(InputError, match=rf"--out {out}: mode visualization writes a \.png, the others a folder"):
            run("run", mode, "--out", out)


def test_visualization_is_one_picture_with_a_row_per_class(monkeypatch):
    pages, draw = [], sheet.sheet
    monkeypatch.setattr(sheet, "sheet", lambda *args: pages.append(args) or draw(*args))
    path = run(make_run(channels=3), "visualization", "--classes_to_generate", "x0,x9")
    assert path == Path("run/visualization_without_label_0_9_guidance_2.0.png")
    ((sides, rows),) = pages
    ((title, images),) = sides.items()
    assert "guidance 2" in title and [row.c for row in rows] == list(range(1, 9)) and len(images) == 8
    folder = run("run", "sample_classes", "--classes_to_generate", "2")
    for k in range(2):  # class 2 is the second row
        assert abs(np.asarray(images[1][k], dtype=int) - pixels(folder / f"2/{k}.png")).max() <= 1
    assert pixels(path).shape[0] > 8 * 64
    assert json.loads(path.with_suffix(".json").read_text())["record"]["classes"] == list(range(1, 9))
    path = run("run", "visualization", few=["--timesteps", "2"])  # the config's 100 a class would be no picture
    assert [len(row) for row in pages[-1][0].popitem()[1]] == 10 * [10]


def test_uint8_and_minmax():
    x = torch.tensor([[0.2, 0.4], [0.5, 0.2]]).view(1, 1, 2, 2)
    assert sample_writing.to_uint8(x, minmax=False).flatten().tolist() == [51, 102, 128, 51]  # 255 x, to even
    assert sample_writing.to_uint8(x, minmax=True).flatten().tolist() == [0, 170, 255, 0]  # (x - 0.2) / 0.3 x 255
    two = sample_writing.to_uint8(torch.cat([x, x / 2]), minmax=True)  # each by its own extremes
    assert (two[0] == two[1]).all()
    assert sample_writing.to_uint8(torch.full((1, 3, 2, 2), 0.5), minmax=True).unique().tolist() == [0]


def test_a_png_is_whole_or_absent(monkeypatch):
    """While the writer is in the middle of the file, only the temporary name exists."""
    half, go = threading.Event(), threading.Event()

    def slow_save(self, path, format):
        path.write_bytes(b"half")
        half.set()
        go.wait(10)
        path.write_bytes(b"whole")

    monkeypatch.setattr(Image.Image, "save", slow_save)
    writer = threading.Thread(target=sample_writing.save_png, args=(Path("0.png"), np.zeros((1, 8, 8), np.uint8)))
    writer.start()
    assert half.wait(10)
    assert not Path("0.png").exists() and not list(Path().glob("*.png"))
    go.set()
    writer.join()
    assert Path("0.png").read_bytes() == b"whole" and files(".") == ["0.png"]


@pytest.mark.parametrize("batch_size", [3, 50])
def test_a_failed_write_is_an_error(batch_size, monkeypatch):
    make_run()

    def full(self, path, format):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run("run", "sample_fid", "--set", f"sampling.batch_size={batch_size}")
    assert files("run/fid_samples_guidance_2.0") == ["samples.json"]


def test_dry_run_touches_nothing(capsys):
    make_run()
    before = files(".")
    assert run("run", "sample_fid", "--dry_run", "--classes_to_generate", "x3") is None
    said = capsys.readouterr().out
    assert "sample_type: dpm_solver" in said
    assert "would write: 18 images of 1x8x8 to run/fid_samples_without_label_3_guidance_2.0" in said
    assert files(".") == before


def test_published_overlay_samples_with_dropout():
    folder = run(make_run(), "sample_classes", "--classes_to_generate", "0", "--overlay", "as_published.yml")
    made = json.loads((folder / "samples.json").read_text())["protocol"]
    assert made["train_mode"] is True and made["range"] == "minmax"
    make_run("again")
    torch.rand(7)  # whatever happened before in this process
    again = run("again", "sample_classes", "--classes_to_generate", "0", "--overlay", "as_published.yml")
    assert (pixels(folder / "0/0.png") == pixels(again / "0/0.png")).all()  # runs repeat, batches don't
    assert pixels(folder / "0/0.png").min() == 0 and pixels(folder / "0/0.png").max() == 255


def test_a_real_process_says_one_line(tmp_path):
    """Exit code 2 and one line for bad input; --help comes at once, because it does without torch."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "sample.py")]
    options = {"env": env, "capture_output": True, "text": True}
    bad = subprocess.run([*command, "--config", "digits_sampl.yml", "--mode", "sample_fid"], **options)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and "digits_sample.yml" in bad.stderr
    shown = subprocess.run([*command, "--help"], **options, check=True).stdout
    assert "fid_samples_without_label_0_guidance_2.0" in shown
    code = "import sys, sample; sample.parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env).returncode == 0
