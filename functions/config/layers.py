"""Settings in layers: YAML files over their `base:`, overlays, `--set`; and for every key who set it. Torch-free."""

from __future__ import annotations

from pathlib import Path

from functions.config.methods import METHODS
from functions.config.yaml_files import parse_yaml, read_sections
from functions.errors import InputError, nearest, shown
from functions.places import place

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"

# Two keys that say one thing: the one that was set last counts.
ALTERNATIVES = {("training", "n_iters"): "epochs", ("training", "epochs"): "n_iters"}


def find_config(name: str, said: str = "--config") -> Path:
    """A path as it is, otherwise the file of that name in `configs/` or a folder of it, where names are unique.

    `said` is where the name stands, for messages.
    """
    try:
        path = Path(place(name))
    except ValueError as error:
        raise InputError(f"{said.rstrip(':')}: {error}") from None
    if path.is_file():
        return path
    if path.exists():
        raise InputError(f"{said} {name}: is {'a folder' if path.is_dir() else 'no file'}; wanted a YAML file")
    there = {p.name: p for p in sorted(CONFIG_FOLDER.rglob("*.yml"))}
    if name in there:
        return there[name]
    raise InputError(f"{said} {name}: no such file, here or in configs/{nearest(name, there)}")


class Layers:
    """Nested settings, and for every leaf the file or flag that set it, and how it is spelled there.

    Keys in a mode's own section (`sa.lmbda`) are kept as `unlearn.lmbda`, so that the last layer wins in either
    spelling. `mode` None keeps them as they are.
    """

    def __init__(self, mode: str | None = None) -> None:
        self.mode = mode
        self.values: dict = {}
        self.sources: dict[tuple[str, ...], str] = {}
        self.spellings: dict[tuple[str, ...], str] = {}
        self.architecture: dict = {}  # the model that the file's pretraining makes, for modes that start from one

    def merge(self, tree: dict, source: str) -> None:
        """Later layers win, key by key; a section set to null is dropped."""
        moved: dict[tuple[str, ...], str] = {}
        tree = _one_spelling(tree, self.mode, source, (), moved)
        if isinstance(tree.get("modes"), dict):
            blocks = tree["modes"].items()
            tree["modes"] = {name: _one_spelling(b, name, source, ("modes", name), moved) for name, b in blocks}
        self._merge(tree, source, (), moved)

    def _precision(self, bf16: bool) -> str:
        """What `bf16: true` and `bf16: false` make of the precision so far."""
        so_far = self.node(("training",)).get("precision", "fp32")
        return "bf16" if bf16 else "fp32" if so_far == "bf16" else so_far

    def _merge(self, tree: dict, source: str, prefix: tuple[str, ...], moved: dict[tuple[str, ...], str]) -> None:
        for key, value in tree.items():
            path = (*prefix, str(key))
            if path == ("training", "bf16") and isinstance(value, bool):  # as --bf16 and older files say it
                path, value = ("training", "precision"), self._precision(value)
            self.sources[path] = source
            self.spellings.pop(path, None)
            if path in moved:
                self.spellings[path] = moved[path]
            if value is not None and (other := ALTERNATIVES.get(path[-2:], key)) not in tree:
                self.node(prefix).pop(other, None)
            if isinstance(value, dict):
                if key == "model" and "name" in value:  # another model has other keys
                    self.node(prefix).pop(key, None)
                self.node(path)  # an empty section is a section, all defaults
                self._merge(value, source, path, moved)
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

    def promote(self) -> None:
        """Put the block `modes.<mode>` on top of the rest, and drop the blocks of the other modes."""
        blocks = self.values.pop("modes", None)
        if blocks is None:
            return
        where = self.sources[("modes",)]
        if not isinstance(blocks, dict) or not all(isinstance(b, dict | None) for b in blocks.values()):
            raise InputError(f"{where}: modes: wanted a block of settings for each mode")
        self.architecture = (blocks.get("pretrain") or {}).get("model", {})
        for name in blocks:
            if name not in METHODS:
                where = self.source(("modes", str(name)))
                raise InputError(f"{where}: modes.{name}: no such mode{nearest(name, METHODS)}")
        if self.mode not in blocks:
            raise InputError(f"{where}: modes.{self.mode}: missing; there are blocks for {', '.join(blocks)}")
        sources, spellings = (_below(d, ("modes", self.mode)) for d in (self.sources, self.spellings))
        self.merge(blocks[self.mode] or {}, where)
        self.sources.update(sources)
        self.spellings.update(spellings)

    def source(self, path: tuple[str, ...]) -> str:
        """The setter of a key, or of the nearest section above it."""
        while path and path not in self.sources:
            path = path[:-1]
        return self.sources.get(path, self.sources.get((), "config"))

    def named(self, path: tuple[str, ...]) -> str:
        """Who set a key, and the key as it is spelled there, or as it is published where nobody set it."""
        key = self.spellings.get(path, ".".join(path))
        method = METHODS.get(self.mode)
        if path not in self.sources and method and len(path) == 2 and path[0] == method.section:
            key = method.spelling(path[1])
        return f"{self.source(path)}: {key}"


def _one_spelling(
    tree: object, mode: str | None, source: str, prefix: tuple[str, ...], moved: dict[tuple[str, ...], str]
) -> object:
    """A layer whose keys of the mode's own section stand in `unlearn`; `moved` learns how they were spelled."""
    method = METHODS.get(mode)
    if method is None or method.own is None or not isinstance(tree, dict):
        return dict(tree) if isinstance(tree, dict) else tree
    own, shared = tree.get(method.own), tree.get(method.section)
    if not isinstance(own, dict) or not isinstance(shared, dict | None):
        return dict(tree)
    keys = own.keys() & method.own_keys()
    merged = dict(shared or {})
    for key in sorted(keys):
        if key in merged and merged[key] != own[key]:
            both = f"{method.own}.{key} and {method.section}.{key}"
            raise InputError(f"{source}: {both}: two spellings of one key, and they differ")
        merged[key] = own[key]
        moved[(*prefix, method.section, key)] = f"{method.own}.{key}"
    unknown = {k: v for k, v in own.items() if k not in keys}
    return {**tree, method.section: merged, method.own: unknown}


def _below(paths: dict[tuple[str, ...], str], prefix: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """The entries below `prefix`, without it."""
    n = len(prefix)
    return {path[n:]: value for path, value in paths.items() if path[:n] == prefix and len(path) > n}


def read_layers(name: str, layers: Layers | None = None, seen: tuple[Path, ...] = (), said: str = "--config") -> Layers:
    """The settings of a file on top of those of its `base:` chain (looked up beside it, then in configs/)."""
    layers = layers or Layers()
    path = find_config(name, said)
    if path.resolve() in seen:
        raise InputError(f"{path}: base: {name} leads back to itself")
    tree = read_sections(path)
    if "base" in tree:
        base = tree.pop("base")
        if not isinstance(base, str):
            raise InputError(f"{path}: base: got {shown(base)}; wanted the name of a file")
        beside = path.parent / base
        there = "\0" not in base and beside.is_file()
        read_layers(str(beside) if there else base, layers, (*seen, path.resolve()), f"{path}: base:")
    layers.merge(tree, str(path))
    layers.sources[()] = str(path)
    return layers


def apply_overlay(layers: Layers, name: str) -> None:
    """Merge the block of the config's world, then the one below its `modes` that is the mode's, if there are such.

    Both for the sections that the config has; of what is for all modes only the keys of `unlearn` that this one reads.
    """
    path = find_config(name, "--overlay")
    blocks, method = read_sections(path), METHODS[layers.mode]
    world = layers.values.get("world")
    if not isinstance(world, str) or world not in blocks:
        raise InputError(f"{path}: no block for world {shown(world)}")
    shared = dict(_block(blocks[world], f"{path}: {world}"))
    modes = _block(shared.pop("modes", None), f"{path}: {world}.modes")
    for mode in modes:
        if mode not in METHODS:
            raise InputError(f"{path}: {world}.modes.{mode}: no such mode{nearest(mode, METHODS)}")
    if isinstance(shared.get("unlearn"), dict) and method.section == "unlearn":
        shared["unlearn"] = {k: v for k, v in shared["unlearn"].items() if k in method.model_fields}
    own = _block(modes.get(layers.mode), f"{path}: {world}.modes.{layers.mode}")
    there = {k for k, v in layers.values.items() if v is not None}
    there |= {method.own} if "unlearn" in there else set()
    for block, source in ((shared, f"{path} ({world})"), (own, f"{path} ({world}, {layers.mode})")):
        layers.merge({k: v for k, v in block.items() if k in there}, source)


def _block(settings: object, named: str) -> dict:
    """A part of an overlay, {} where there is nothing in it. Raises InputError where it is no mapping."""
    if not isinstance(settings, dict | None):
        raise InputError(f"{named}: got {shown(settings)}; wanted keys and values")
    return settings or {}


def apply_setting(layers: Layers, setting: str) -> None:
    """One `--set section.key=value`."""
    key, equals, value = setting.partition("=")
    if not equals:
        raise InputError(f"--set {setting}: wanted section.key=value")
    said = f"--set {shown(setting)[1:-1]}"
    layers.merge(nested(key.strip(), parse_yaml(value, said)), said)


def nested(key: str, value: object) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[return-value]
