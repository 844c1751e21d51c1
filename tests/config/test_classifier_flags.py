"""The published flags reach the keys they should; configs of classifiers hold the published constants."""

from pathlib import Path

import cases
import pytest
import yaml

import train
from functions.config import layers
from functions.config import load as config
from functions.config import names as keys
from functions.config.cli import config_flags
from functions.config.methods import MODES
from functions.errors import InputError
from functions.files import write_json

CONFIGS = sorted(p.name for p in layers.CONFIG_FOLDER.rglob("*_classifier.yml"))
FORGET = ["--model_path", "run", "--num_indexes_to_replace", "4500"]


def resolve(*words):
    """The config of a command, by the way of train.main."""
    args = train.parser().parse_args(list(words))
    mode = args.mode or keys.UNLEARN_ALIAS.get(args.unlearn, args.unlearn)
    return config.load_config(train.config_name(args), mode, args.overlay, args.set, config_flags(args, train.FLAGS))


def get(cfg, key):
    for part in key.split("."):
        cfg = getattr(cfg, part)
    return cfg


# method -> words, key, value that is not its default
REACH = {
    "lr": ("FT", ["--lr", "0.5"], "optim.lr", 0.5),
    "unlearn_lr": ("RL", ["--unlearn_lr", "0.5"], "optim.lr", 0.5),
    "epochs": ("GA", ["--epochs", "3"], "training.epochs", 3),
    "unlearn_epochs": ("RL", ["--unlearn_epochs", "3"], "training.epochs", 3),
    "unlearn_epochs of a method with n_iters": ("sfron", ["--unlearn_epochs", "3"], "training.n_iters", None),
    "num_indexes_to_replace": ("RL", [], "forget.count", 4500),
    "a count of all classes": ("RL", ["--class_to_replace", "-1"], "forget.label", None),
    "a count of one class": ("RL", ["--class_to_replace", "3"], "forget.label", 3),
    "class_to_replace keeps the count": ("RL", ["--class_to_replace", "-1"], "forget.count", 4500),
    "model_path": ("RL", [], "ckpt_folder", "run"),
    "save_dir": ("RL", ["--save_dir", "here"], "save_dir", "here"),
    "alpha of l1": ("FT_prune", ["--alpha", "0.25"], "unlearn.weight", 0.25),
    "alpha of IU": ("wfisher", ["--alpha", "25"], "unlearn.step", 25.0),
    "negative alpha of IU": ("wfisher", ["--alpha", "-2"], "unlearn.step", -2.0),
    "alpha of FF": ("fisher_new", ["--alpha", "1e-9"], "unlearn.alpha", 1e-9),
    "no_l1_epochs": ("FT_l1", ["--no_l1_epochs", "2"], "unlearn.no_l1_epochs", 2),
    "momentum": ("FT", ["--momentum", "0.5"], "optim.momentum", 0.5),
    "weight_decay": ("FT", ["--weight_decay", "0.25"], "optim.weight_decay", 0.25),
    "batch_size": ("FT", ["--batch_size", "7"], "training.batch_size", 7),
    "decreasing_lr": ("retrain", ["--decreasing_lr", "80,120"], "optim.decreasing_lr", [80, 120]),
    "decreasing_lr as published": ("retrain", ["--decreasing_lr", "91,136"], "optim.decreasing_lr", [91, 136]),
    "seed": ("RL", ["--seed", "5"], "seeds.seed", 5),
    "data": ("RL", ["--data", "there"], "data.path", "there"),
    "dataset": ("RL", ["--dataset", "svhn"], "data.dataset", "svhn"),
    "mask_path": ("RL", ["--mask_path", "m"], "unlearn.mask_path", "m"),
    "order": ("RL", ["--order", "joint"], "unlearn.order", "joint"),
    "bn_mode": ("RL", ["--bn_mode", "freeze"], "unlearn.bn_mode", "freeze"),
    "rl": ("RL", ["--unlearn_loss", "rl"], "unlearn.loss", "relabel"),
    "forget_alpha": ("sfron", ["--forget_alpha", "2"], "unlearn.forget_alpha", 2.0),
    "no cosine": ("sfron", ["--no-decay_forget_alpha"], "unlearn.decay_forget_alpha", False),
}


@pytest.mark.parametrize("method, words, key, value", REACH.values(), ids=REACH)
def test_flags_reach_their_keys(method, words, key, value):
    dataset = [] if "--dataset" in words else ["--dataset", "cifar10"]
    cfg = resolve("--unlearn", method, *FORGET, *dataset, *words)
    assert get(cfg, key) == value


def test_forget_sets_by_share_and_by_file():
    start = ["--unlearn", "RL", "--model_path", "run", "--dataset", "cifar10"]
    share, file = (resolve(*start, *w).forget for w in (["--forget_fraction", "0.1"], ["--forget_idx", "f.npy"]))
    assert share.fraction == 0.1 and file.index_file == "f.npy"
    with pytest.raises(InputError, match="forget: missing, and mode salun needs it; set --label_to_forget"):
        resolve(*start, "--class_to_replace", "-1")  # all classes, and no number: nothing is said


def test_export_is_for_masks():
    start = ["--dataset", "cifar10", *FORGET, "--export"]
    assert resolve("--mode", "generate_mask", *start).saliency.export
    with pytest.raises(InputError, match="--export: has no meaning in mode salun"):
        resolve("--unlearn", "RL", *start)


@pytest.mark.parametrize("method", ["FT", "GA", "RL", "scrub", "sfron", "boundary_expanding", "boundary_shrink"])
def test_alpha_is_refused_where_nothing_is_called_so(method):
    with pytest.raises(InputError, match=r"^--alpha: has no meaning in mode \w+$"):
        resolve("--unlearn", method, *FORGET, "--dataset", "cifar10", "--alpha", "0.2")


def test_other_flags_are_refused_where_they_mean_nothing():
    cases = {
        "no_l1_epochs": ("GA", "2"),
        "order": ("GA", "joint"),
        "remain_alpha": ("FT", "2"),
        "bn_mode": ("wfisher", "freeze"),
    }
    for flag, (method, value) in cases.items():
        with pytest.raises(InputError, match="has no meaning in mode"):
            resolve("--unlearn", method, *FORGET, "--dataset", "cifar10", f"--{flag}", value)
    with pytest.raises(InputError, match="lr_schedule steps, and it to them; lr_schedule is constant"):
        resolve("--unlearn", "FT", *FORGET, "--dataset", "cifar10", "--decreasing_lr", "5,8")


@pytest.mark.parametrize("value", ["5;8", "five", ""])
def test_bad_epochs_are_one_line(value):
    with pytest.raises(InputError, match=f"^--decreasing_lr: got '{value}'; wanted epochs such as 91,136; see --help$"):
        train.parser().parse_args(["--mode", "retrain", "--decreasing_lr", value])


# ---- architectures


@pytest.mark.parametrize(
    "dataset, arch, name",
    [
        ("cifar10", "cnn", "cnn"),
        *(("cifar10", arch, "cifar") for arch in ("resnet18", "resnet50", "resnet20s", "vgg16_bn")),
        ("cifar10", "resnet101", "torchvision"),  # not made for small images
        ("imagenet", "resnet18", "torchvision"),
        ("imagenet", "resnet152", "torchvision"),
        ("imagenet", "vgg16_bn", "cifar"),
        ("imagenet", "cnn", "cnn"),
        ("cifar10", "swin_tiny_patch4_window7_224", "timm"),
        ("imagenet", "vit_tiny_patch16_224", "timm"),
    ],
)
def test_architectures_by_name(dataset, arch, name):
    model = resolve("--mode", "pretrain", "--dataset", dataset, "--arch", arch).model
    assert model.name == name and (name == "cnn" or model.arch == arch)


def test_set_says_more_about_the_model_of_the_flag():
    words = ["--mode", "pretrain", "--dataset", "cifar10", "--set", "model.width=8", "--arch", "cnn"]
    assert resolve(*words).model.width == 8


def test_an_unknown_architecture_is_one_line():
    with pytest.raises(ValueError, match="architecture 'resnet19' is neither 'cnn', a torchvision") as caught:
        train.main(["--mode", "pretrain", "--dataset", "digits", "--arch", "resnet19", "--save_dir", "out"])
    assert isinstance(caught.value, InputError) and "\n" not in str(caught.value) and not Path("out").exists()


# ---- which config


def name_of(*words):
    return train.config_name(train.parser().parse_args(["--mode", "ga", *words]))


def test_the_config_is_that_of_the_data_set_or_of_the_model(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "meta.json", cases.meta(step=1, files={}, data={**cases.meta()["data"], "dataset": "svhn"}))
    assert name_of() == "cifar10_classifier.yml"
    assert name_of("--dataset", "shapes") == "shapes_classifier.yml"
    assert name_of("--model_path", str(run)) == "svhn_classifier.yml"
    assert name_of("--dataset", "shapes", "--model_path", str(run)) == "shapes_classifier.yml"
    assert name_of("--config", "mine.yml", "--dataset", "shapes", "--model_path", str(run)) == "mine.yml"
    write_json(run / "meta.json", cases.meta(step=1, files={}, world="ddpm"))
    with pytest.raises(InputError, match="--config: missing; .* is a ddpm model"):
        name_of("--model_path", str(run))


def test_the_data_set_of_the_model_reaches_the_config(tmp_path):
    """Also where it is asked for by the model alone: the data are those of its file."""
    data = {**cases.meta()["data"], "dataset": "cifar100"}
    write_json(tmp_path / "meta.json", cases.meta(step=1, files={}, data=data))
    cfg = resolve("--unlearn", "RL", "--model_path", str(tmp_path), "--num_indexes_to_replace", "4500")
    assert (cfg.data.dataset, cfg.unlearn.order) == ("cifar100", "joint")


# ---- the configs


def modes_of(name):
    """Those of classifier.yml and of the file itself."""
    return sorted(layers.read_layers(name).values["modes"])


def flags_for(mode):
    return {} if mode == "pretrain" else {"label_to_forget": 0, "ckpt_folder": "x"}


@pytest.mark.parametrize("name, mode", [(n, m) for n in CONFIGS for m in modes_of(n)])
def test_every_block_of_every_file_is_valid(name, mode):
    cfg = config.load_config(name, mode, flags=flags_for(mode))
    assert cfg.world == "classifier" and f"{cfg.data.dataset}_classifier.yml" == name
    assert cfg.init_weights == "raw" and not cfg.training.ema
    assert (cfg.training.n_iters is None) != (cfg.training.epochs is None)


def test_every_file_has_every_mode_of_classifiers():
    wanted = set(MODES)
    assert len(CONFIGS) >= 7 and all(set(modes_of(n)) == wanted for n in CONFIGS)


def test_modes_that_are_not_or_are_missing(tmp_path):
    path = tmp_path / "mine.yml"
    base = yaml.safe_load((layers.CONFIG_FOLDER / "classifier/classifier.yml").read_text()) | {
        "data": {"dataset": "digits"}
    }
    path.write_text(yaml.safe_dump(base | {"modes": {"salum": {}, "finetune": {"unlearn": {}}}}))
    with pytest.raises(InputError, match=r"mine\.yml: modes\.salum: no such mode \(did you mean 'salun'\?\)"):
        config.load_config(str(path), "finetune", flags=flags_for("finetune"))
    path.write_text(yaml.safe_dump(base | {"modes": {"finetune": {"unlearn": {}}}}))
    assert config.load_config(str(path), "finetune", flags=flags_for("finetune")).optim.lr == 0.1
    with pytest.raises(InputError, match=r"mine\.yml: modes\.ga: missing; there are blocks for finetune$"):
        config.load_config(str(path), "ga", flags=flags_for("ga"))
    path.write_text(yaml.safe_dump(base | {"modes": {"finetune": {"unlearn": {"alpa": 1}}}}))
    with pytest.raises(InputError, match=r"mine\.yml: unlearn\.alpa: unknown key"):
        config.load_config(str(path), "finetune", flags=flags_for("finetune"))


# mode -> what METHODS.md says of ResNet-18 on CIFAR-10
PUBLISHED = {
    "pretrain": {"training.epochs": 182, "optim.lr": 0.1, "optim.decreasing_lr": [91, 136], "training.batch_size": 256},
    "retrain": {"training.epochs": 182, "optim.lr": 0.1, "optim.decreasing_lr": [91, 136], "training.batch_size": 256},
    "finetune": {"training.epochs": 10, "optim.lr": 0.01, "optim.lr_schedule": "constant"},
    "ga": {"training.epochs": 5, "optim.lr": 1e-4, "optim.lr_schedule": "constant"},
    "salun": {
        "training.epochs": 10,
        "optim.lr": 0.013,
        "unlearn.order": "split",
        "unlearn.loss": "relabel",
        "optim.lr_schedule": "constant",
        "unlearn.forget_alpha": 1.0,
        "unlearn.remain_alpha": 1.0,
    },
    "salun_soft": {"training.epochs": 10, "optim.lr": 0.013, "unlearn.order": "split", "unlearn.loss": "relabel"},
    "generate_mask": {"saliency.batch_size": 256, "saliency.draws": 1, "saliency.guidance": 0.0},
    "l1_sparse": {"training.epochs": 10, "optim.lr": 0.01, "unlearn.no_l1_epochs": 0},
    "iu": {"unlearn.k": 1000, "unlearn.solver": "exact"},
    "scrub": {
        "training.epochs": 6,
        "optim.lr": 8e-5,
        "unlearn.msteps": 2,
        "unlearn.gamma": 0.99,
        "unlearn.alpha": 0.001,
        "unlearn.temperature": 4.0,
    },
    "bad_teacher": {"training.epochs": 10, "unlearn.temperature": 1.0},
    "boundary_shrink": {"unlearn.eps": 0.1, "training.epochs": 10},
    "sfron": {
        "training.n_iters": 1500,
        "optim.lr": 0.01,
        "optim.lr_schedule": "cosine",
        "unlearn.method": "ron",
        "unlearn.loss": "adaga",
        "unlearn.forget_alpha": 25.0,
        "unlearn.decay_forget_alpha": True,
        "unlearn.lambd": 0.5,
        "unlearn.forget_clip": 7.0,
        "unlearn.forget_every": 5,
        "training.batch_size": 128,
    },
}


@pytest.mark.parametrize("mode, wanted", PUBLISHED.items(), ids=PUBLISHED)
def test_published_constants(mode, wanted):
    cfg = config.load_config("cifar10_classifier.yml", mode, flags=flags_for(mode))
    assert {key: get(cfg, key) for key in wanted} == wanted
    assert (cfg.optim.name, cfg.optim.momentum, cfg.optim.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (cfg.data.flip, cfg.data.crop, cfg.data.val_fraction) == (True, 4, 0.1)
    if mode == "pretrain":
        assert (cfg.model.name, cfg.model.arch) == ("cifar", "resnet18")
    if mode == "generate_mask":
        assert 0.5 in cfg.saliency.shares
    if mode == "l1_sparse":
        assert 1e-4 <= cfg.unlearn.weight <= 1e-3


def test_published_constants_of_other_data_sets():
    swin = config.load_config("tinyimagenet_classifier.yml", "sfron", flags=flags_for("sfron"))
    assert (swin.optim.name, swin.optim.lr, swin.optim.weight_decay) == ("adamw", 2e-5, 0.05)
    assert (swin.training.n_iters, swin.unlearn.forget_alpha, swin.unlearn.lambd, swin.unlearn.forget_every) == (
        500,
        500.0,
        0.6,
        1,
    )
    orders = {n: config.load_config(n, "salun", flags=flags_for("salun")).unlearn.order for n in CONFIGS}
    joint = {"cifar100_classifier.yml", "tinyimagenet_classifier.yml", "imagenet_classifier.yml"}
    assert {n for n, order in orders.items() if order == "joint"} == joint
    assert "paired" not in orders.values()
    svhn = config.load_config("svhn_classifier.yml", "retrain", flags=flags_for("retrain")).data
    assert not svhn.flip and svhn.crop == 0  # a mirrored digit is no digit
