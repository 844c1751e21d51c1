"""Flags: which key a flag of the published commands sets, and the published names of modes. Torch-free."""

from __future__ import annotations

from functions.config.cli import say
from functions.config.layers import ALTERNATIVES, Layers, nested
from functions.config.methods import METHODS
from functions.config.schema import CIFAR_ARCHS, DIT_SIZES, RESNETS
from functions.config.section import Mode
from functions.config.worlds import WORLDS
from functions.errors import InputError, nearest, shown

FLAG_OF = {
    "forget": "--label_to_forget, --num_indexes_to_replace, --forget_fraction or --forget_idx",
    "ckpt_folder": "--ckpt_folder",
}
DIT_FILE = "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt"
# world -> what its published commands start from
PUBLISHED = {"dit": f"--ckpt: a run folder, or a published file such as {DIT_FILE}"}

# Flags of the published commands: short for --set of these keys.
FLAGS = {
    "label_to_forget": "forget.label",
    "class_to_replace": "forget.label",
    "num_indexes_to_replace": "forget.count",
    "forget_fraction": "forget.fraction",
    "forget_idx": "forget.index_file",
    "dataset": "data.dataset",
    "data_path": "data.path",
    "image_size": "data.image_size",
    "test_fraction": "data.test_fraction",
    "remain_pool": "data.remain_pool",
    "latents": "data.latents",
    "n_classes": "data.n_classes",
    "n_workers": "data.n_workers",
    "arch": "model",
    "vae": "encoder",
    "save_dir": "save_dir",
    "results": "results",
    "epochs": "training.epochs",
    "n_iters": "training.n_iters",
    "log_freq": "training.log_freq",
    "batch_size": "training.batch_size",
    "lr": "optim.lr",
    "momentum": "optim.momentum",
    "weight_decay": "optim.weight_decay",
    "decreasing_lr": "optim.decreasing_lr",
    "no_l1_epochs": "unlearn.no_l1_epochs",
    "bn_mode": "unlearn.bn_mode",
    "order": "unlearn.order",
    "export": "saliency.export",
    "compile": "training.compile",
    "snapshot_every": "training.preview_freq",
    "bf16": "training.bf16",
    "ckpt_folder": "ckpt_folder",
    "mask_path": "unlearn.mask_path",
    "threshold": "unlearn.threshold",
    "method": "unlearn.method",
    "unlearn_loss": "unlearn.loss",
    "forget_alpha": "unlearn.forget_alpha",
    "decay_forget_alpha": "unlearn.decay_forget_alpha",
    "remain_alpha": "unlearn.remain_alpha",
    "forget_clip": "unlearn.forget_clip",
    "seed": "seeds.seed",
    "global_seed": "seeds.seed",
    "n_chunks": "fim.n_chunks",
    "sample_type": "sampling.sample_type",
    "timesteps": "sampling.timesteps",
    "eta": "sampling.eta",
    "skip_type": "sampling.skip_type",
    "guided_channels": "sampling.guided_channels",
    "per_proc_batch_size": "sampling.batch_size",
    "n_samples_per_class": "sampling.n_samples_per_class",
    "weights": "sampling.weights",
    "minmax": "sampling.minmax",
}
# The published names of --unlearn
UNLEARN_ALIAS = {
    "RL": "salun",
    "FT": "finetune",
    "GA": "ga",
    "FT_l1": "l1_sparse",
    "FT_prune": "l1_sparse",
    "wfisher": "iu",
    "fisher_new": "fisher_forget",
    "RL_proximal": "salun_soft",
    "boundary_expanding": "boundary_expand",
}
DITS = tuple(f"DiT-{size}/{patch}" for size in DIT_SIZES for patch in (2, 4, 8))  # published names of models
# The published names of --vae
VAES = {"ema": "stabilityai/sd-vae-ft-ema", "mse": "stabilityai/sd-vae-ft-mse"}
EVERYWHERE = ("seeds", "data", "encoder", "save_dir", "results")  # sections and keys that flags may set in every mode


def apply_flags(layers: Layers, flags: dict[str, object]) -> None:
    """Flags that were given (not None) under their published names; a line says what `rl` does here."""
    method = METHODS[layers.mode]
    keys = {**FLAGS, **{flag: f"{method.section}.{key}" for flag, key in method.flags.items()}}
    given: dict[str, tuple[str, object]] = {}
    for flag, value in flags.items():
        if value is None or (flag == "class_to_replace" and value == -1):  # published: images of every class
            continue
        if flag not in keys or not _read(keys[flag], method):
            raise InputError(f"--{flag}: has no meaning in mode {layers.mode}")
        said = f"--{flag} {value}"
        earlier, other = given.setdefault(keys[flag], (said, value))
        if other != value:
            raise InputError(f"{earlier} and {said}: both set {keys[flag]}, and differ")
        section, _, leaf = keys[flag].partition(".")
        if (twin := f"{section}.{ALTERNATIVES.get((section, leaf))}") in given:
            raise InputError(f"{given[twin][0]} and {said}: both say how long the run is; wanted one of them")
        if flag == "arch":
            value = _model_of(value, layers)
        if flag == "vae":
            value = {"name": "latents", "vae": VAES.get(value, value)}
        world = layers.values.get("world")
        if flag == "unlearn_loss" and value == "rl" and isinstance(world, str) and world in WORLDS:
            say(f"--unlearn_loss rl means {WORLDS[world].rl!r} for world {world!r}")
        layers.merge(nested(keys[flag], value), said)


def _model_of(arch: str, layers: Layers) -> dict:
    """The `model` section of an architecture's name, in place of the config's: ours, torchvision's or timm's."""
    world = WORLDS.get(str(layers.values.get("world")))
    if arch in DITS or (world and "dit" in world.models):
        return _dit(arch, layers)
    section = layers.values.pop("model", None) or layers.architecture
    name = section.get("name") if isinstance(section, dict) else None
    if name is not None and section.get("arch", name) == arch:  # the config's own, with all it says of it
        return section
    if arch == "cnn":
        return {"name": "cnn"}
    if arch in RESNETS and (name == "torchvision" or arch not in CIFAR_ARCHS):
        return {"name": "torchvision", "arch": arch}
    return {"name": "cifar" if arch in CIFAR_ARCHS else "timm", "arch": arch}


def _dit(name: str, layers: Layers) -> dict:
    """The `model` section of a published DiT, in place of the config's."""
    if name not in DITS:
        raise InputError(f"--model {shown(name)[1:-1]}: no such DiT; wanted {', '.join(DITS)}{nearest(name, DITS)}")
    layers.values.pop("model", None)
    size, patch_size = name.removeprefix("DiT-").split("/")
    return {"name": "dit", "size": size, "patch_size": int(patch_size)}


def _read(key: str, method: type[Mode]) -> bool:
    """Whether a mode reads a key, given as `section.key`, or a whole section."""
    section, _, leaf = key.partition(".")
    if section == method.section:
        return leaf in method.model_fields
    return section in (*method.needs, *method.optional, *EVERYWHERE)
