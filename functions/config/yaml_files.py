"""YAML as configs are written: plain keys and values, each key once, and every mistake one line. Torch-free."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from functions.errors import InputError, shown

# No config of ours is a hundredth of this: a larger file is something else.
LARGEST = 1 << 20
# modes.x.model.options.list is five deep
DEEPEST = 20
# What sections, lists and values come to with aliases written out: a resolved config has some hundred.
MOST = 20_000
MERGE = "tag:yaml.org,2002:merge"
# What YAML's constructors raise for a text that is not of the type that its tag, or its looks, say.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as text; here it is a number, and a date is text, as no setting is one.

    Keys are plain words that come once in their section, and sections are at most `DEEPEST` deep. Aliases count as what
    they stand for: ten of ten of ten are a line each, and what is printed or hashed of them is all of it.
    """

    depth = 0

    def __init__(self, stream):
        super().__init__(stream)
        self.sizes: dict[int, int] = {}  # by the id of a node

    def compose_node(self, parent, index):
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {DEEPEST} deep", problem_mark=self.peek_event().start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        # only an alias inside of what it stands for is met before its end
        if node.end_mark is None:
            raise yaml.MarkedYAMLError(problem="a section that holds itself", problem_mark=node.start_mark)
        if id(node) not in self.sizes:
            self.sizes[id(node)] = 1 + sum(self.sizes[id(part)] for part in _parts(node))
        if self.sizes[id(node)] > MOST:
            problem = f"{self.sizes[id(node)]:,} values, aliases written out; a config has at most {MOST:,}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node

    def compose_mapping_node(self, anchor):
        node, lines = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            mark = key.start_mark
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is a word, not a list or a section", problem_mark=mark)
            if key.value in lines and key.tag != MERGE:
                earlier = f"{key.value!r} stands here and in line {lines[key.value]}: a key has one value"
                raise yaml.MarkedYAMLError(problem=earlier, problem_mark=mark)
            lines[key.value] = mark.line + 1
        return node

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except UNREADABLE:
            problem = f"{shown(node.value)} cannot be read as {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


def _parts(node: yaml.Node) -> list[yaml.Node]:
    """The keys and values of a section, the items of a list."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


DATE = "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != DATE]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
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
        parts = [part for part in (getattr(error, name, None) for name in ("context", "problem")) if part]
        problem = " ".join((", ".join(parts) or str(error)).split())
        raise InputError(f"{source}{line}: not valid YAML ({problem})") from None


def read_yaml(path: Path) -> object:
    """`parse_yaml` of a file."""
    size = path.stat().st_size
    if size > LARGEST:
        raise InputError(f"{path}: is no config: {size:,} bytes; at most {LARGEST:,} are read")
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_sections(path: Path) -> dict:
    """The keys and values at the top of a file."""
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        came = "nothing" if tree is None else type(tree).__name__
        raise InputError(f"{path}: wanted keys and values, got {came}")
    return tree
