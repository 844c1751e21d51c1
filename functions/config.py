"""Configs: YAML with `base:`, overlays, `--set` and flags, checked by strict pydantic models before torch is imported.

Every key, its type, its default and its meaning stand here once. The resolved config is written with each run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functions.errors import InputError, nearest

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "configs"

# Names for argparse `choices` and for the checks below; a test compares each with the dict of classes it names.
WORLDS = ("ddpm", "classifier")
MODES = ("pretrain", "retrain", "finetune", "ga", "generate_fisher", "sfron", "generate_mask", "salun", "sa", "esd",
         "erasediff")  # fmt: skip
DATASETS = ("digits", "shapes", "cifar10", "cifar100", "svhn", "stl10", "folder")
FORGET_LOSSES = ("adaga", "ga", "match", "relabel")
RL_ALIAS = {"ddpm": "match", "classifier": "relabel"}  # what the published `rl` means in each world
ESTIMATORS = ("per_example", "batch")

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Unknown keys and wrong types are errors, and nothing changes after validation."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Data(Section):
    dataset: Literal[DATASETS]
    path: str = "data"  # where torchvision data sets are downloaded, or the folder of `dataset: folder`
    image_size: Positive | None = None  # resize to this; None keeps the data set's own size
    flip: bool = False  # random horizontal flips, drawn afresh for every batch
    frozen_augment: bool = False  # published: each image is flipped once and for all
    crop: int = Field(0, ge=0)  # random crops after padding by this many pixels
    n_workers: int = Field(2, ge=0)  # decoding processes; image folders only


class UNetModel(Section):
    name: Literal["unet"]
    ch: Positive
    ch_mult: list[Positive] = Field(min_length=1)
    num_res_blocks: Positive
    attn_resolutions: list[Positive]
    dropout: Share = 0.1
    resamp_with_conv: bool = True


class CNNModel(Section):
    name: Literal["cnn"]
    width: Positive = 32


class LibraryModel(Section):
    name: Literal["torchvision", "timm"]
    arch: str
    pretrained: bool = False  # start from ImageNet's weights
    resize: int = Field(0, ge=0)  # side that images are scaled to inside the model; 0: not


class Diffusion(Section):
    timesteps: Positive = 1000  # T
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    p_uncond: Share = 0.1  # labels dropped in pretraining and remain steps
    reduction: Literal["sum", "mean"] = "sum"  # of the squared error over C,H,W


class Optim(Section):
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(gt=0)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Weight = 0.0
    momentum: Share = 0.9  # SGD only
    grad_clip: float | None = Field(None, gt=0)  # norm; training and remain steps


class Training(Section):
    n_iters: Positive
    batch_size: Positive
    ema: bool  # keep an exponential moving average; it starts as a copy of the weights after the first step
    ema_rate: float = Field(0.9999, gt=0, lt=1)
    log_freq: Positive = 10
    snapshot_freq: Positive = 1000
    keep: Positive = 3  # snapshots that stay, besides the final one


class Unlearn(Section):
    method: Literal["ron", "joint"] = "ron"  # a forget step, then remain steps; or one step on the sum
    loss: Literal[FORGET_LOSSES] = "adaga"
    forget_alpha: Weight = 1.0
    decay_forget_alpha: bool = False  # alpha (1 + cos(pi k / n_iters)) / 2
    remain_alpha: Weight = 1.0
    lambd: Weight = 0.5  # exponent of the adaptive weights
    forget_clip: float | None = Field(None, gt=0)  # norm, after masking
    forget_every: Positive = 1  # steps from one forget step to the next
    remain_per_forget: Positive = 1
    mask_joint: bool = True  # published: with method joint the mask is lost
    optimizer_state: Literal["shared", "separate"] = "shared"
    mask_path: str | None = None
    # strict: masked weights end bit-identical, weight decay and momentum included; gradient (published): only their
    # gradients are masked. None: strict, but gradient in sfron, whose remain steps move all weights.
    mask_mode: Literal["strict", "gradient"] | None = None
    clip_first: bool = (
        False  # published SalUn: clip the gradient's norm before masking it, not after; not in sfron
    )
    dropout: bool = True  # keep the model's dropout active while unlearning


class Forget(Section):
    label: int = Field(ge=0)


class Fisher(Section):
    estimator: Literal[ESTIMATORS] = "per_example"
    draws: Positive = 1  # (t, eps) pairs per image
    guidance: Weight = 0.0  # w of the differentiated prediction
    clip: float | None = Field(None, gt=0)  # `batch` only: norm of each batch gradient before squaring
    batch_size: Positive = 128
    zero_ratio_salient: bool = (
        False  # published: weights where both Fishers are 0 count as salient up to gamma 1
    )


class Saliency(Section):
    """SalUn's score of weights, and the masks made from it."""

    shares: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.5], min_length=1
    )  # with_<q>: weights that may move
    draws: Positive = 1  # (t, eps) pairs per image
    guidance: Weight = 0.0  # w of the differentiated prediction
    clip: float | None = Field(None, gt=0)  # published: norm of each batch gradient before they are summed
    batch_size: Positive = 128


class Fim(Section):
    """Selective Amnesia's Fisher, from the model's own samples."""

    n_chunks: Positive = 20  # of the sum over all timesteps: more need less memory
    per_class: Positive | None = None  # the first so many samples of each class; None: all there are
    unit_images: bool = False  # published: images stay in [0, 1], where training has [-1, 1]
    drop_labels: bool = False  # published: labels are dropped as in training
    save_seconds: Positive = 60  # from one resumable state on disk to the next


class SA(Section):
    """Selective Amnesia: l(surrogate) + gamma_gr l(replay) + lmbda sum_i F_i (theta_i - theta*_i)^2."""

    lmbda: Weight
    gamma_gr: Weight = 1.0
    replay: Literal["samples", "remain"] = "samples"  # the model's own class_samples/, or the remain data
    fisher_path: str | None = (
        None  # .safetensors, or a published .pkl; None: fisher_dict.safetensors of ckpt_folder
    )


class ESD(Section):
    eta: Weight = 1.0  # negative guidance of the target


class EraseDiff(Section):
    eta: Weight = 0.5  # share of the forget gradient's squared norm by which each step must descend


class Sampling(Section):
    sample_type: Literal["generalized", "ddpm_noisy", "dpm_solver"] = "generalized"
    timesteps: Positive = 1000  # steps of the sampler; dpm_solver wants about 20
    eta: Weight = 1.0  # generalized: 0 is DDIM, 1 is ancestral
    skip_type: Literal["uniform", "quad"] = "uniform"
    cond_scale: Weight = 2.0  # w: (1 + w) eps_c - w eps_null
    weights: Literal["auto", "ema", "raw"] = "auto"  # auto: EMA where the checkpoint has one
    n_samples_per_class: Positive = 500
    batch_size: Positive = 128
    minmax: bool = False  # published: stretch each image to 0..255 by its own minimum and maximum
    train_mode: bool = False  # published: the EMA copy stays in train mode, so dropout is active


class Seeds(Section):
    """Each comes from `seed` unless given."""

    seed: int = Field(0, ge=0)
    init: int | None = Field(None, ge=0)
    order: int | None = Field(None, ge=0)

    def of(self, purpose: Literal["init", "order"]) -> int:
        chosen = getattr(self, purpose)
        return self.seed if chosen is None else chosen


class Config(Section):
    world: Literal[WORLDS]
    data: Data
    model: Annotated[UNetModel | CNNModel | LibraryModel, Field(discriminator="name")] | None = None
    diffusion: Diffusion | None = None
    optim: Optim | None = None
    training: Training | None = None
    unlearn: Unlearn | None = None
    forget: Forget | None = None
    fisher: Fisher | None = None
    saliency: Saliency | None = None
    fim: Fim | None = None
    sa: SA | None = None
    esd: ESD | None = None
    erasediff: EraseDiff | None = None
    sampling: Sampling | None = None
    seeds: Seeds = Seeds()
    init_weights: Literal["ema", "raw"] = "ema"  # what unlearning and Fishers start from
    ckpt_folder: str | None = None
    results: str = "results"
    device: str = "auto"  # auto: cuda where there is one


UNLEARNING = ("optim", "training", "unlearn", "forget", "ckpt_folder")
# The sections that a mode reads, beyond those that every config has.
NEEDS = {
    "pretrain": ("model", "optim", "training"),
    "retrain": ("model", "optim", "training", "forget"),
    "finetune": ("optim", "training", "forget", "ckpt_folder"),
    "ga": UNLEARNING,
    "sfron": UNLEARNING,
    "salun": UNLEARNING,
    "sa": (*UNLEARNING, "sa"),
    "esd": (*UNLEARNING, "esd"),
    "erasediff": (*UNLEARNING, "erasediff"),
    "generate_fisher": ("fisher", "forget", "ckpt_folder"),
    "generate_mask": ("saliency", "forget", "ckpt_folder"),
    "fim": ("fim", "ckpt_folder"),
    "sample": ("sampling", "ckpt_folder"),
}
FLAG_OF = {"forget": "--label_to_forget", "ckpt_folder": "--ckpt_folder"}

# Flags of the published commands: short for --set of these keys.
FLAGS = {
    "label_to_forget": "forget.label",
    "ckpt_folder": "ckpt_folder",
    "mask_path": "unlearn.mask_path",
    "method": "unlearn.method",
    "unlearn_loss": "unlearn.loss",
    "forget_alpha": "unlearn.forget_alpha",
    "decay_forget_alpha": "unlearn.decay_forget_alpha",
    "remain_alpha": "unlearn.remain_alpha",
    "seed": "seeds.seed",
    "n_chunks": "fim.n_chunks",
    "sample_type": "sampling.sample_type",
    "timesteps": "sampling.timesteps",
    "eta": "sampling.eta",
    "skip_type": "sampling.skip_type",
    "n_samples_per_class": "sampling.n_samples_per_class",
    "weights": "sampling.weights",
    "minmax": "sampling.minmax",
}
# The keys of `unlearn` that a mode reads; sfron reads all but `clip_first`, and modes without it need no section.
MASKED = ("mask_path", "mask_mode", "clip_first", "dropout")
READS = {
    "finetune": ("dropout",),
    "ga": (*MASKED, "forget_alpha", "decay_forget_alpha", "forget_clip"),
    "salun": (*MASKED, "loss", "lambd", "forget_alpha", "decay_forget_alpha", "remain_alpha"),
    **dict.fromkeys(("sa", "esd", "erasediff"), MASKED),
    "sfron": tuple(k for k in Unlearn.model_fields if k != "clip_first"),
}
# --cond_scale, by mode
COND_SCALE = {"generate_fisher": "fisher.guidance", "generate_mask": "saliency.guidance",
              "sample": "sampling.cond_scale"}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as text; here it is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def parse_yaml(text: str, source: str) -> object:
    """YAML text to plain objects; a broken text is one line that names `source` and the line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{source}{line}: not valid YAML ({getattr(error, 'problem', None) or error})"
        ) from None


def read_yaml(path: Path) -> object:
    """`parse_yaml` of a file."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def find_config(name: str) -> Path:
    """A path as it is, otherwise a file of that name in `configs/`."""
    for path in (Path(name), CONFIG_FOLDER / name):
        if path.is_file():
            return path
    known = sorted(p.name for p in CONFIG_FOLDER.glob("*.yml"))
    raise InputError(f"--config {name}: no such file, here or in configs/{nearest(name, known)}")


class Layers:
    """Nested settings, and for every leaf the file or flag that set it."""

    def __init__(self) -> None:
        self.values: dict = {}
        self.sources: dict[tuple[str, ...], str] = {}

    def merge(self, tree: dict, source: str, prefix: tuple[str, ...] = ()) -> None:
        """Later layers win, key by key; a section set to null is dropped."""
        for key, value in tree.items():
            path = (*prefix, str(key))
            self.sources[path] = source
            if isinstance(value, dict):
                self.node(path)  # an empty section is a section, all defaults
                self.merge(value, source, path)
            else:
                self.put(path, value)

    def put(self, path: tuple[str, ...], value: object) -> None:
        self.node(path[:-1])[path[-1]] = value

    def node(self, path: tuple[str, ...]) -> dict:
        """The settings of a section, made where there is none."""
        node = self.values
        for key in path:
            if not isinstance(node.get(key), dict):
                node[key] = {}
            node = node[key]
        return node

    def source(self, path: tuple[str, ...]) -> str:
        """The setter of a key, or of the nearest section above it."""
        while path and path not in self.sources:
            path = path[:-1]
        return self.sources.get(path, self.sources.get((), "config"))


def read_layers(name: str, layers: Layers | None = None, seen: tuple[Path, ...] = ()) -> Layers:
    """The settings of a file on top of those of its `base:` chain (looked up beside it, then in configs/)."""
    layers = layers or Layers()
    path = find_config(name)
    if path.resolve() in seen:
        raise InputError(f"{path}: base: {name} leads back to itself")
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InputError(f"{path}: wanted keys and values, got {type(tree).__name__}")
    if base := tree.pop("base", None):
        if not isinstance(base, str):
            raise InputError(f"{path}: base: got {base!r}; wanted the name of a file")
        beside = path.parent / base
        read_layers(str(beside) if beside.is_file() else base, layers, (*seen, path.resolve()))
    layers.merge(tree, str(path))
    layers.sources[()] = str(path)
    return layers


def apply_overlay(layers: Layers, name: str, mode: str) -> None:
    """Merge the block of the config's world, for the sections that the config has and the keys that the mode reads."""
    path = find_config(name)
    blocks = read_yaml(path)
    world = layers.values.get("world")
    if not isinstance(blocks, dict) or world not in blocks:
        raise InputError(f"{path}: no block for world {world!r}")
    sections = {k: v for k, v in blocks[world].items() if layers.values.get(k) is not None}
    if "unlearn" in sections and mode in READS:
        sections["unlearn"] = {k: v for k, v in sections["unlearn"].items() if k in READS[mode]}
    layers.merge(sections, f"{path} ({world})")


def apply_setting(layers: Layers, setting: str) -> None:
    """One `--set section.key=value`."""
    key, equals, value = setting.partition("=")
    if not equals:
        raise InputError(f"--set {setting}: wanted section.key=value")
    layers.merge(_nested(key.strip(), parse_yaml(value, f"--set {setting}")), f"--set {setting}")


def apply_flags(layers: Layers, flags: dict[str, object], mode: str) -> None:
    """Flags that were given (not None) under their published names; `rl` becomes the name of what it does here."""
    keys = {**FLAGS, **({"cond_scale": COND_SCALE[mode]} if mode in COND_SCALE else {})}
    for flag, value in flags.items():
        if value is None:
            continue
        unread = flag not in keys or keys[flag].split(".")[0] not in (*NEEDS[mode], "seeds")
        if unread:
            raise InputError(f"--{flag}: has no meaning in mode {mode}")
        if flag == "unlearn_loss" and value == "rl":
            world = layers.values.get("world")
            value = RL_ALIAS.get(world, value) if isinstance(world, str) else value
            print(f"--unlearn_loss rl means {value!r} for world {world!r}")
        layers.merge(_nested(keys[flag], value), f"--{flag} {value}")


def _nested(key: str, value: object) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[return-value]


def load_config(
    name: str, mode: str, overlays=(), settings=(), flags: dict[str, object] | None = None
) -> Config:
    """The checked config of a run: file over base, then overlays, `--set`, flags. Raises InputError with one line."""
    layers = read_layers(name)
    for overlay in overlays or ():
        apply_overlay(layers, overlay, mode)
    for setting in settings or ():
        apply_setting(layers, setting)
    apply_flags(layers, flags or {}, mode)
    cfg = validate(layers)
    for section in NEEDS[mode]:
        if getattr(cfg, section) is None:
            where = f"; set {FLAG_OF[section]}" if section in FLAG_OF else ""
            raise InputError(f"{layers.sources[()]}: {section}: missing, and mode {mode} needs it{where}")
    check_combination(cfg, mode, layers)
    return cfg


def resolved_hash(words: Sequence[str]) -> str | None:
    """SHA-256 of what the `--config` and `--set` of a command line come to; None where it names no config."""
    if "--config" not in words:
        return None
    layers = read_layers(words[words.index("--config") + 1])
    for flag, value in itertools.pairwise(words):
        if flag == "--set":
            apply_setting(layers, value)
    return hashlib.sha256(json.dumps(layers.values, sort_keys=True).encode()).hexdigest()


def validate(layers: Layers) -> Config:
    """pydantic's first complaint as one line: file or flag, key, what came, what was wanted."""
    try:
        return Config.model_validate(layers.values)
    except ValidationError as error:
        problem = error.errors()[0]
    loc = tuple(str(p) for p in problem["loc"] if p not in ("unet", "cnn", "torchvision", "timm"))
    where, key = layers.source(loc), ".".join(loc)
    if problem["type"] == "extra_forbidden":
        raise InputError(f"{where}: {key}: unknown key{nearest(loc[-1], _keys_at(problem['loc'][:-1]))}")
    if problem["type"] == "missing":
        raise InputError(f"{where}: {key}: missing; wanted here or in its base")
    came = problem["input"]
    if problem["type"] == "union_tag_invalid":  # the whole section comes back: show its name alone
        came, key = came["name"], f"{key}.name"
    wanted = problem["msg"].lower().replace("input should be", "wanted")
    wanted = re.sub(".*expected tags: ", "wanted ", wanted)
    hint = nearest(came, re.findall(r"'(.*?)'", wanted)) if isinstance(came, str) else ""
    raise InputError(f"{where}: {key}: got {came!r} ({type(came).__name__}); {wanted}{hint}")


def _keys_at(loc: tuple) -> list[str]:
    """The valid keys of the section at `loc`, following optional and tagged unions."""
    sections = [Config]
    for part in loc:
        fields = [s.model_fields[part].annotation for s in sections if part in s.model_fields]
        sections = [m for f in fields for m in _sections_in(f)] if fields else sections
    return sorted({key for s in sections for key in s.model_fields})


def _sections_in(annotation: object) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [s for a in get_args(annotation) for s in _sections_in(a)]


def check_combination(cfg: Config, mode: str, layers: Layers) -> None:
    """Combinations that types cannot express."""
    if (cfg.world == "ddpm") != (cfg.diffusion is not None):
        raise InputError(
            f"{layers.sources[()]}: diffusion: wanted for world ddpm and only there; world is {cfg.world}"
        )
    for key in sorted(cfg.unlearn.model_fields_set) if cfg.unlearn and mode in READS else ():
        default = Unlearn.model_fields[key].default
        if key not in READS[mode] and getattr(cfg.unlearn, key) != default:
            raise InputError(
                f"{layers.source(('unlearn', key))}: unlearn.{key}: has no meaning in mode {mode}"
            )
    if mode == "pretrain" and cfg.forget is not None:
        raise InputError(
            f"{layers.source(('forget',))}: forget: pretrain learns every class; retrain leaves one out"
        )
    if cfg.model and (cfg.model.name == "unet") != (cfg.world == "ddpm"):
        raise InputError(
            f"{layers.source(('model', 'name'))}: model.name: {cfg.model.name} is no {cfg.world} model"
        )
    if mode in ("sfron", "salun") and cfg.unlearn.loss == "match" and cfg.world == "classifier":
        raise InputError(f"{layers.source(('unlearn', 'loss'))}: unlearn.loss: match needs a label-conditional "
                         "model; a classifier has `relabel`")  # fmt: skip
    u = cfg.unlearn
    if mode == "sfron" and u.method == "joint" and (u.forget_every, u.remain_per_forget) != (1, 1):
        raise InputError(f"{layers.source(('unlearn', 'method'))}: unlearn.method: joint is one step on the sum; "
                         "forget_every and remain_per_forget must be 1")  # fmt: skip
    if mode == "sfron" and u.mask_mode == "strict":
        raise InputError(f"{layers.source(('unlearn', 'mask_mode'))}: unlearn.mask_mode: strict has no meaning in mode "
                         "sfron, whose remain steps move all weights by design")  # fmt: skip
    for section in {"generate_fisher": ["fisher"], "generate_mask": ["saliency"]}.get(mode, []):
        pass_over = getattr(cfg, section)
        if cfg.world == "classifier" and (pass_over.guidance or pass_over.draws > 1):
            raise InputError(f"{layers.source((section,))}: {section}: guidance and draws are for diffusion, "
                             "nothing is drawn for a classifier")  # fmt: skip
    if mode == "fim" and cfg.world != "ddpm":
        raise InputError(f"{layers.source(('world',))}: world: {cfg.world} has no timesteps to sum over; its Fisher is "
                         "train.py --mode generate_fisher's (sa.fisher_path)")  # fmt: skip
    if mode == "sa" and cfg.world == "classifier" and cfg.sa.replay == "samples":
        raise InputError(
            f"{layers.source(('sa', 'replay'))}: sa.replay: a classifier draws no samples; wanted remain"
        )
    if cfg.diffusion and not cfg.diffusion.beta_start < cfg.diffusion.beta_end:
        raise InputError(f"{layers.source(('diffusion', 'beta_end'))}: diffusion.beta_end: got "
                         f"{cfg.diffusion.beta_end}; wanted more than beta_start")  # fmt: skip
    if cfg.fisher and cfg.fisher.clip is not None and cfg.fisher.estimator != "batch":
        raise InputError(f"{layers.source(('fisher', 'clip'))}: fisher.clip: only estimator batch clips, "
                         f"this is {cfg.fisher.estimator}")  # fmt: skip


def dump_config(cfg: Config) -> str:
    """The resolved config as YAML that `--config` reads again."""
    return yaml.safe_dump(cfg.model_dump(), sort_keys=False)


def config_hash(cfg: Config) -> str:
    """SHA-256 of what decides the numbers of a run; what it logs, where it writes and how it loads data do not.

    How long it runs does not either, unless a schedule ends with it.
    """
    free = {"log_freq", "snapshot_freq", "keep"}
    cosine = cfg.optim is not None and cfg.optim.lr_schedule == "cosine"
    if not cosine and not (cfg.unlearn and cfg.unlearn.decay_forget_alpha):
        free.add("n_iters")
    exclude = {"results": True, "device": True, "training": free, "data": {"n_workers", "path"}}
    tree = json.dumps(cfg.model_dump(exclude=exclude), sort_keys=True)
    return hashlib.sha256(tree.encode()).hexdigest()
