"""`--ckpt` with a published file: read into a run folder once, by one process, whole or absent."""

import os
import shutil
import time
from pathlib import Path

import cases
import dits
import pytest
import torch
from processes import Process

import convert
import datasets
import fim
import models
import sample
import train
from functions.config.cli import run_main
from functions.config.load import load_config
from functions.errors import InputError
from functions.storage import checkpoint, imported
from functions.storage.checkpoint import Snapshot

IMPORTS = Path("results/digits/import")
SET = ["--set", dits.MODEL]
UNLEARN = ["--mode", "finetune", "--config", *cases.DIT, *cases.TOY, "--label_to_forget", "0"]


@pytest.fixture
def file():
    torch.save(dits.weights(), "DiT.pt")
    return "DiT.pt"


def unlearn(*more):
    return train.main([*UNLEARN, *more])


def test_a_file_is_where_unlearning_and_drawing_start(file, monkeypatch, capsys):
    run = unlearn("--ckpt", file, *SET)
    (folder,) = IMPORTS.iterdir()
    assert folder.name.startswith("DiT_") and f"DiT.pt: read as {folder}\n" in capsys.readouterr().out
    assert cases.same(cases.weights(folder), dits.weights())
    assert cases.load_meta(run)["source"] == cases.weights_hash(folder, "raw")
    assert cases.load_meta(folder)["source"] == checkpoint.sha256_file(file)
    assert cases.load_meta(folder)["forget"] is None and cases.load_meta(folder)["config"]["unlearn"] is None
    # once: from here on the file is not even hashed; nor need its model be named again
    monkeypatch.setattr(imported, "sha256_file", None)
    draw = ["--classes_to_generate", "3", "--n_samples_per_class", "1", "--timesteps", "2"]
    drawn = sample.main(["--mode", "sample_classes", "--config", *cases.DIT, "--ckpt", file, *draw])
    assert drawn == folder / "class_samples" and (drawn / "3" / "0.png").is_file()
    assert list(IMPORTS.iterdir()) == [folder]
    # and it is the run that the folder would have started
    assert cases.stats(run) == cases.stats(unlearn("--ckpt_folder", str(folder)))
    with pytest.raises(InputError, match="--resume .*began with another mode: import"):
        cases.pretrain("dit", "--resume", str(folder))


def test_a_run_from_a_file_goes_on(file):
    run = unlearn("--ckpt", file, *SET)
    more = ["--mode", "finetune", "--resume", str(run), "--set", "training.n_iters=6"]
    assert train.main(more) == run and len(cases.stats(run)) == 6
    again = [*UNLEARN, "--ckpt", file, *SET, "--resume", str(run), "--set", "training.n_iters=7"]
    assert train.main(again) == run and len(cases.stats(run)) == 7


def named(file, *more):
    """The run folder that a file is read as, without a run."""
    settings = [word for word in (*cases.DIT[1:], *SET, *more) if word != "--set"]
    cfg = load_config(cases.DIT[0], "finetune", (), settings, {"ckpt_folder": str(file), "label_to_forget": 0})
    with imported.started_from(cfg, datasets, models, False) as found:
        return Path(found.ckpt_folder)


def test_what_is_another_file_or_config_has_a_folder_of_its_own(file):
    first = named(file)
    Path("elsewhere").mkdir()
    shutil.copy(file, "elsewhere/DiT.pt")
    assert named("elsewhere/DiT.pt") == first  # the same bytes
    other = named(file, "--set", "diffusion.p_uncond=0.2")
    torch.save(dits.weights(1), file)
    third = named(file)
    assert len({first, other, third}) == 3 and sorted(IMPORTS.iterdir()) == sorted({first, other, third})
    assert cases.same(cases.weights(third), dits.weights(1)) and cases.load_meta(other)["diffusion"]["p_uncond"] == 0.2
    # moved, the autoencoder is the same by its hash
    shutil.copytree(cases.VAE, "vae")
    assert named(file, "--set", "encoder={name: latents, vae: vae}") == third


def test_run_folders_and_diffusers_folders():
    run = dits.make_run("run")
    assert named(run) == run and not IMPORTS.exists()
    theirs = convert.main([str(run), "--export", "diffusers", "--weights", "raw", "--out", "theirs"])
    for place in (theirs, theirs / "transformer"):
        assert cases.same(cases.weights(named(place)), cases.weights(run))
    assert [p.name.split("_")[0] for p in IMPORTS.iterdir()] == ["theirs"]


def test_what_fails_or_is_stopped_leaves_nothing(file, monkeypatch):
    for failure in (OSError(28, "No space left on device", "x"), KeyboardInterrupt()):
        with monkeypatch.context() as patch, pytest.raises(type(failure)):
            patch.setattr(checkpoint, "write_json", lambda *_, failure=failure: (_ for _ in ()).throw(failure))
            unlearn("--ckpt", file, *SET)
        assert not Path("results").exists()
    # what a kill leaves is no run folder, and gone after the next command
    left = IMPORTS / ".DiT_0123abcd.17-0123.partial" / "logs"
    left.mkdir(parents=True)
    assert named(file).is_dir() and not left.parent.exists()


def test_a_dry_run_touches_nothing(file, capsys):
    before = sorted(os.listdir())
    assert unlearn("--ckpt", file, *SET, "--dry_run") is None
    assert sorted(os.listdir()) == before and "read as" in capsys.readouterr().out
    named(file)
    unlearn("--ckpt", file, *SET, "--dry_run")
    assert len(list(IMPORTS.iterdir())) == 1


def read(path: str, out: str) -> None:
    """What two processes do at once; the first to write takes its time."""
    save = imported.checkpoint.save

    def slowly(*args, **kwargs):
        Path(out).touch()
        time.sleep(0.5)
        return save(*args, **kwargs)

    imported.checkpoint.save = slowly
    named(path)


def test_two_processes_read_it_once(file, tmp_path):
    outs = [str(tmp_path / f"wrote{i}") for i in range(2)]
    both = [Process(read, (file, out), tmp_path, f"reader{i}", {}) for i, out in enumerate(outs)]
    for process in both:
        process.wait()
    assert len(list(IMPORTS.iterdir())) == 1 and sum(map(os.path.exists, outs)) == 1
    assert cases.same(cases.weights(named(file)), dits.weights())


def test_without_a_checkpoint_there_is_no_random_network(file):
    url = r"--ckpt: a run folder, or a published file such as https://\S*/DiT-XL-2-256x256\.pt"
    for main, argv in (
        (train.main, UNLEARN),
        (train.main, ["--mode", "generate_fisher", "--config", *cases.DIT, "--label_to_forget", "0"]),
        (sample.main, ["--mode", "sample_fid", "--config", *cases.DIT]),
        (fim.main, ["--config", *cases.DIT]),
    ):
        with pytest.raises(InputError, match=f"ckpt_folder: missing.*{url}"):
            main(argv)
    with pytest.raises(InputError, match=r"nowhere\.pt: no such file or folder \(--ckpt\).*https://"):
        unlearn("--ckpt", "nowhere.pt")
    with pytest.raises(
        InputError,
        match=r"shapes do not say how many heads; wanted --set 'model=\{name: dit, patch_size: 2, hidden_size: 48, depth: 3, num_heads: N\}'",
    ):
        unlearn("--ckpt", file)
    with pytest.raises(InputError, match="DiT.pt could be a DiT's: --config dit_xl2_imagenet.yml"):
        train.main(["--mode", "finetune", "--ckpt", file, "--label_to_forget", "0"])
    assert not Path("results").exists()


def test_a_damaged_import_is_no_model(file):
    folder = named(file)
    for name in ("meta.json", "model.safetensors"):
        path = Snapshot.open(folder).path / name
        data = path.read_bytes()
        path.write_bytes(data[:-30] + bytes([data[-30] ^ 1]) + data[-29:])
        with pytest.raises(InputError, match=rf"{name}.*damaged"):
            unlearn("--ckpt", file, *SET)
        path.write_bytes(data)
    origin = folder / "logs" / "origin.json"
    origin.write_text(origin.read_text().replace("DiT.pt", "DiT.px"))
    with pytest.raises(InputError, match="origin.json.*damaged"):
        unlearn("--ckpt", file, *SET)


def test_at_the_shell_it_is_one_line(file, monkeypatch, capsys):
    Path(file).write_bytes(Path(file).read_bytes()[:5000])
    monkeypatch.setattr("sys.argv", ["train.py"])
    assert run_main(lambda _: unlearn("--ckpt", file)) == 2
    assert "DiT.pt: damaged or not a file of torch.save" in capsys.readouterr().err and not Path("results").exists()
