"""The commands of the first published README, verbatim in form, on digits at toy size; and with the cifar10 configs up to
the point where CIFAR-10 itself is needed. Rows of docs/command_map.md name these tests."""

import re
import shlex
import shutil
import urllib.error
from pathlib import Path

import cases
import pytest

import classifier_evaluation
import convert
import encode_dataset
import evaluate
import evaluator
import fim
import generate_fisher_mask
import sample
import save_base_dataset
import train
import train_classifier
from functions.config.cli import config_flags
from functions.config.load import load_config
from functions.config.names import UNLEARN_ALIAS
from functions.config.sampling_arguments import flags_of
from functions.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    m.__name__: m
    for m in (
        train,
        fim,
        generate_fisher_mask,
        sample,
        save_base_dataset,
        evaluator,
        convert,
        train_classifier,
        classifier_evaluation,
        evaluate,
        encode_dataset,
    )
}
MODE_OF = {"sample": "sample", "fim": "fim", "convert": "pretrain", "encode_dataset": "encode"}  # train.py says --mode
SMALL = " --set model.ch=8 " + shlex.join(cases.TOY)
TOY = shlex.join(cases.TOY)


def run(command: str):
    """A shell command of the README, in this process."""
    python, script, *argv = shlex.split(command)
    assert python == "python"
    return SCRIPTS[script.removesuffix(".py")].main(argv)


def test_pretrain():
    folder = run("python train.py --config digits_pretrain.yml --mode pretrain" + SMALL)
    assert re.fullmatch(r"results/digits/pretrain/\d{4}_\d\d_\d\d_\d{6}", str(folder))


def test_retrain():
    folder = run("python train.py --config digits_pretrain.yml --mode retrain --label_to_forget 0" + SMALL)
    assert re.fullmatch(r"results/digits/retrain/\d{4}_\d\d_\d\d_\d{6}", str(folder))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """(working directory, run folder relative to it)."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cases.small_configs(patch)  # a Fisher of 1000 timesteps takes as long as everything else here
        yield folder, run("python train.py --config digits_pretrain.yml --mode pretrain" + SMALL)


def test_sfron_pipeline(pretrained, monkeypatch, capsys):
    folder, ckpt_path = pretrained
    monkeypatch.chdir(folder)
    masks = run(
        f"python train.py --config digits_fisher.yml --ckpt_folder {ckpt_path} --label_to_forget 0 --mode generate_fisher"
        " --set fisher.draws=1"
    )
    assert masks == ckpt_path / "mask_0"
    run(f"python generate_fisher_mask.py --ckpt_folder {ckpt_path}/mask_0 --threshold 1.0")
    assert "of the weights are salient" in capsys.readouterr().out
    mask_path = f"{ckpt_path}/mask_0/fisher_1.0.safetensors"
    out = run(f"""python train.py --config digits_sfron.yml \
      --ckpt_folder {ckpt_path} --label_to_forget 0 --mode sfron \
      --forget_alpha 10.0 --decay_forget_alpha --remain_alpha 1.0 \
      --method ron --unlearn_loss adaga --mask_path {mask_path} {TOY}""")
    assert re.fullmatch(r"results/digits/forget_0/sfron/\d{4}_\d\d_\d\d_\d{6}", str(out))


def test_selective_amnesia_pipeline(pretrained, monkeypatch):
    folder, ckpt_path = pretrained
    monkeypatch.chdir(folder)
    run(
        f"python sample.py --config digits_sample.yml --ckpt_folder {ckpt_path} --mode sample_classes --n_samples_per_class 2 "
        "--timesteps 2"
    )
    assert sorted(int(p.name) for p in (ckpt_path / "class_samples").iterdir() if p.is_dir()) == list(range(10))
    run(f"python fim.py --config digits_fim.yml --ckpt_folder {ckpt_path} --n_chunks 20 --set fim.per_class=1")
    assert (ckpt_path / "fisher_dict.pkl").is_file()
    out = run(
        f"python train.py --config digits_baselines.yml --ckpt_folder {ckpt_path} --label_to_forget 0 --mode sa {TOY}"
    )
    assert re.fullmatch(r"results/digits/forget_0/sa/\d{4}_\d\d_\d\d_\d{6}", str(out))
    shutil.rmtree(ckpt_path / "class_samples")  # other tests draw other samples there


def test_salun_pipeline(pretrained, monkeypatch, capsys):
    folder, ckpt_path = pretrained
    monkeypatch.chdir(folder)
    masks = run(
        f"python train.py --config digits_saliency_unlearn.yml --ckpt_folder {ckpt_path} --label_to_forget 0 --mode generate_mask"
    )
    assert str(masks) == "results/digits/mask/0"
    mask_name = "0/with_0.5.safetensors"
    out = run(
        f"python train.py --config digits_saliency_unlearn.yml --ckpt_folder {ckpt_path} --label_to_forget 0 --mode salun "
        f"--mask_path results/digits/mask/{mask_name} --remain_alpha 1e-3 --unlearn_loss rl {TOY}"
    )
    assert re.fullmatch(r"results/digits/forget_0/salun/\d{4}_\d\d_\d\d_\d{6}", str(out))
    assert "rl means 'match'" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["finetune", "ga", "esd", "erasediff"])
def test_other_baselines(pretrained, monkeypatch, mode):
    folder, ckpt_path = pretrained
    monkeypatch.chdir(folder)
    out = run(
        f"python train.py --config digits_baselines.yml --ckpt_folder {ckpt_path} --label_to_forget 0 --mode {mode} {TOY}"
    )
    assert out.parent == Path(f"results/digits/forget_0/{mode}")


def test_sampling_and_judging(pretrained, monkeypatch, capsys):
    folder, ckpt_path = pretrained
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))  # no Inception weights there
    quick = " --timesteps 2"
    run(
        f"python sample.py --config digits_sample.yml --ckpt_folder {ckpt_path} --mode sample_fid --n_samples_per_class 8 "
        f"--classes_to_generate 'x0' {quick}"
    )
    samples = ckpt_path / "fid_samples_without_label_0_guidance_2.0"
    assert sorted(p.name for p in samples.iterdir() if p.is_dir()) == [str(c) for c in range(1, 10)]
    # the same images: nothing to do
    run(
        f"python sample.py --config digits_sample.yml --ckpt_folder {ckpt_path} --mode sample_fid --n_samples_per_class 8 "
        f"--classes_to_generate '1,2,3,4,5,6,7,8,9' {quick}"
    )
    assert "0 images to draw" in capsys.readouterr().out
    run("python save_base_dataset.py --dataset digits --label_to_forget 0 --per_class 8")
    assert len(list(Path("digits_without_label_0").rglob("*.png"))) == 72
    run("python train_classifier.py --dataset digits --epochs 1")
    assert Path("digits_cnn.pth").exists()
    run(f"python evaluator.py {samples} digits_without_label_0 --features classifier:digits_cnn.pth")
    out = capsys.readouterr().out
    assert re.findall(r"^(Inception Score|FID|Precision|Recall|KID)\[classifier\]: -?\d", out, re.M) == [
        "Inception Score",
        "FID",
        "Precision",
        "Recall",
        "KID",
    ]
    with pytest.raises(ValueError, match="--features inception"):
        run(f"python evaluator.py {samples} digits_without_label_0")
    run(
        f'python sample.py --config digits_sample.yml --ckpt_folder {ckpt_path} --mode sample_classes --classes_to_generate "0" '
        f"--n_samples_per_class 5 {quick}"
    )
    run(
        f"python classifier_evaluation.py --sample_path {ckpt_path}/class_samples/0 --dataset digits --label_of_forgotten_class 0"
    )
    lines = capsys.readouterr().out
    assert re.search(
        r"^Classifier evaluation:\nAverage entropy: \d\S*\nAverage prob of forgotten class: \d", lines, re.M
    )


# ---- with the cifar10 configs, up to the download


@pytest.fixture
def offline(monkeypatch):
    import torchvision

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision.datasets.utils, "urlretrieve", no_network, raising=False)
    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", no_network)


@pytest.mark.parametrize(
    "command",
    [
        "python train.py --config cifar10_pretrain.yml --mode pretrain",
        "python train.py --config cifar10_pretrain.yml --mode retrain --label_to_forget 0",
        "python train.py --config cifar10_fisher.yml --ckpt_folder results/x --label_to_forget 0 --mode generate_fisher",
        "python train.py --config cifar10_sfron.yml --ckpt_folder results/x --label_to_forget 0 --mode sfron --forget_alpha 10.0 "
        "--decay_forget_alpha --remain_alpha 1.0 --method ron --unlearn_loss adaga --mask_path results/mask",
        "python fim.py --config cifar10_fim.yml --ckpt_folder results/x --n_chunks 20",
        "python train.py --config cifar10_sa.yml --ckpt_folder results/x --label_to_forget 0 --mode sa",
        "python train.py --config cifar10_saliency_unlearn.yml --ckpt_folder results/x --label_to_forget 0 --mode generate_mask",
        "python train.py --config cifar10_saliency_unlearn.yml --ckpt_folder results/x --label_to_forget 0 --mode salun "
        "--mask_path results/cifar10/mask/0/with_0.5.safetensors --remain_alpha 1e-3 --unlearn_loss rl",
        "python train.py --config cifar10_esd.yml --ckpt_folder results/x --label_to_forget 0 --mode esd",
        "python train.py --config cifar10_erasediff.yml --ckpt_folder results/x --label_to_forget 0 --mode erasediff",
        "python save_base_dataset.py --dataset cifar10 --label_to_forget 0",
        "python train_classifier.py --dataset cifar10 --no-pretrained",
    ],
)
def test_cifar10_commands_say_how_to_get_the_data(command, offline):
    with pytest.raises(ValueError, match=r"cifar10 is not in data .*cifar-10-python\.tar\.gz there") as caught:
        run(command)
    assert isinstance(caught.value, InputError) and "\n" not in str(caught.value)


def test_cifar10_sampling_needs_no_data_but_a_checkpoint():
    with pytest.raises(ValueError, match="results/x: no such folder"):
        run(
            "python sample.py --config cifar10_sample.yml --ckpt_folder results/x --mode sample_fid --n_samples_per_class 5000 "
            "--classes_to_generate 'x0'"
        )


# ---- our own documents


def test_every_row_of_the_command_map_names_a_test_that_exists():
    rows = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "command_map.md").read_text())
    assert len(rows) >= 12
    for file, name in rows:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"


def commands(document: str) -> list[list[str]]:
    """The shell commands in the fenced blocks of a document, continuation lines joined."""
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("python ", "bash "))]


@pytest.mark.parametrize("document", ["README.md", "docs/guide.md"])
def test_commands_in_the_readme_parse_and_name_files_that_exist(document):
    found = commands(document)
    assert len(found) >= 8
    for program, script, *argv in found:
        assert (ROOT / script).is_file(), script
        if program == "bash":
            continue
        module = SCRIPTS[script.removesuffix(".py")]
        parser = module.parser() if hasattr(module, "parser") else None
        args = parser.parse_args(argv) if parser else module.parse(argv)
        if module is train and args.resume:  # the run knows the rest
            continue
        if module is train and args.unlearn:
            args.mode = UNLEARN_ALIAS.get(args.unlearn, args.unlearn)
        if module is train and args.dataset is None and args.config is None:
            args.dataset = "digits"  # of the model that --model_path names
        if module is train:
            args.config = train.config_name(args)
        if getattr(args, "config", None):
            mode = MODE_OF.get(module.__name__) or args.mode
            flags = flags_of(args) if module is sample else config_flags(args, getattr(module, "FLAGS", []))
            load_config(args.config, mode, getattr(args, "overlay", None), args.set, flags)


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 250
    for document in ("README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))):
        links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text())
        assert not [link for link in links if not (ROOT / document).parent.joinpath(link).exists()], document
