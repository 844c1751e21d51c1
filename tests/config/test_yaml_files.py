"""YAML: each key once, plain words as keys, nothing deep, and every mistake a line with its number."""

import pytest

from functions.config.layers import Layers, apply_overlay
from functions.config.load import load_config
from functions.config.yaml_files import LARGEST, parse_yaml
from functions.errors import InputError

BASE = "base: digits_pretrain.yml\n"


# ten of ten of ten: what is printed of them, or merged, are 10^12
ALIASES = "\n".join(
    ["a:", "  - &a0 [" + "x, " * 10 + "]", *(f"  - &a{i} [" + f"*a{i - 1}, " * 10 + "]" for i in range(1, 12))]
)
MERGES = "\n".join(["a:", "  - &a0 {x: 1}", *(f"  - &a{i} {{<<: [" + f"*a{i - 1}, " * 30 + "]}" for i in range(1, 12))])


@pytest.mark.parametrize(
    "text, line",
    [
        ("a: 1\nb: 2\na: 3\n", r", line 3: not valid YAML \('a' stands here and in line 1: a key has one value\)"),
        ("a:\n  b: 1\n  c: {b: 1, b: 2}\n", r"line 3: .*'b' stands here and in line 3"),
        ("a: [{b: 1, b: 1}]", r"'b' stands here and in line 1"),
        ("1: a\n'1': b\n", r"'1' stands here and in line 1"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n  d: 1\n  d: 2\n", r"line 5: .*'d' stands here and in line 4"),
        ("a: !!timestamp never", r"line 1: .*'never' cannot be read as timestamp"),
        ("a: !!int many", r"line 1: .*'many' cannot be read as int"),
        ("a: !!int ''", r"'' cannot be read as int"),
        ("a: !!float ''", r"'' cannot be read as float"),
        ("a: !!bool perhaps", r"'perhaps' cannot be read as bool"),
        ("a: !!python/object/apply:os.getcwd []", r"could not determine a constructor"),
        ("a: !mine 1", r"could not determine a constructor"),
        ("a: " + "9" * 5000, r"'99.*' cannot be read as int"),
        ("a: " + "[" * 5000, r"nested more than 20 deep"),
        ("a: " + "{a: " * 30 + "1" + "}" * 30, r"nested more than 20 deep"),
        ("a: &x {b: *x}", r"a section that holds itself"),
        ("a: &x [*x]", r"a section that holds itself"),
        (ALIASES, r"line \d: not valid YAML \([\d,]+ values, aliases written out; a config has at most 20,000"),
        (MERGES, r"line \d: not valid YAML \([\d,]+ values, aliases written out"),
        ("? [a]\n: 1\n", r"a key is a word, not a list or a section"),
        ("{a: 1}: 1\n", r"a key is a word"),
        ("a: 1\n---\nb: 2\n", r"expected a single document"),
        ("a: *nowhere", r"found undefined alias"),
        ("a: \0", r"special characters are not allowed"),
        ("a: \x1b[2J", r"special characters are not allowed"),
        ("a: b: c", r"mapping values are not allowed here"),
        ("a:\n\tb: 1", r"cannot start any token"),
        ("a: 'b", r"unexpected end of stream"),
        ("a: =", r"could not determine a constructor"),
    ],
)
def test_mistakes_name_the_line(text, line):
    with pytest.raises(InputError, match=f"^x.*{line}") as caught:
        parse_yaml(text, "x")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_what_is_read():
    text = "\ufeffa: 1e-4\nb: 2020-13-45\nc: 2020-01-01\nd: &x {e: 1}\nf: {<<: *x, e: 2}\n"
    assert parse_yaml(text, "x") == {"a": 1e-4, "b": "2020-13-45", "c": "2020-01-01", "d": {"e": 1}, "f": {"e": 2}}


@pytest.mark.parametrize(
    "content, line",
    [
        (b"", "wanted keys and values, got nothing"),
        (b"# only a comment\n", "wanted keys and values, got nothing"),
        (b"- a\n", "wanted keys and values, got list"),
        (b"word", "wanted keys and values, got str"),
        (b"\xff\xfea\0:\0", "not UTF-8 text"),
        (b"a: \xe9", "not UTF-8 text"),
        (b"#" * (LARGEST + 1), "is no config: 1,048,577 bytes; at most 1,048,576 are read"),
        (b"base: ''\n", "base: got an empty name"),
        (b"base: 0\n", "base: got 0; wanted the name of a file"),
        (b"base: [a]\n", "wanted the name of a file"),
        (b"base: nowhere.yml\n", r"base: nowhere\.yml: no such file"),
        (b'base: "a\\0b"\n', "has no NUL in it"),
        (b"base: .\n", r"base: \.: is a folder; wanted a YAML file"),
        (b"base: digits_pretrian.yml", "did you mean 'digits_pretrain.yml'"),
    ],
)
def test_files_that_are_no_config(tmp_path, content, line):
    path = tmp_path / "mine.yml"
    path.write_bytes(content)
    for read in (lambda: load_config(str(path), "pretrain"), lambda: apply_overlay(Layers("pretrain"), str(path))):
        if content.startswith(b"base") and read.__code__.co_names[0] == "apply_overlay":
            continue
        with pytest.raises(InputError, match=rf"mine\.yml: .*{line}") as caught:
            read()
        assert "--config" not in str(caught.value)


@pytest.mark.parametrize(
    "text, line",
    [
        ("modes: [1]", r"mine\.yml: modes: wanted a block of settings for each mode"),
        ("modes: 5", r"mine\.yml: modes: wanted a block"),
        ("modes: {1: {}}", r"mine\.yml: modes\.1: no such mode"),
        ("modes: {pretrain: [1]}", r"modes: wanted a block"),
        ("modes: {pretrian: {}}", r"modes\.pretrian: no such mode \(did you mean 'pretrain'\?\)"),
        ("modes: {}", r"modes\.pretrain: missing"),
        ("world: {}", r"mine\.yml: world: got {} \(dict\); wanted 'ddpm', 'dit' or 'classifier'"),
        ("world: [ddpm]", r"world: got \['ddpm'\] \(list\)"),
        ("data: 5", r"mine\.yml: data: got 5 \(int\); "),
        ("data: []", r"data: got \[\] \(list\)"),
        ("model: {name: [1]}", r"model\.name: got \[1\]"),
        ("model: unet", r"model: got 'unet' \(str\)"),
        ("optim: {lr: 2020-01-01}", r"optim\.lr: got '2020-01-01' \(str\); wanted a valid number"),
        ("5: 1", r"mine\.yml: 5: unknown key"),
        ("~: 1", r"~: unknown key|None: unknown key"),
        ("results: ''", r"results: got an empty name"),
        ('results: "a\\0b"', r"results: got 'a\\x00b'; wanted a path"),
        (f"results: {'a' * 300}", r"results: got 'aaa.*, 300 characters; wanted a path"),
    ],
)
def test_sections_that_are_something_else(tmp_path, text, line):
    path = tmp_path / "mine.yml"
    path.write_text(BASE + text)
    with pytest.raises(InputError, match=line) as caught:
        load_config(str(path), "pretrain")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("block", ["5", "[a]", "word"])
def test_an_overlay_block_is_sections(tmp_path, block):
    path = tmp_path / "over.yml"
    path.write_text(f"ddpm: {block}\n")
    with pytest.raises(InputError, match=r"over\.yml: ddpm: got .*; wanted keys and values"):
        load_config("digits_pretrain.yml", "pretrain", overlays=[str(path)])
    path.write_text(f"ddpm: {{optim: {block}}}\n")
    with pytest.raises(InputError, match=r"over\.yml \(ddpm\): optim|optim: missing"):
        load_config("digits_pretrain.yml", "pretrain", overlays=[str(path)])


def test_each_missing_file_has_its_own_name():
    for words, line in (
        ({"name": "nowhere.yml"}, "^--config nowhere.yml: no such file, here or in configs/$"),
        ({"name": "digits_pretrain.yml", "overlays": ["nowhere.yml"]}, "^--overlay nowhere.yml: no such file"),
        ({"name": "."}, r"^--config \.: is a folder; wanted a YAML file"),
    ):
        with pytest.raises(InputError, match=line):
            load_config(mode="pretrain", **words)


def test_home_in_a_config(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yml").write_text(BASE + "results: ~/r\ndata: {path: ~/d}\n")
    cfg = load_config("~/mine.yml", "pretrain")
    assert (cfg.results, cfg.data.path) == (f"{tmp_path}/r", f"{tmp_path}/d")
