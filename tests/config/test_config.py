"""Configs are strict: each kind of mistake is one line that names file or flag, key, what came, what was wanted."""

import ast
import re
from pathlib import Path

import pytest

from functions.config import load as config
from functions.config import names as keys
from functions.config import schema
from functions.config.load import InputError, load_config
from functions.config.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]


def load(text, tmp_path, mode="pretrain", **kwargs):
    path = tmp_path / "mine.yml"
    path.write_text(text)
    return load_config(str(path), mode, **kwargs)


BASE = "base: digits_pretrain.yml\n"


def test_base_set_and_flags_in_this_order(tmp_path):
    cfg = load(
        BASE + "optim: {lr: 3e-4}\n",
        tmp_path,
        settings=["training.n_iters=7", "optim.weight_decay=1e-2"],
        flags={"seed": 5},
    )
    assert (cfg.optim.lr, cfg.optim.weight_decay, cfg.training.n_iters, cfg.seeds.seed) == (3e-4, 1e-2, 7, 5)
    assert cfg.model.ch == 32  # from the base
    assert cfg.seeds.of("init") == 5
    assert load(BASE + "seeds: {seed: 1, init: 2}\n", tmp_path).seeds.of("init") == 2


@pytest.mark.parametrize(
    "text, line",
    [
        (BASE + "training: {n_iter: 3}\n", r"mine\.yml: training\.n_iter: unknown key \(did you mean 'n_iters'\?\)"),
        (BASE + "trainin: {n_iters: 3}\n", r"mine\.yml: trainin: unknown key \(did you mean 'training'\?\)"),
        (BASE + "model: {chh: 3}\n", r"mine\.yml: model\.chh: unknown key \(did you mean 'ch'\?\)"),
        (
            BASE + "training: {n_iters: many}\n",
            r"mine\.yml: training\.n_iters: got 'many' \(str\); wanted a valid integer",
        ),
        (BASE + "training: {n_iters: 3.5}\n", r"training\.n_iters: got 3\.5 \(float\)"),
        (BASE + "training: {ema: 1}\n", r"training\.ema: got 1 \(int\); wanted a valid boolean"),
        (BASE + "optim: {lr: -1}\n", r"optim\.lr: got -1 \(int\); wanted greater than 0"),
        (BASE + "data: {dataset: digit}\n", r"data\.dataset: got 'digit' .*did you mean 'digits'"),
        (BASE + "model: {name: unett}\n", r"model\.name: got 'unett' .*did you mean 'unet'"),
        (BASE + "world: classifier\n", r"diffusion: wanted for world ddpm, dit and only there; world is classifier"),
        (BASE + "model: {ch_mult: []}\n", r"model\.ch_mult: got \[\] "),
        (BASE + "optim: {lr: .inf}\n", r"optim\.lr: got inf \(float\); wanted a finite number"),
        (BASE + "diffusion: {beta_end: 1e-5}\n", r"diffusion\.beta_end: got 1e-05; wanted more than beta_start"),
        ("base: [a]\n", r"base: got \['a'\]; wanted the name of a file"),
        (BASE + "forget: {label: 0}\n", r"forget: pretrain learns every class; retrain leaves one out"),
        ("world: ddpm\n", r"mine\.yml: data: missing"),
        ("base: nowhere.yml\n", r"nowhere\.yml: no such file"),
        ("base: mine.yml\n", r"leads back to itself"),
        ("- a\n", r"mine\.yml: wanted keys and values, got list"),
        ("a: [1\n", r"mine\.yml, line 2: not valid YAML"),
    ],
)
def test_mistakes_in_files(tmp_path, text, line):
    with pytest.raises(InputError, match=line) as caught:
        load(text, tmp_path)
    assert "\n" not in str(caught.value)


def test_mistakes_on_the_command_line(tmp_path):
    with pytest.raises(InputError, match=r"--set training\.n_iter=5: training\.n_iter: unknown key"):
        load(BASE, tmp_path, settings=["training.n_iter=5"])
    with pytest.raises(InputError, match="wanted section.key=value"):
        load(BASE, tmp_path, settings=["training.n_iters"])
    with pytest.raises(InputError, match=r"digits_pretrian\.yml: no such file, .*did you mean 'digits_pretrain\.yml'"):
        load_config("digits_pretrian.yml", "pretrain")
    with pytest.raises(InputError, match=r"--unlearn_loss: has no meaning in mode ga"):
        load_config(
            "digits_sfron.yml", "ga", flags={"unlearn_loss": "relabel", "label_to_forget": 0, "ckpt_folder": "x"}
        )
    with pytest.raises(InputError, match="joint is one step on the sum"):
        load_config(
            "digits_classifier.yml", "sfron", flags={"method": "joint", "label_to_forget": 0, "ckpt_folder": "x"}
        )
    with pytest.raises(InputError, match="nothing is drawn for a classifier"):
        load_config(
            "digits_classifier.yml",
            "generate_fisher",
            flags={"cond_scale": 3.0, "label_to_forget": 0, "ckpt_folder": "x"},
        )
    (tmp_path / "latin.yml").write_bytes(b"world: \xe9")
    with pytest.raises(InputError, match=r"latin\.yml: not UTF-8 text"):
        load_config(str(tmp_path / "latin.yml"), "pretrain")
    with pytest.raises(InputError, match="--forget_alpha: has no meaning in mode pretrain"):
        load(BASE, tmp_path, flags={"forget_alpha": 1.0})
    with pytest.raises(InputError, match=r"forget: missing, and mode retrain needs it; set --label_to_forget"):
        load(BASE, tmp_path, mode="retrain")
    with pytest.raises(InputError, match="fisher.clip: only estimator batch clips, this is per_example"):
        load_config(
            "digits_fisher.yml",
            "generate_fisher",
            settings=["fisher.clip=1.0"],
            flags={"label_to_forget": 0, "ckpt_folder": "x"},
        )


def test_rl_is_resolved_by_world_and_printed(capsys):
    flags = {"unlearn_loss": "rl", "label_to_forget": 0, "ckpt_folder": "x"}
    assert load_config("digits_sfron.yml", "sfron", flags=flags).unlearn.loss == "match"
    assert "rl means 'match'" in capsys.readouterr().out
    assert load_config("digits_classifier.yml", "sfron", flags=flags).unlearn.loss == "relabel"
    with pytest.raises(InputError, match="match needs a label-conditional model"):
        load_config("digits_classifier.yml", "sfron", flags={**flags, "unlearn_loss": "match"})


def test_overlay_merges_the_block_of_the_world():
    flags = {"label_to_forget": 0, "ckpt_folder": "x"}
    cfg = load_config("cifar10_fisher.yml", "generate_fisher", overlays=["as_published.yml"], flags=flags)
    assert (cfg.fisher.estimator, cfg.fisher.clip, cfg.fisher.guidance) == ("batch", 1.0, 2.0)
    assert cfg.sampling is None  # the config had no such section


def test_cond_scale_means_the_guidance_of_its_mode():
    flags = {"cond_scale": 1.5, "ckpt_folder": "x"}
    assert load_config("digits_sample.yml", "sample", flags=flags).sampling.cond_scale == 1.5
    fisher = load_config("digits_fisher.yml", "generate_fisher", flags={**flags, "label_to_forget": 0})
    assert fisher.fisher.guidance == 1.5


def test_the_dump_reads_back(tmp_path):
    cfg = load(BASE, tmp_path)
    (tmp_path / "dump.yml").write_text(config.dump_config(cfg))
    assert load_config(str(tmp_path / "dump.yml"), "pretrain") == cfg


def test_hash_ignores_how_long_and_where_but_nothing_else(tmp_path):
    constant = "optim.lr_schedule=constant"
    hashed = lambda *settings: config.config_hash(load(BASE, tmp_path, settings=settings))
    assert hashed(constant) == hashed(constant, "training.n_iters=9", "results=elsewhere", "data.n_workers=0")
    assert hashed(constant) != hashed(constant, "optim.lr=2e-3")
    assert hashed() != hashed("training.n_iters=9")  # the cosine ends with the run


def test_published_hyper_parameters():
    """METHODS, SFR-on and pretraining constants."""
    flags = {"label_to_forget": 0, "ckpt_folder": "x"}
    c = load_config("cifar10_sfron.yml", "sfron", flags=flags)
    assert (c.optim.lr, c.training.batch_size, c.training.n_iters, c.training.snapshot_freq) == (1e-4, 128, 150, 10)
    assert (c.unlearn.forget_alpha, c.unlearn.remain_alpha, c.unlearn.lambd, c.optim.grad_clip) == (10, 1, 0.5, 1)
    assert c.unlearn.decay_forget_alpha and c.unlearn.optimizer_state == "shared"
    p = load_config("cifar10_pretrain.yml", "pretrain")
    assert (p.optim.lr, p.training.n_iters, p.training.snapshot_freq, p.training.ema_rate) == (
        2e-4,
        800000,
        5000,
        0.9999,
    )


# Files named otherwise are bases, and as_published.yml is merged into all of these.
MODES_OF = {
    "fisher": "generate_fisher",
    "unlearn": "salun",
    **{m: m for m in ("pretrain", "sfron", "sample", "fim", "sa", "esd", "erasediff", "finetune", "ga")},
}
BASELINES = ("finetune", "ga", "sa", "esd", "erasediff", "neggrad", "l1_sparse", "salun_soft", "scrub", "bad_teacher")
# encode wants a folder and retrain an original, which are no settings
NOT_OF_A_DIT = ("boundary_expand", "boundary_shrink", "encode", "retrain")
VALID = [
    *(
        (p.name, MODES_OF[p.stem.split("_")[-1]])
        for p in (ROOT / "configs/ddpm").glob("*_*.yml")
        if p.stem.split("_")[-1] in MODES_OF
    ),
    *(
        (f"{dataset}_ddpm.yml", mode)
        for dataset in ("folder", "stl10")
        for mode in (*MODES_OF.values(), "generate_mask")
    ),
    *((f"dit_xl2_imagenet{size}.yml", mode) for size in ("", "_512") for mode in METHODS if mode not in NOT_OF_A_DIT),
    *(
        ("digits_baselines.yml", mode) for mode in (*BASELINES, "iu")
    ),  # of Fisher forgetting on a DDPM none is published
]


@pytest.mark.parametrize("path, mode", sorted(VALID))
def test_every_config_is_valid(path, mode):
    flags = {
        k: v
        for k, v in {"label_to_forget": 0, "ckpt_folder": "x"}.items()
        if keys.FLAGS[k].split(".")[0] in METHODS[mode].needs
    }
    load_config(path, mode, flags=flags)
    load_config(path, mode, overlays=["as_published.yml"], flags=flags)


def _attributes_read() -> set[str]:
    """Every attribute name and every string that code outside the schema mentions."""
    names = set()
    for file in [
        *ROOT.glob("*.py"),
        *(p for d in ("functions", "models", "datasets", "runners") for p in (ROOT / d).rglob("*.py")),
    ]:
        if file.parent == ROOT / "functions/config" and file.name not in ("selection.py", "classes.py", "cli.py"):
            continue  # declared and checked there, which is no reader
        for node in ast.walk(ast.parse(file.read_text())):
            names |= {node.attr} if isinstance(node, ast.Attribute) else set()
            names |= {node.arg} if isinstance(node, ast.arg) else set()
    return names


def test_no_dead_key():
    """Every key of the schema and of every mode is read somewhere outside of them."""
    read = _attributes_read() | {"base"}
    sections = [s for s in vars(schema).values() if isinstance(s, type) and issubclass(s, schema.Section)]
    sections += METHODS.values()
    through_of = {"init", "order"}  # Seeds.of(purpose)
    dead = {f"{s.__name__}.{k}" for s in sections for k in s.model_fields if k not in read | through_of}
    assert dead == set()


def test_no_dead_flag():
    """Every flag of every script is read from `args` (`--debug` by run_main), or handed to load_config through FLAGS."""
    for script in ROOT.glob("*.py"):
        text = script.read_text()
        if "functions.config.arguments" in text:
            text += (ROOT / "functions/config/arguments.py").read_text()
        flags = re.findall(r'add_argument\(\s*"(--)?(\w+)"', text)
        known = {*keys.FLAGS, "cond_scale", "alpha"}
        for dashes, flag in flags:
            read = re.search(rf"args\.{flag}\b", text) or (flag in known and re.search(rf'"{flag}"[,\]]', text))
            assert read or flag == "debug", f"{script.name}: {dashes}{flag} has no reader"
