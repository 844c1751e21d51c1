"""Configs: YAML with `base:`, overlays, `--set` and flags, checked against `schema` before torch is imported.

The resolved config is written with each run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import yaml
from pydantic import ValidationError

from functions.config.checks import check_combination
from functions.config.names import ALPHA, COND_SCALE, FLAG_OF, FLAGS, NEEDS, OPTIONAL, READS
from functions.config.schema import CIFAR_ARCHS, RESNETS, RL_ALIAS, Config, Section
from functions.errors import InputError, nearest

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"

# Two keys that say one thing: the one that was set last counts.
ALTERNATIVES = {("training", "n_iters"): "epochs", ("training", "epochs"): "n_iters"}


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
        raise InputError(f"{source}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None


def read_yaml(path: Path) -> object:
    """`parse_yaml` of a file."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def find_config(name: str) -> Path:
    """A path as it is, otherwise the file of that name in `configs/` or a folder of it, where names are unique."""
    if Path(name).is_file():
        return Path(name)
    there = {p.name: p for p in sorted(CONFIG_FOLDER.rglob("*.yml"))}
    if name in there:
        return there[name]
    known = list(there)
    raise InputError(f"--config {name}: no such file, here or in configs/{nearest(name, known)}")


class Layers:
    """Nested settings, and for every leaf the file or flag that set it."""

    def __init__(self) -> None:
        self.values: dict = {}
        self.sources: dict[tuple[str, ...], str] = {}
        self.architecture: dict = {}  # the model that the file's pretraining makes, for modes that start from one

    def merge(self, tree: dict, source: str, prefix: tuple[str, ...] = ()) -> None:
        """Later layers win, key by key; a section set to null is dropped."""
        for key, value in tree.items():
            path = (*prefix, str(key))
            self.sources[path] = source
            if value is not None and (other := ALTERNATIVES.get(path[-2:], key)) not in tree:
                self.node(prefix).pop(other, None)
            if isinstance(value, dict):
                if key == "model" and "name" in value:  # another model has other keys
                    self.node(prefix).pop(key, None)
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

    def promote(self, mode: str) -> None:
        """Put the block `modes.<mode>` on top of the rest, and drop the blocks of the other modes."""
        blocks = self.values.pop("modes", None)
        if blocks is None:
            return
        where = self.sources[("modes",)]
        if not isinstance(blocks, dict) or not all(isinstance(b, dict | None) for b in blocks.values()):
            raise InputError(f"{where}: modes: wanted a block of settings for each mode")
        self.architecture = (blocks.get("pretrain") or {}).get("model", {})
        for name in blocks:
            if name not in NEEDS:
                raise InputError(f"{self.source(('modes', name))}: modes.{name}: no such mode{nearest(name, NEEDS)}")
        if mode not in blocks:
            raise InputError(f"{where}: modes.{mode}: missing; there are blocks for {', '.join(blocks)}")
        inside = {p[2:]: source for p, source in self.sources.items() if p[:2] == ("modes", mode)}
        self.merge(blocks[mode] or {}, where)
        self.sources.update({path: source for path, source in inside.items() if path})

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
    of_mode = {"cond_scale": COND_SCALE.get(mode), "alpha": ALPHA.get(mode)}
    keys = {**FLAGS, **{flag: key for flag, key in of_mode.items() if key}}
    sections = (*NEEDS[mode], *OPTIONAL.get(mode, ("model",)), "seeds", "data", "save_dir")
    given: dict[str, tuple[str, object]] = {}
    for flag, value in flags.items():
        if value is None or (flag == "class_to_replace" and value == -1):  # published: images of every class
            continue
        if flag not in keys or keys[flag].split(".")[0] not in sections:
            raise InputError(f"--{flag}: has no meaning in mode {mode}")
        said = f"--{flag} {value}"
        earlier, other = given.setdefault(keys[flag], (said, value))
        if other != value:
            raise InputError(f"{earlier} and {said}: both set {keys[flag]}, and differ")
        if flag == "arch":
            value = _model_of(value, layers)
        if flag == "unlearn_loss" and value == "rl":
            world = layers.values.get("world")
            value = RL_ALIAS.get(world, value) if isinstance(world, str) else value
            print(f"--unlearn_loss rl means {value!r} for world {world!r}")
        layers.merge(_nested(keys[flag], value), said)


def _model_of(arch: str, layers: Layers) -> dict:
    """The `model` section of an architecture's name, in place of the config's: ours, torchvision's or timm's."""
    section = layers.values.pop("model", None) or layers.architecture
    name = section.get("name") if isinstance(section, dict) else None
    if name is not None and section.get("arch", name) == arch:  # the config's own, with all it says of it
        return section
    if arch == "cnn":
        return {"name": "cnn"}
    if arch in RESNETS and (name == "torchvision" or arch not in CIFAR_ARCHS):
        return {"name": "torchvision", "arch": arch}
    return {"name": "cifar" if arch in CIFAR_ARCHS else "timm", "arch": arch}


def _nested(key: str, value: object) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[return-value]


def load_config(name: str, mode: str, overlays=(), settings=(), flags: dict[str, object] | None = None) -> Config:
    """The checked config of a run: file over base, then overlays, `--set`, flags. Raises InputError with one line."""
    layers, flags = read_layers(name), dict(flags or {})
    layers.promote(mode)
    apply_flags(layers, {"arch": flags.pop("arch", None)}, mode)  # first: --set may say more about that model
    for overlay in overlays or ():
        apply_overlay(layers, overlay, mode)
    for setting in settings or ():
        apply_setting(layers, setting)
    apply_flags(layers, flags, mode)
    cfg = validate(layers)
    for section in NEEDS[mode]:
        if getattr(cfg, section) is None:
            where = f"; set {FLAG_OF[section]}" if section in FLAG_OF else ""
            raise InputError(f"{layers.sources[()]}: {section}: missing, and mode {mode} needs it{where}")
    check_combination(cfg, mode, layers)
    return cfg


def resolved_hash(words: Sequence[str]) -> str | None:
    """SHA-256 of what `--config`, `--mode` and `--set` come to; None where a command names no config."""
    if "--config" not in words:
        return None
    layers = read_layers(words[words.index("--config") + 1])
    if "--mode" in words:
        layers.promote(words[words.index("--mode") + 1])
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
    loc = tuple(str(p) for p in problem["loc"] if p not in ("unet", "cnn", "cifar", "torchvision", "timm"))
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


def dump_config(cfg: Config) -> str:
    """The resolved config as YAML that `--config` reads again."""
    return yaml.safe_dump(cfg.model_dump(), sort_keys=False)


def config_hash(cfg: Config) -> str:
    """SHA-256 of what decides the numbers of a run; what it logs, where it writes and how it loads data do not.

    How long it runs does not either, unless a schedule ends with it.
    """
    free = {"log_freq", "snapshot_freq", "keep"}
    cosine = cfg.optim is not None and cfg.optim.lr_schedule == "cosine"
    scheduled = cosine or (cfg.unlearn and cfg.unlearn.decay_forget_alpha) or cfg.l1 or cfg.salun_soft
    if not scheduled:
        free |= {"n_iters", "epochs"}
    exclude = {"results": True, "save_dir": True, "device": True, "training": free, "data": {"n_workers", "path"}}
    tree = json.dumps(cfg.model_dump(exclude=exclude), sort_keys=True)
    return hashlib.sha256(tree.encode()).hexdigest()
