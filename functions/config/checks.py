"""What a config must not combine, beyond what types can say and what belongs to one section. Torch-free."""

from __future__ import annotations

from functions.config.methods import METHODS
from functions.config.schema import Config
from functions.config.section import Mode, Refused
from functions.config.worlds import WORLDS, worlds_with

ON_DISK = ("folder", "tinyimagenet", "imagenet")  # data sets of files, that may differ in size
FORGETS = (("label",), ("count",), ("fraction",), ("label", "count"), ("label", "fraction"), ("index_file",))


def check(cfg: Config, mode: str) -> None:
    """Raises Refused for the first combination that has no meaning."""
    for general in (_world, _data, _training, _forget):
        general(cfg)
    method = METHODS[mode]
    if "optim" in method.needs:
        _moments(cfg)
    if method.section is None:
        method().check(cfg)
    for name in (method.section, *method.needs):
        if name is not None and isinstance(section := getattr(cfg, name), Mode):
            section.check(cfg)


def _world(cfg: Config) -> None:
    """Models and diffusion that belong to one world."""
    world = WORLDS[cfg.world]
    if world.diffusion != (cfg.diffusion is not None):
        wanted = f"wanted for world {worlds_with('diffusion')} and only there"
        raise Refused("diffusion", f"{wanted}; world is {cfg.world}")
    if cfg.diffusion and not cfg.diffusion.beta_start < cfg.diffusion.beta_end:
        raise Refused("diffusion.beta_end", f"got {cfg.diffusion.beta_end}; wanted more than beta_start")
    if cfg.model and cfg.model.name not in world.models:
        raise Refused("model.name", f"{cfg.model.name} is no {cfg.world} model")


def _data(cfg: Config) -> None:
    """What only folders of pictures have."""
    for key, off in (("image_size", cfg.data.image_size != "auto"), ("test_fraction", cfg.data.test_fraction is None)):
        if not off and cfg.data.dataset != "folder":
            raise Refused(f"data.{key}", f"{getattr(cfg.data, key)} is for dataset folder, this is {cfg.data.dataset}")
    d = cfg.data
    if d.fit != "middle" and d.dataset not in ON_DISK:
        raise Refused("data.fit", f"{d.fit} is for dataset {', '.join(ON_DISK)}, this is {d.dataset}")
    if d.fit != "middle" and d.dataset == "folder" and d.image_size is None:
        raise Refused("data.fit", f"{d.fit} needs a size (data.image_size)")
    if d.remain_pool is not None and cfg.forget is None:
        raise Refused("data.remain_pool", "has no meaning where nothing is forgotten (--label_to_forget)")
    if d.latents is not None and not WORLDS[cfg.world].diffusion:
        raise Refused("data.latents", f"a {cfg.world} sees the images themselves")
    if d.latents is not None and d.crop:
        raise Refused("data.crop", "latents are of whole images and their mirror images: wanted 0 (data.latents)")


def _training(cfg: Config) -> None:
    """Lengths, schedules and precision."""
    t, o = cfg.training, cfg.optim
    if t and t.n_iters is None and t.epochs is None:
        raise Refused("training.n_iters", "missing; wanted it or training.epochs")
    if o and (o.lr_schedule == "steps") != bool(o.decreasing_lr):
        why = f"epochs belong to lr_schedule steps, and it to them; lr_schedule is {o.lr_schedule}"
        raise Refused("optim.decreasing_lr", why)


def _moments(cfg: Config) -> None:
    """Moments of some weights alone are enough where the others never move."""
    o = cfg.optim
    if not o.sparse_moments:
        return
    if not (cfg.unlearn and cfg.unlearn.freezes):
        why = "wanted a mask (--mask_path), unlearn.mask_mode strict, and a mode whose every step is masked"
        raise Refused("optim.sparse_moments", why)
    if o.name == "sgd" and o.momentum == 0:
        raise Refused("optim.sparse_moments", "sgd without momentum has no moments")


def _forget(cfg: Config) -> None:
    """What is forgotten is said in one way."""
    f = cfg.forget
    if f is None:
        return
    given = tuple(k for k in ("label", "count", "fraction", "index_file") if getattr(f, k) is not None)
    if given not in FORGETS:
        wanted = "wanted a label, a count or a fraction (of all or of one label), or an index_file"
        raise Refused("forget", f"got {' and '.join(given) or 'nothing'}; {wanted}")
