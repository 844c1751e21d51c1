"""Configs: YAML with `base:`, overlays, `--set` and flags, checked against `schema` before torch is imported.

The resolved config is written with each run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from typing import get_args

import yaml
from pydantic import ValidationError

from functions.config.checks import check
from functions.config.layers import Layers, apply_overlay, apply_setting, read_layers
from functions.config.methods import METHODS
from functions.config.names import FLAG_OF, PUBLISHED, apply_flags
from functions.config.schema import Config
from functions.config.section import Mode, Refused, Section
from functions.config.worlds import WORLDS
from functions.errors import InputError, nearest, shown

FORMAT = 2  # of what `config_hash` hashes: 2 since each mode has a section of its own
# Keys that came after FORMAT 2, at what was done before: at that they are not hashed, so that older runs can go on
LATER = {
    ("data", "test_fraction"): None,
    ("data", "n_classes"): None,
    ("data", "fit"): "middle",
    ("data", "remain_pool"): None,
    ("data", "pool_seed"): 0,
    ("data", "latents"): False,
    ("diffusion", "learned_variance"): False,
    ("optim", "cosine_per"): "step",
    ("optim", "sparse_moments"): False,
    ("sampling", "guided_channels"): "all",
    ("unlearn", "adaga_floor"): 1e-8,
    ("unlearn", "drop_labels"): False,
    ("unlearn", "target_dropout"): False,
    ("unlearn", "threshold"): None,
    ("fisher", "n_iters"): None,
    ("fisher", "mask_path"): None,
    ("saliency", "average"): "images",
    ("saliency", "n_iters"): None,
    ("saliency", "mask_path"): None,
}
# Tags of a union, which pydantic puts into the place of an error
TAGS = (*(model for world in WORLDS.values() for model in world.models), "pixels", "latents")
# and what it calls the types of another union there
MEMBERS = re.compile(r"(constrained-)?(int|float)$|bool$|str$|list\[|literal\[|function-")


def load_config(name: str, mode: str, overlays=(), settings=(), flags: dict[str, object] | None = None) -> Config:
    """The checked config of a run: file over base, then overlays, `--set`, flags. Raises InputError with one line."""
    layers, flags = read_layers(name, Layers(mode)), dict(flags or {})
    layers.promote()
    apply_flags(layers, {"arch": flags.pop("arch", None)})  # first: --set may say more about that model
    for overlay in overlays or ():
        apply_overlay(layers, overlay)
    for setting in settings or ():
        apply_setting(layers, setting)
    apply_flags(layers, flags)
    cfg, method = validate(layers), METHODS[mode]
    for section in (*method.needs, method.section):
        if section is not None and getattr(cfg, section) is None:
            flag = PUBLISHED.get(cfg.world) if section == "ckpt_folder" else None
            flag = flag or FLAG_OF.get(section)
            where = f"; set {flag}" if flag else ""
            raise InputError(f"{layers.sources[()]}: {section}: missing, and mode {mode} needs it{where}")
    try:
        check(cfg, mode)
    except Refused as refused:
        raise InputError(f"{layers.named(tuple(refused.key.split('.')))}: {refused.why}") from None
    return cfg


def resolved_hash(words: Sequence[str], mode: str | None = None) -> str | None:
    """SHA-256 of what `--config`, `--mode` and `--set` come to; None where a command names no config.

    `mode` is that of a script which has one and no such flag.
    """
    if "--config" not in words:
        return None
    mode = words[words.index("--mode") + 1] if "--mode" in words else mode
    # sample.py's modes share one block
    layers = Layers(mode if mode is None or mode in METHODS else "sample")
    read_layers(words[words.index("--config") + 1], layers)
    if layers.mode is not None:
        layers.promote()
    for flag, value in itertools.pairwise(words):
        if flag == "--set":
            apply_setting(layers, value)
    return hashlib.sha256(json.dumps(layers.values, sort_keys=True).encode()).hexdigest()


def validate(layers: Layers) -> Config:
    """The sections of a config, `unlearn` as the mode's own. pydantic's first complaint becomes one line."""
    values, method = dict(layers.values), METHODS[layers.mode]
    _check_own_sections(values, layers)
    given = _unlearn(values.pop("unlearn", None), method, layers)
    cfg = _validated(Config, values, layers)
    if given is None or method.section != "unlearn":
        return cfg
    if method.own and layers.values.get(method.own) is None and not given.keys() & method.own_keys():
        raise InputError(f"{layers.sources[()]}: {method.own}: missing, and mode {layers.mode} needs it")
    section = _validated(method, given, layers, ("unlearn",))
    return cfg.model_copy(update={"unlearn": section.resolved(WORLDS[cfg.world])})


def _check_own_sections(values: dict, layers: Layers) -> None:
    """Take out the published sections of methods, here those of other modes: they serve another run of this file."""
    for method in METHODS.values():
        given = values.pop(method.own, None) if method.own else None
        if not isinstance(given, dict | None):
            raise InputError(f"{layers.named((method.own,))}: got {shown(given)}; wanted keys and values")
        for key in given or {}:
            if key not in method.own_keys():
                hint = nearest(str(key), method.own_keys())
                raise InputError(f"{layers.named((method.own, str(key)))}: unknown key{hint}")


def _unlearn(given: object, method: type[Mode], layers: Layers) -> dict | None:
    """The keys of `unlearn` that the mode reads. Those of other modes are refused but at a default, which says nothing.

    (Resolved configs used to list the keys of all modes.) A mode that reads none of them only wants them to exist.
    """
    if given is None:
        return None
    if not isinstance(given, dict):
        raise InputError(f"{layers.named(('unlearn',))}: got {shown(given)}; wanted keys and values")
    reads = set(method.model_fields) if method.section == "unlearn" else set()
    for key in sorted(given.keys() - reads, key=str):
        default = [m.model_fields[key].default for m in _methods() if key in m.model_fields]
        if not default:
            hint = nearest(str(key), reads) or nearest(str(key), {k for m in _methods() for k in m.model_fields})
            raise InputError(f"{layers.named(('unlearn', str(key)))}: unknown key{hint}")
        if reads and given[key] not in (None, *default):
            raise InputError(f"{layers.named(('unlearn', str(key)))}: has no meaning in mode {layers.mode}")
    return {key: value for key, value in given.items() if key in reads}


def _methods() -> list[type[Mode]]:
    return [m for m in METHODS.values() if m.section == "unlearn"]


def _validated(model: type[Section], values: dict, layers: Layers, prefix: tuple[str, ...] = ()) -> Section:
    """Raises InputError with one line: file or flag, key, what came, what was wanted."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
    loc = (*prefix, *(str(p) for p in problem["loc"] if p not in TAGS and not MEMBERS.match(str(p))))
    named = layers.named(loc)
    if problem["type"] == "extra_forbidden":
        raise InputError(f"{named}: unknown key{nearest(loc[-1], _keys_at(model, problem['loc'][:-1]))}")
    if problem["type"] == "missing":
        raise InputError(f"{named}: missing; wanted here or in its base")
    if problem["type"] == "union_tag_not_found":
        raise InputError(f"{named}.name: missing; wanted one of {', '.join(TAGS)}")
    came = problem["input"]
    if problem["type"] == "union_tag_invalid":  # the whole section comes back: show its name alone
        came, named = came["name"], f"{named}.name"
    if problem["type"] == "value_error":  # says itself what came
        raise InputError(f"{named}: {problem['ctx']['error']}")
    wanted = problem["msg"].lower().replace("input should be", "wanted")
    wanted = re.sub(".*expected tags: ", "wanted ", wanted)
    hint = nearest(came, re.findall(r"'(.*?)'", wanted)) if isinstance(came, str) else ""
    raise InputError(f"{named}: got {shown(came)} ({type(came).__name__}); {wanted}{hint}")


def _keys_at(model: type[Section], loc: tuple) -> list[str]:
    """The valid keys of the section at `loc`, following optional and tagged unions."""
    sections = [model]
    for part in loc:
        fields = [s.model_fields[part].annotation for s in sections if part in s.model_fields]
        sections = [m for f in fields for m in _sections_in(f)] if fields else sections
    return sorted({key for s in sections for key in s.model_fields})


def _sections_in(annotation: object) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [s for a in get_args(annotation) for s in _sections_in(a)]


def dump_config(cfg: Config) -> str:
    """The resolved config as YAML that `--config` reads again."""
    return yaml.safe_dump(cfg.model_dump(), sort_keys=False)


def config_hash(cfg: Config) -> str:
    """SHA-256 of what decides the numbers of a run; what it logs, where it writes and how it loads data do not.

    How long it runs does not either, unless a schedule ends with it.
    """
    free = {"log_freq", "snapshot_freq", "keep", "preview", "preview_freq", "curves"}
    cosine = cfg.optim is not None and cfg.optim.lr_schedule == "cosine"
    if not (cosine or (cfg.unlearn and cfg.unlearn.scheduled)):
        free |= {"n_iters", "epochs"}
    exclude = {"results": True, "save_dir": True, "device": True, "training": free, "data": {"n_workers", "path"}}
    tree = cfg.model_dump(exclude=exclude)
    # a place, but what is read there is rounded to half precision
    tree["data"]["latents"] = cfg.data.latents is not None
    for (section, key), before in LATER.items():
        if tree[section] and tree[section].get(key) == before:
            tree[section].pop(key, None)
    if cfg.unlearn and cfg.unlearn.revision:
        tree["revision"] = cfg.unlearn.revision
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
