"""The ends of a script: every mistake one line and a code, every bug a line and its traceback in a file."""

import argparse
import errno
import io
import os
import re
import sys
from pathlib import Path

import pytest

from functions.config.cli import Parser, a_path, a_seed, number, run_main, whole
from functions.errors import InputError, nearest, shown
from functions.files import stream_atomic
from functions.places import check_file_place, check_folder_place, place
from functions.storage.run import RunFolder


def ends(main, monkeypatch, capsys, *words: str) -> tuple[int, list[str]]:
    """The code that a script of this `main` ends with, and its lines on stderr."""
    monkeypatch.setattr(sys, "argv", ["some/script.py", *words])
    code = run_main(main)
    return code, capsys.readouterr().err.splitlines()


def raising(error: BaseException):
    def main(argv):
        raise error

    return main


# ---- ends


@pytest.mark.parametrize(
    "error, code, line",
    [
        (InputError("a: wanted b"), 2, "script.py: a: wanted b"),
        (InputError("a\nb\x1b[2J\udce9"), 2, r"script.py: a b\x1b[2J\udce9"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x.png"), 2, "No space left on device: 'out/x.png'"),
        (OSError(), 2, "script.py: OSError"),
        (KeyboardInterrupt(), 130, "script.py: interrupted"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, "the output's reader has gone"),
        (MemoryError(), 2, "not enough memory (MemoryError); smaller batches"),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), 2, "not enough memory (CUDA out of memory."),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), 2, "not enough memory"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_users_meet_is_one_line(error, code, line, monkeypatch, capsys):
    found, lines = ends(raising(error), monkeypatch, capsys)
    assert (found, len(lines)) == (code, 1) and line in lines[0]


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("deep"), ZeroDivisionError(), ValueError("a\nb")])
def test_a_bug_is_one_line_and_a_traceback_in_a_file(error, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, (line,) = ends(raising(error), monkeypatch, capsys)
    form = rf"script\.py: this is a bug in Palimpsest: {type(error).__name__}: .+ \(traceback in (.+)\)"
    text = Path(re.fullmatch(form, line)[1]).read_text()
    assert code == 70 and text.startswith("Traceback") and "in main" in text and type(error).__name__ in text


def test_a_bug_is_never_silent(monkeypatch, capsys, tmp_path):
    """Where no file can be had the traceback goes to the screen."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    code, lines = ends(raising(KeyError("x")), monkeypatch, capsys)
    assert code == 70 and lines[0].startswith("Traceback") and "this is a bug in Palimpsest: KeyError" in lines[-1]


def test_a_bug_inside_a_run_is_in_its_log(monkeypatch, capsys):
    run = RunFolder.create_at(Path("run"), "", {})

    def main(argv):
        try:
            raise KeyError("x")
        except KeyError:
            run.keep_traceback()
            raise

    code, (line,) = ends(main, monkeypatch, capsys)
    assert code == 70 and line.endswith("(traceback in run/logs/stdout.txt)")
    assert "KeyError: 'x'" in (run.logs / "stdout.txt").read_text()


def test_debug_shows_the_traceback_and_the_line(monkeypatch, capsys):
    for error, code in ((InputError("a"), 2), (KeyError("x"), 70)):
        found, lines = ends(raising(error), monkeypatch, capsys, "--debug")
        assert found == code and lines[0].startswith("Traceback") and lines[-1].startswith("script.py: ")


def test_a_terminal_of_ascii_shows_everything(monkeypatch, capsys):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert ends(lambda argv: print("5.9 ± 0.1 caf\udce9"), monkeypatch, capsys)[0] == 0
    assert raw.getvalue() == b"5.9 \\xb1 0.1 caf\\udce9\n"


def test_a_reader_that_went_away(monkeypatch, capsys):
    """What is left in the buffer when `| head` closes is no second error at the end."""
    read, write = os.pipe()
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    os.close(read)
    assert ends(lambda argv: print("x"), monkeypatch, capsys)[0] == 141
    sys.stdout.close()


# ---- flags


def parser() -> Parser:
    p = Parser(description="x")
    p.add_argument("-b", "--batch_size", type=int)
    p.add_argument("--label_to_forget", "--forget_class", type=whole(0, 9))
    p.add_argument("--lr", type=float)
    p.add_argument("--alpha", type=number(0))
    p.add_argument("--seed", type=a_seed)
    p.add_argument("--mode", choices=("pretrain", "retrain"), required=True)
    p.add_argument("--out", type=a_path)
    return p


@pytest.mark.parametrize(
    "words, line",
    [
        ("", "the following arguments are required: --mode"),
        ("--mode pretrian", "--mode: got 'pretrian'; wanted pretrain, retrain (did you mean 'pretrain'?)"),
        ("--mode sa", "--mode: got 'sa'; wanted pretrain, retrain"),
        ("-b x", "--batch_size: got 'x'; wanted a whole number"),
        ("--batch-size 1.5", "--batch_size: got '1.5'; wanted a whole number"),
        ("--label_to_forget 10", "--label_to_forget: got '10'; wanted a whole number from 0 to 9"),
        ("--forget-class 10", "--forget_class: got '10'; wanted a whole number from 0 to 9"),
        ("--lable-to-forget 3", "--lable-to-forget: no such flag (did you mean '--label_to_forget'?)"),
        ("--lr nan", "--lr: got 'nan'; wanted a finite number"),
        ("--alpha -1", "--alpha: got '-1'; wanted a finite number, 0 or more"),
        ("--seed 1180591620717411303424", "--seed: got '1180591620717411303424'; wanted a whole number from 0 to"),
        ("--seed", "--seed: wanted a value after it"),
        ("--lable_to_forget 3", "--lable_to_forget: no such flag (did you mean '--label_to_forget'?)"),
        ("--label 3", "--label: no such flag (did you mean '--label_to_forget'?)"),
        ("--forget-class 1 --label-to-forget=2", "--forget_class and --label_to_forget: two names of one flag; wanted"),
        ("--quux=3", "--quux: no such flag; see"),
        ("--mode pretrain more", "more: one word too many"),
        ("--debug=1", "--debug: ignored explicit argument '1'"),
    ],
)
def test_a_flag_that_is_wrong_is_one_line(words, line, monkeypatch, capsys):
    code, lines = ends(lambda _: parser().parse_args(words.split()), monkeypatch, capsys)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith(f"script.py: {line}") and lines[0].endswith("; see --help")


def test_hyphens_are_underscores_in_names_of_flags_and_nowhere_else():
    p = parser()
    p.add_argument("--dry_run", action=argparse.BooleanOptionalAction)
    p.add_argument("rest", nargs="*")
    args = p.parse_args(["--batch-size=3", "--forget-class", "1", "--out", "a-b", "--mode", "pretrain", "--no-dry-run"])
    assert (args.batch_size, args.label_to_forget, args.out, args.dry_run) == (3, 1, "a-b", False)
    assert p.parse_args(["--mode", "pretrain", "--", "--batch-size"]).rest == ["--batch-size"]


def test_long_values_are_shown_short():
    with pytest.raises(InputError, match=r"^--seed: got '1{59}\.\.\.1{14}'; wanted") as caught:
        parser().parse_args(["--seed", "1" * 9000])
    assert len(str(caught.value)) < 250 and shown("ab") == "'ab'"


@pytest.mark.parametrize(
    "word, choice",
    [
        ("cat", "cats"), ("retrian", "retrain"), ("CIFAR10", "cifar10"), ("cifar", "cifar10"), ("lmda", "lmbda"),
        ("dropuot", "dropout"), ("digits_pretrian.yml", "digits_pretrain.yml"), ("label", "label_to_forget"),
    ],
)  # fmt: skip
def test_near_words_are_suggested(word, choice):
    assert nearest(word, ["unlike", choice]) == f" (did you mean '{choice}'?)"


@pytest.mark.parametrize(
    "word, choice",
    [
        ("sa", "ga"), ("lr", "ch"), ("cat", "dog"), ("mnist", "digits"), ("mnist_pretrain.yml", "digits_pretrain.yml"),
        ("fisher", "finetune"), ("eta", "beta_start"), ("", "digits"), (5, "ch"), ("x" * 500, "digits"),
    ],
)  # fmt: skip
def test_words_that_are_far_are_not(word, choice):
    assert nearest(word, [choice]) == ""


# ---- places


def test_home_is_expanded_and_nothing_else(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert [place(p) for p in ("~", "~/a/~", "~other", "$HOME/a", "a*")] == [
        "/home/me", "/home/me/a/~", "~other", "$HOME/a", "a*",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["", "a\0b", "a" * 256, "a/" * 2500])
def test_what_no_file_is_called(path):
    with pytest.raises(ValueError, match="^got .{0,200}wanted a path|^got an empty name"):
        place(path)
    with pytest.raises(InputError, match="^--out: got "):
        parser().parse_args(["--out", path])


def test_places_are_tried_before_the_work_and_nothing_is_left():
    Path("file").write_text("x")
    Path("folder").mkdir()
    for check, path in ((check_file_place, "new/deep/a.csv"), (check_file_place, "file"), (check_folder_place, "new")):
        check(path, "--csv")
    for check, path, why in (
        (check_file_place, "folder", "--csv folder: is a folder; wanted the name of a file"),
        (check_file_place, "file/a.csv", "--csv file/a.csv: file is a file; wanted a folder there"),
        (check_folder_place, "file", "file is a file; wanted a folder there"),
        (check_file_place, "/proc/a.csv", "--csv /proc/a.csv: cannot write in /proc"),
    ):
        with pytest.raises(InputError, match=why):
            check(path, "--csv")
    assert sorted(p.name for p in Path().rglob("*")) == ["file", "folder"]


def test_a_full_disk_names_the_file(monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    def main(argv):
        with stream_atomic("mask.safetensors") as file:
            file.write(b"x")

    code, lines = ends(main, monkeypatch, capsys)
    assert (code, lines) == (2, ["script.py: No space left on device: 'mask.safetensors'"])


def test_lines_come_at_once_where_there_is_no_terminal(monkeypatch):
    pipe, seen = io.BytesIO(), []
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="utf-8"))

    def main(argv):
        print("step 1")
        seen.append(pipe.getvalue())

    assert run_main(main) == 0
    assert seen == [b"step 1\n"]
