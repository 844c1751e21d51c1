"""A section per mode: two spellings of its keys, keys of other modes, defaults of its own; and a row per world."""

import json
from typing import get_args

import cases
import pytest
import yaml

from functions.config import layers
from functions.config import load as config
from functions.config.load import InputError, load_config
from functions.config.methods import METHODS, MODES, BoundaryExpand, Encode, Finetune, Pretrain, Retrain
from functions.config.schema import Config, Model
from functions.config.section import Section
from functions.config.worlds import WORLDS
from functions.files import read_json

FLAGS = {"label_to_forget": 0, "ckpt_folder": "x"}
DDPM = """
base: digits.yml
optim: {lr: 1e-3}
training: {n_iters: 4, batch_size: 8, ema: false}
"""
CLASSIFIER = """
world: classifier
data: {dataset: digits}
optim: {lr: 1e-3}
training: {n_iters: 4, batch_size: 8, ema: false}
"""
UNLEARNING = {mode: section for mode, section in METHODS.items() if section.section == "unlearn"}
OWN = {mode: section for mode, section in UNLEARNING.items() if section.own}


@pytest.fixture
def load(tmp_path):
    """A config of this text."""

    def load(text, mode, **kwargs):
        path = tmp_path / "mine.yml"
        path.write_text(text)
        return load_config(str(path), mode, flags=FLAGS, **kwargs)

    return load


# ---- two spellings


@pytest.mark.parametrize("section", ["sa: {lmbda: 10.0}", "unlearn: {lmbda: 10.0}", "sa: {}\nunlearn: {lmbda: 10.0}"])
@pytest.mark.parametrize("block", [False, True], ids=["file", "block"])
def test_both_spellings_are_one_key(load, section, block):
    if block:
        section = "modes:\n  sa:\n" + "\n".join("    " + line for line in section.splitlines())
    if "unlearn" not in section:
        section += "\nunlearn: {}"
    assert load(DDPM + section, "sa").unlearn.lmbda == 10.0


SPELLINGS = ("sa.lmbda", "unlearn.lmbda")


@pytest.mark.parametrize("below", SPELLINGS)
@pytest.mark.parametrize("above", SPELLINGS)
def test_the_last_layer_counts_in_either_spelling(load, below, above, tmp_path):
    section, _ = below.split(".")
    text = DDPM + yaml.safe_dump({"unlearn": {}} | {section: {"lmbda": 10.0}})
    assert load(text, "sa").unlearn.lmbda == 10.0
    assert load(text, "sa", settings=[f"{above}=5.0"]).unlearn.lmbda == 5.0
    assert load(text, "sa", settings=[f"{above}=5.0", f"{below}=6.0"]).unlearn.lmbda == 6.0
    overlay = tmp_path / "overlay.yml"
    overlay.write_text(yaml.safe_dump({"ddpm": {above.split(".")[0]: {"lmbda": 7.0}}}))
    assert load(text, "sa", overlays=[str(overlay)]).unlearn.lmbda == 7.0


def test_a_block_goes_on_top_of_its_file_and_base_in_either_spelling(load, tmp_path):
    (tmp_path / "base.yml").write_text(DDPM + "sa: {gamma_gr: 2.0}\nmodes:\n  sa:\n    unlearn: {lmbda: 1.0}\n")
    cfg = load(f"base: {tmp_path}/base.yml\nmodes:\n  sa:\n    sa: {{lmbda: 3.0}}\n", "sa")
    assert (cfg.unlearn.lmbda, cfg.unlearn.gamma_gr) == (3.0, 2.0)


def test_two_values_in_one_layer_are_refused(load):
    same = "sa: {lmbda: 1.0}\nunlearn: {lmbda: 1.0}\n"
    assert load(DDPM + same, "sa").unlearn.lmbda == 1.0
    with pytest.raises(InputError, match=r"mine\.yml: sa\.lmbda and unlearn\.lmbda: two spellings of one key, and"):
        load(DDPM + same.replace("1.0", "2.0", 1), "sa")
    assert load(DDPM + same.replace("1.0", "2.0", 1) + "l1: {}\n", "l1_sparse", settings=["unlearn.lmbda=null"])


@pytest.mark.parametrize("key", SPELLINGS)
def test_messages_name_the_key_as_it_was_spelled_and_who_set_it(load, key):
    text = DDPM + "unlearn: {}\nsa: {lmbda: 1.0}\n"
    with pytest.raises(
        InputError, match=rf"^--set {key}=-1: {key}: got -1 \(int\); wanted greater than or equal to 0$"
    ):
        load(text, "sa", settings=[f"{key}=-1"])
    section, _ = key.split(".")
    with pytest.raises(InputError, match=rf"mine\.yml: {key}: got 'a' \(str\); wanted a valid number"):
        load(DDPM + yaml.safe_dump({"unlearn": {}} | {section: {"lmbda": "a"}}), "sa")
    block = yaml.safe_dump({"modes": {"sa": {"unlearn": {}} | {section: {"lmbda": -1.0}}}})
    with pytest.raises(InputError, match=rf"mine\.yml: {key}: got -1\.0"):
        load(DDPM + block, "sa")


def test_a_missing_key_is_named_as_published(load):
    with pytest.raises(InputError, match=r"mine\.yml: sa\.lmbda: missing; wanted here or in its base"):
        load(DDPM + "unlearn: {}\nsa: {}\n", "sa")


@pytest.mark.parametrize("mode", OWN)
def test_a_mode_wants_its_own_section_or_keys(load, mode):
    """A file of another method is not taken for this one's."""
    with pytest.raises(InputError, match=rf"mine\.yml: {OWN[mode].own}: missing, and mode {mode} needs it"):
        load(CLASSIFIER + "unlearn: {}\nfisher: {}\n", mode)


def test_fisher_forgetting_needs_the_fisher_section(load):
    with pytest.raises(InputError, match=r"fisher: missing, and mode fisher_forget needs it"):
        load(CLASSIFIER + "unlearn: {}\nfisher_forget: {}\n", "fisher_forget")
    with pytest.raises(InputError, match=r"fisher\.guidance: has no meaning in mode fisher_forget"):
        load(DDPM + "unlearn: {}\nfisher_forget: {}\nfisher: {guidance: 1.0}\n", "fisher_forget")


# ---- keys of other modes


@pytest.mark.parametrize(
    "section, line",
    [
        ("sa: {lmda: 1.0}", r"mine\.yml: sa\.lmda: unknown key \(did you mean 'lmbda'\?\)"),
        ("sa: {lmbda: 1.0, mask_path: m}", r"mine\.yml: sa\.mask_path: unknown key"),
        ("sa: {lmbda: 1.0}\nunlearn: {dropuot: true}", r"unlearn\.dropuot: unknown key \(did you mean 'dropout'\?\)"),
        ("sa: {lmbda: 1.0}\nunlearn: {5: true}", r"unlearn\.5: unknown key"),
        ("sa: {lmbda: 1.0}\nunlearn: [5]", r"mine\.yml: unlearn: got \[5\]; wanted keys and values"),
        ("sa: 5\nunlearn: {}", r"mine\.yml: sa: got 5; wanted keys and values"),
        ("sa: {lmbda: 1.0}\nunlearn: {forget_every: 2}", r"unlearn\.forget_every: has no meaning in mode sa"),
        ("sa: {lmbda: 1.0}\nunlearn: {temperature: 2.0}", r"unlearn\.temperature: has no meaning in mode sa"),
        (
            "sa: {lmbda: 1.0}\nunlearn: {}\nscrub: {gama: 1}",
            r"mine\.yml: scrub\.gama: unknown key \(did you mean 'gamma'",
        ),
    ],
)
def test_keys_that_are_not_or_mean_nothing(load, section, line):
    with pytest.raises(InputError, match=line):
        load(DDPM + section, "sa")


def test_other_sections_are_checked_for_unknown_keys_and_ignored(load):
    text = DDPM + "saliency: {}\nunlearn: {loss: match, lambd: 0.1}\nscrub: {gamma: 0.5}\n"
    assert load(text, "generate_mask").unlearn is None
    assert load(text, "salun").unlearn.lambd == 0.1
    with pytest.raises(InputError, match=r"unlearn\.los: unknown key \(did you mean 'loss'\?\)"):
        load(text.replace("loss", "los"), "generate_mask")


def test_resolved_configs_from_before_are_read(load):
    """They list the keys of all methods: at a default those of others say nothing."""
    old = """
unlearn: {method: ron, loss: adaga, forget_alpha: 1.0, decay_forget_alpha: false, remain_alpha: 1.0, lambd: 0.5,
  forget_clip: null, forget_every: 1, remain_per_forget: 1, mask_joint: true, optimizer_state: shared, mask_path: null,
  mask_mode: null, clip_first: false, dropout: true, order: paired, bn_mode: update}
sa: {lmbda: 10.0, gamma_gr: 1.0, replay: samples, fisher_path: null}
esd: null
"""
    cfg = load(DDPM + old, "sa")
    assert set(type(cfg.unlearn).model_fields) == set(METHODS["sa"].model_fields) and cfg.unlearn.mask_mode == "strict"
    assert load(DDPM + old, "sfron").unlearn.mask_mode == "gradient"
    with pytest.raises(InputError, match=r"unlearn\.forget_clip: has no meaning in mode sa"):
        load(DDPM + old.replace("forget_clip: null", "forget_clip: 1.0"), "sa")


@pytest.mark.parametrize("mode", MODES)
def test_the_resolved_config_reads_back(tmp_path, mode):
    flags = {} if mode == "pretrain" else FLAGS
    cfg = load_config("digits_classifier.yml", mode, flags=flags)
    (tmp_path / "dump.yml").write_text(config.dump_config(cfg))
    assert load_config(str(tmp_path / "dump.yml"), mode) == cfg
    dumped = yaml.safe_load((tmp_path / "dump.yml").read_text())["unlearn"]
    section = METHODS[mode]
    assert set(dumped or {}) == (set(section.model_fields) if section.section == "unlearn" else set())


# ---- defaults

SHARED = {
    "mask_path": None,
    "threshold": None,
    "mask_mode": "strict",
    "clip_first": False,
    "dropout": True,
    "bn_mode": "update",
}
WEIGHT = {"forget_alpha": 1.0, "decay_forget_alpha": False}
OBJECTIVE = {**WEIGHT, "lambd": 0.5, "adaga_floor": 1e-8, "remain_alpha": 1.0}
OBJECTIVE |= {"drop_labels": False, "target_dropout": False}
RL = {**SHARED, **OBJECTIVE, "order": "paired"}
DEFAULTS = {
    "finetune": SHARED,
    "ga": {**SHARED, **WEIGHT, "forget_clip": None},
    "neggrad": {**SHARED, **WEIGHT, "remain_alpha": 1.0},
    "sfron": {k: v for k, v in SHARED.items() if k != "clip_first"}
    | OBJECTIVE
    | {"mask_mode": "gradient", "loss": "adaga", "method": "ron"}
    | {"forget_clip": None, "forget_every": 1, "remain_per_forget": 1, "mask_joint": True, "optimizer_state": "shared"},
    "salun": RL,
    "salun_soft": {**RL, "ratio": 0.5},
    "sa": {**SHARED, "lmbda": 1.0, "gamma_gr": 1.0, "replay": "remain", "fisher_path": None},
    "esd": {**SHARED, "eta": 1.0},
    "erasediff": {**SHARED, "eta": 0.5},
    "l1_sparse": {**SHARED, "weight": 5e-4, "no_l1_epochs": 0},
    "scrub": {**SHARED, "msteps": 2, "gamma": 0.99, "alpha": 0.001, "temperature": 4.0},
    "bad_teacher": {**SHARED, "temperature": 1.0},
    "boundary_expand": SHARED,
    "boundary_shrink": {**SHARED, "eps": 0.1},
    "iu": {
        "mask_path": None,
        "threshold": None,
        "step": 1.0,
        "k": 1000,
        "solver": "exact",
        "chunk": 32,
        "tol": 1e-6,
        "max_iter": 200,
    },
    "fisher_forget": {"mask_path": None, "threshold": None, "alpha": 1e-8, "cap": 1e-3, "head_factor": 10.0},
}


@pytest.mark.parametrize(
    "mode, world, text",
    [(mode, "classifier", CLASSIFIER) for mode in DEFAULTS]
    + [(mode, "ddpm", DDPM) for mode in DEFAULTS if not mode.startswith("boundary")],
    ids=lambda value: value.split()[0],
)
def test_an_empty_section_is_the_method_itself(load, mode, world, text):
    """No default comes from another method: SalUn's objective is random labels, as each world understands them."""
    own = f"{METHODS[mode].own}: {{}}\n" if METHODS[mode].own else ""
    text += "unlearn: {}\nfisher: {}\n" + own
    text = text.replace("sa: {}", "sa: {lmbda: 1.0, replay: remain}")
    wanted = dict(DEFAULTS[mode])
    if mode.startswith("salun"):
        wanted["loss"] = {"ddpm": "match", "classifier": "relabel"}[world]
    assert load(text, mode).unlearn.model_dump() == wanted


def test_rl_may_stand_in_a_file_too(load):
    assert load(DDPM + "unlearn: {loss: rl}", "sfron").unlearn.loss == "match"
    assert load(CLASSIFIER + "unlearn: {loss: rl}", "sfron").unlearn.loss == "relabel"


# ---- what sections refuse


@pytest.mark.parametrize(
    "text, mode, line",
    [
        (CLASSIFIER + "unlearn: {loss: match}", "salun", r"unlearn\.loss: match needs a label-conditional model"),
        (DDPM + "unlearn: {order: joint}", "salun", r"unlearn\.order: joint gives .* must be relabel; it is match"),
        (DDPM + "unlearn: {method: joint, forget_every: 2}", "sfron", r"unlearn\.method: joint is one step on the sum"),
        (DDPM + "unlearn: {}\nboundary: {}", "boundary_shrink", "world: this mode moves decision boundaries"),
        (DDPM + "unlearn: {}", "boundary_expand", "world: this mode moves decision boundaries"),
        (CLASSIFIER + "fisher: {draws: 2}", "generate_fisher", "fisher: guidance and draws are for diffusion"),
        (CLASSIFIER + "saliency: {guidance: 2.0}", "generate_mask", "saliency: guidance and draws are for diffusion"),
        (DDPM + "fisher: {clip: 1.0}", "generate_fisher", r"fisher\.clip: only estimator batch clips"),
        (CLASSIFIER + "fim: {}", "fim", "world: classifier has no timesteps to sum over"),
        (CLASSIFIER + "unlearn: {}\nsa: {lmbda: 1.0}", "sa", r"sa\.replay: a classifier draws no samples"),
    ],
)
def test_combinations_that_mean_nothing(tmp_path, text, mode, line):
    path = tmp_path / "mine.yml"
    path.write_text(text)
    flags = {"ckpt_folder": "x"} if mode == "fim" else FLAGS
    with pytest.raises(InputError, match=line):
        load_config(str(path), mode, flags=flags)


def test_recalibration_and_an_average_exclude_each_other(load):
    text = (CLASSIFIER + "unlearn: {bn_mode: recalibrate}").replace("ema: false", "ema: true")
    with pytest.raises(InputError, match=r"mine\.yml: unlearn\.bn_mode: recalibrate is for the weights themselves"):
        load(text, "finetune")


def test_replay_of_samples_needs_a_label(tmp_path):
    (tmp_path / "mine.yml").write_text(DDPM + "unlearn: {}\nsa: {lmbda: 1.0}\nforget: {count: 3}\nckpt_folder: x\n")
    with pytest.raises(InputError, match=r"mine\.yml: forget: sa replays samples of the other classes; wanted a label"):
        load_config(str(tmp_path / "mine.yml"), "sa")
    assert load_config(str(tmp_path / "mine.yml"), "sa", settings=["sa.replay=remain"]).forget.count == 3


# ---- the table


def test_own_sections_and_keys_are_told_apart():
    names = [section.own for section in OWN.values()]
    assert len(set(names)) == len(names) and not set(names) & set(Config.model_fields)
    assert all(section.own_keys() for section in OWN.values())
    general = {name for section in METHODS.values() for name in (*section.needs, *section.optional, section.section)}
    assert general - {None} <= set(Config.model_fields)
    for section in METHODS.values():
        assert set(section.flags.values()) <= set(section.model_fields) and issubclass(section, Section)


def test_every_model_belongs_to_a_world():
    tags = {t for m in get_args(Model) for t in m.model_fields["name"].annotation.__args__}
    assert tags == {model for world in WORLDS.values() for model in world.models}


def test_config_names_are_unique_over_all_folders():
    names = [path.name for path in layers.CONFIG_FOLDER.rglob("*.yml")]
    assert len(names) == len(set(names)) > 10


# ---- bounds


def numbers(schema: object, where: str):
    """Every number that a JSON schema allows: where it stands, and its bounds."""
    if isinstance(schema, list):
        for part in schema:
            yield from numbers(part, where)
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield where, {key for key in schema if "inimum" in key or "aximum" in key}
        for key, part in schema.items():
            yield from numbers(part, f"{where}.{key}")


@pytest.mark.parametrize("section", [Config, *METHODS.values()], ids=lambda section: section.__name__)
def test_every_number_has_two_ends(section):
    """What is beyond them torch would refuse, later and in its own words."""
    found = dict(numbers(section.model_json_schema(), section.__name__))
    assert [where for where, ends in found.items() if len(ends) != 2] == []
    assert found or section in (Pretrain, Retrain, Finetune, BoundaryExpand, Encode)


@pytest.mark.parametrize(
    "setting",
    [
        "model.ch=32768", "model.ch=2", "model.ch_mult=[1000]", "model.num_res_blocks=1001", "model.attn_resolutions=[0]",
        "diffusion.timesteps=1", "diffusion.timesteps=1000000", "diffusion.beta_start=0", "diffusion.beta_end=1.0",
        "data.crop=1000000", "data.crop=-1", "data.image_size=0", "data.image_size=-8", "data.image_size=100000",
        "data.n_workers=-1", "data.n_workers=10000", "data.val_fraction=1.0", "seeds.seed=1180591620717411303424",
        "seeds.seed=-1", "seeds.order=9223372036854775808", "optim.lr=0", "optim.lr=-1", "optim.lr=.inf", "optim.lr=.nan",
        "optim.lr=1e308", "optim.momentum=2", "optim.weight_decay=1e300", "optim.grad_clip=0", "training.batch_size=0",
        "training.batch_size=10000000000", "training.keep=0", "training.n_iters=0", "training.epochs=10000000000",
        "training.ema_rate=1.0", "training.preview=0", "training.snapshot_freq=0", "training.accumulate=0",
    ],
)  # fmt: skip
def test_what_no_run_can_be(setting):
    key = setting.split("=")[0]
    with pytest.raises(InputError, match=rf"^--set {key}=.*: {key}(\.0)?: got .*; wanted "):
        load_config("digits_pretrain.yml", "pretrain", settings=[setting])


# ---- hashes


def test_the_length_of_a_run_counts_where_a_schedule_ends_with_it(load):
    def differs(mode, section):
        hashes = {
            config.config_hash(load(CLASSIFIER + section, mode, settings=[f"training.n_iters={n}"])) for n in (4, 9)
        }
        return len(hashes) == 2

    assert not differs("finetune", "unlearn: {}") and not differs("sfron", "unlearn: {}")
    assert differs("sfron", "unlearn: {decay_forget_alpha: true}")
    assert differs("l1_sparse", "unlearn: {}\nl1: {}") and differs("salun_soft", "unlearn: {}\nsalun_soft: {}")
    assert not differs("finetune", "unlearn: {}\nl1: {}")  # another method's section


def test_resume_of_a_run_from_before_says_so():
    run = cases.pretrain("classifier")
    path = run / "logs" / "origin.json"
    origin = read_json(path)
    assert origin.pop("format") == config.FORMAT
    path.write_text(json.dumps(origin | {"config": "of old"}))  # they had no seal either
    line = (
        f"^--resume {run}: began before configs had a section per mode: its hash cannot be compared; start anew or use"
    )
    with pytest.raises(InputError, match=line):
        cases.pretrain("classifier", "--resume", str(run))


# ---- moments of masked-in weights alone


MASKED = "unlearn: {mask_path: m.safetensors}\noptim: {lr: 1e-3, sparse_moments: true}\n"
SPARSE = DDPM.replace("optim: {lr: 1e-3}\n", "") + MASKED


@pytest.mark.parametrize("mode, settings", [("salun", []), ("sfron", ["unlearn.mask_mode=strict"])])
def test_sparse_moments_are_for_modes_that_freeze(load, mode, settings):
    cfg = load(SPARSE, mode, settings=settings)
    assert cfg.unlearn.freezes and cfg.optim.sparse_moments
    assert not load(DDPM, mode, settings=["unlearn.mask_mode=strict"]).unlearn.freezes


@pytest.mark.parametrize(
    ("mode", "settings", "why"),
    [
        ("salun", ["unlearn.mask_path=null"], "wanted a mask"),
        ("salun", ["unlearn.mask_mode=gradient"], "unlearn.mask_mode strict"),
        ("sfron", [], "unlearn.mask_mode strict"),
        (
            "sfron",
            ["unlearn.mask_mode=strict", "unlearn.method=joint", "unlearn.mask_joint=false"],
            "every step is masked",
        ),
        ("retrain", ["model={name: unet, ch: 8, ch_mult: [1], num_res_blocks: 1, attn_resolutions: []}"], "every step"),
        ("salun", ["optim.name=sgd", "optim.momentum=0.0"], "sgd without momentum has no moments"),
    ],
)
def test_sparse_moments_where_weights_may_move_are_refused(load, mode, settings, why):
    with pytest.raises(InputError, match=rf"optim.sparse_moments: .*{why}"):
        load(SPARSE, mode, settings=settings)
