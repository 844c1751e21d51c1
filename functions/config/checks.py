"""What a config must not combine, beyond what types can say. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from functions.config.names import READS
from functions.config.schema import Config, Unlearn
from functions.errors import InputError

if TYPE_CHECKING:
    from functions.config.load import Layers

FORGETS = (("label",), ("count",), ("fraction",), ("label", "count"), ("label", "fraction"), ("index_file",))


def check_combination(cfg: Config, mode: str, layers: Layers) -> None:
    """Raises InputError for the first combination that has no meaning; `layers` knows which file or flag set a key."""
    for check in (_world, _training, _forget, _unlearn, _order, _fisher):
        check(cfg, mode, layers)


def _refuse(layers: Layers, key: str, why: str) -> NoReturn:
    raise InputError(f"{layers.source(tuple(key.split('.')))}: {key}: {why}")


def _world(cfg: Config, mode: str, layers: Layers) -> None:
    """Models, diffusion and modes that belong to one world."""
    classifier = cfg.world == "classifier"
    if classifier == (cfg.diffusion is not None):
        raise InputError(f"{layers.sources[()]}: diffusion: wanted for world ddpm and only there; world is {cfg.world}")
    if cfg.diffusion and not cfg.diffusion.beta_start < cfg.diffusion.beta_end:
        _refuse(layers, "diffusion.beta_end", f"got {cfg.diffusion.beta_end}; wanted more than beta_start")
    if cfg.model and (cfg.model.name == "unet") == classifier:
        _refuse(layers, "model.name", f"{cfg.model.name} is no {cfg.world} model")
    if mode == "retrain" and cfg.model is None and cfg.ckpt_folder is None:
        raise InputError(
            f"{layers.sources[()]}: model: missing, and mode retrain needs it, or an original whose "
            "architecture and split to take (--ckpt_folder)"
        )
    if mode.startswith("boundary") and not classifier:
        _refuse(layers, "world", f"mode {mode} moves decision boundaries, which only a classifier has")
    if mode == "fim" and classifier:
        _refuse(
            layers,
            "world",
            f"{cfg.world} has no timesteps to sum over; its Fisher is train.py --mode "
            "generate_fisher's (sa.fisher_path)",
        )
    if mode == "sa" and classifier and cfg.sa.replay == "samples":
        _refuse(layers, "sa.replay", "a classifier draws no samples; wanted remain")


def _training(cfg: Config, mode: str, layers: Layers) -> None:
    """Lengths, schedules and precision."""
    t, o = cfg.training, cfg.optim
    if t and t.n_iters is None and t.epochs is None:
        raise InputError(f"{layers.source(('training',))}: training.n_iters: missing; wanted it or training.epochs")
    if mode == "boundary_expand" and (t.precision == "bf16" or t.compile or t.accumulate > 1):
        _refuse(
            layers, "training", "bf16, compile and accumulate are not for boundary_expand, which takes the model apart"
        )
    if o and (o.lr_schedule == "steps") != bool(o.decreasing_lr):
        _refuse(
            layers,
            "optim.decreasing_lr",
            f"epochs belong to lr_schedule steps, and it to them; lr_schedule is {o.lr_schedule}",
        )


def _forget(cfg: Config, mode: str, layers: Layers) -> None:
    """What is forgotten is said in one way."""
    f = cfg.forget
    if f is None:
        return
    if mode == "pretrain":
        _refuse(layers, "forget", "pretrain learns every class; retrain leaves one out")
    given = tuple(k for k in ("label", "count", "fraction", "index_file") if getattr(f, k) is not None)
    if given not in FORGETS:
        _refuse(
            layers,
            "forget",
            f"got {' and '.join(given) or 'nothing'}; wanted a label, a count or a fraction (of "
            "all or of one label), or an index_file",
        )
    if mode == "sa" and f.label is None and cfg.sa.replay == "samples":
        _refuse(layers, "forget", "sa replays samples of the other classes; wanted a label, or sa.replay remain")


def _unlearn(cfg: Config, mode: str, layers: Layers) -> None:
    """Keys of `unlearn` that the mode reads, and what they mean to one another."""
    u = cfg.unlearn
    if u is None or mode not in READS:
        return
    for key in sorted(u.model_fields_set):
        if key not in READS[mode] and getattr(u, key) != Unlearn.model_fields[key].default:
            _refuse(layers, f"unlearn.{key}", f"has no meaning in mode {mode}")
    if u.bn_mode == "recalibrate" and cfg.training.ema:
        _refuse(layers, "unlearn.bn_mode", "recalibrate is for the weights themselves; training.ema must be false")
    if mode in ("sfron", "salun", "salun_soft") and u.loss == "match" and cfg.world == "classifier":
        _refuse(layers, "unlearn.loss", "match needs a label-conditional model; a classifier has `relabel`")


def _order(cfg: Config, mode: str, layers: Layers) -> None:
    """Which steps SalUn and SFR-on join."""
    u = cfg.unlearn
    if mode in ("salun", "salun_soft") and u.order == "joint" and u.loss != "relabel":
        _refuse(
            layers,
            "unlearn.order",
            f"joint gives forget images wrong labels, so unlearn.loss must be relabel; it is {u.loss}",
        )
    if mode == "sfron" and u.method == "joint" and (u.forget_every, u.remain_per_forget) != (1, 1):
        _refuse(layers, "unlearn.method", "joint is one step on the sum; forget_every and remain_per_forget must be 1")


def _fisher(cfg: Config, mode: str, layers: Layers) -> None:
    """Passes over a set: Fishers and saliency scores."""
    passes = {"generate_fisher": "fisher", "generate_mask": "saliency", "fisher_forget": "fisher"}
    section = getattr(cfg, passes[mode]) if mode in passes else None
    if section and cfg.world == "classifier" and (section.guidance or section.draws > 1):
        _refuse(layers, passes[mode], "guidance and draws are for diffusion, nothing is drawn for a classifier")
    if mode == "fisher_forget" and section.guidance:
        _refuse(layers, "fisher.guidance", "has no meaning in mode fisher_forget")
    if cfg.fisher and cfg.fisher.clip is not None and cfg.fisher.estimator != "batch":
        _refuse(layers, "fisher.clip", f"only estimator batch clips, this is {cfg.fisher.estimator}")
