"""What the published code does, as options, against numbers that follow from its definition; and the overlay of them."""

import json
import types
from pathlib import Path

import cases
import pytest
import torch
from steps import build

from functions.config import methods
from functions.config.layers import CONFIG_FOLDER
from functions.config.load import LATER, config_hash, load_config
from functions.config.yaml_files import read_yaml
from functions.curvature.saliency import gradient_score, top_share_mask
from functions.errors import InputError
from functions.judging.membership import m_entropy
from functions.storage.artifacts import load_mask, load_tensors
from functions.tasks import Denoising, Draw
from functions.training.losses import adaptive_mean, adaptive_weights
from functions.training.optim import make_optimizer
from functions.training.update import Update
from runners.methods.forgetting import FORGET_LOSSES
from runners.methods.sfron import SFRon

OVERLAY = ("--overlay", "as_published.yml")
BLOCKS = read_yaml(CONFIG_FOLDER / "as_published.yml")
FLAGS = {"label_to_forget": 0, "ckpt_folder": "x"}

# ---- SFR-on


class Scalar:
    """One weight theta: the forget loss is theta, the remain loss theta^2 / 2."""

    p_uncond = 0.0

    def draw(self, x, c, drop=False):
        return Draw(x, c)

    def losses(self, model, draw):
        return model.theta.expand(1) if draw.c == 1 else model.theta.square().expand(1) / 2


def scalar_sfron(forget_every: int, log_freq: int = 1) -> SFRon:
    """SFR-on of `Scalar` from theta = 1: plain SGD at rate 0.1, alpha 1."""
    r = object.__new__(SFRon)
    r.model = torch.nn.Module()
    r.model.theta = torch.nn.Parameter(torch.tensor(1.0))
    optim = types.SimpleNamespace(name="sgd", lr=0.1, weight_decay=0.0, momentum=0.0, grad_clip=None)
    unlearn = methods.SFRon(loss="ga", forget_every=forget_every)
    training = types.SimpleNamespace(n_iters=12, log_freq=log_freq)
    r.cfg = types.SimpleNamespace(optim=optim, unlearn=unlearn, training=training)
    r.task, r.mask, r.strict = Scalar(), None, False
    r.names, r.params = ("theta",), (r.model.theta,)
    r.optimizer = r.optimizer_f = make_optimizer(r.params, optim)
    r.update = Update(r.names, r.params, optim, False, False)
    r.forget, r.remain = (iter(lambda c=c: (None, torch.tensor(c)), None) for c in (1, 0))
    r.begin(None)
    return r


def test_sfron_forgets_at_the_first_step_and_every_nth_after_it():
    """theta grows by 0.1 in a forget step and shrinks by a tenth in each remain step.

    Every second step, from step 0: (1 + 0.1) 0.9 = 0.99, 0.891, (0.891 + 0.1) 0.9 = 0.8919, 0.80271.
    """
    r, thetas = scalar_sfron(2), []
    stats = []
    for k in range(4):
        stats.append(r.step(k))
        thetas.append(r.model.theta.item())
    assert thetas == pytest.approx([0.99, 0.891, 0.8919, 0.80271])
    assert ["forget" in s for s in stats] == [True, False, True, False]


def test_a_line_of_the_log_has_the_newest_forget_loss():
    """Logged at steps 4 and 9, forgotten at 0, 3, 6, 9: the losses of 3 and of 9. With one in seven: 0 and 7."""
    for every, wanted in ((3, (3, 9)), (7, (0, 7))):
        r, before = scalar_sfron(every, log_freq=5), {}
        for k in range(10):
            before[k] = r.model.theta.item()
            stats = r.step(k)
            if k in (4, 9):
                assert stats["forget"].item() == pytest.approx(before[wanted[k == 9]])
    r = scalar_sfron(7, log_freq=2)
    assert ["forget" in r.step(k) for k in range(8)] == [True, True, *5 * [False], True]  # not that of an older line


def test_a_run_from_before_the_phase_is_another(monkeypatch):
    load = lambda name, *settings: load_config(name, "sfron", settings=settings, flags=FLAGS)
    every, ddpm = load("cifar10_classifier.yml"), load("cifar10_sfron.yml")
    one = load("cifar10_classifier.yml", "unlearn.forget_every=1")
    now = [config_hash(cfg) for cfg in (every, ddpm, one)]
    monkeypatch.setattr(methods.SFRon, "revision", 0)
    before = [config_hash(cfg) for cfg in (every, ddpm, one)]
    assert [a == b for a, b in zip(now, before)] == [False, True, True]


def test_the_constant_inside_the_adaptive_weights():
    """l = [0, 1], lambd 1: u = [1 / f, 1 / (1 + f)], w = 2 u / sum u, and w_2 = 2 f / (1 + 2 f), the mean f / (1 + 2 f)."""
    losses = torch.tensor([0.0, 1.0])
    for floor in (1e-8, 1e-15, 0.5):
        assert adaptive_weights(losses, 1.0, floor)[1].item() == pytest.approx(2 * floor / (1 + 2 * floor), rel=1e-5)
        assert adaptive_mean(losses, 1.0, floor).item() == pytest.approx(floor / (1 + 2 * floor), rel=1e-5)
    logits = types.SimpleNamespace(losses=lambda model, draw: losses)
    u = methods.SFRon(lambd=1.0, adaga_floor=0.5)
    assert FORGET_LOSSES["adaga"](logits, None, None, u)[0].item() == pytest.approx(-0.25)


# ---- labels dropped, and dropout of targets


class Shift(torch.nn.Module):
    """eps-hat = theta + c of images of two pixels."""

    def __init__(self):
        super().__init__()
        self.theta, self.modes = torch.nn.Parameter(torch.zeros(())), []

    def forward(self, x, t, c):
        self.modes.append(self.training)
        return self.theta + c.view(-1, 1, 1, 1) + 0 * x


def rolled(monkeypatch, *values: list[float]) -> None:
    """What torch.rand gives, call by call."""
    calls = iter(values)
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.tensor(next(calls)))


def draw_of(*c: int) -> Draw:
    zeros = torch.zeros(len(c), 1, 1, 2)
    return Draw(zeros, torch.tensor(c), torch.zeros(len(c), dtype=torch.long), zeros)


@pytest.fixture
def task():
    """Three classes, the null condition is 3; half of the labels are dropped."""
    return Denoising(torch.tensor([0.9]), None, 3, 0.5, "sum")


@pytest.mark.parametrize("name, sign", [("ga", -1), ("adaga", -1)])
def test_a_forget_step_may_drop_labels(task, monkeypatch, name, sign):
    """c = [0, 2], squared errors of two pixels 0 and 8, mean 4; with the first label dropped [3, 2]: 18 and 8, mean 13."""
    u = methods.SFRon(lambd=0.0)  # all weights 1
    assert FORGET_LOSSES[name](task, Shift(), draw_of(0, 2), u)[0].item() == pytest.approx(sign * 4)
    rolled(monkeypatch, [0.4, 0.6])
    u = methods.SFRon(lambd=0.0, drop_labels=True)
    assert FORGET_LOSSES[name](task, Shift(), draw_of(0, 2), u)[0].item() == pytest.approx(sign * 13)


def test_match_drops_labels_twice(task, monkeypatch):
    """c = [0, 2] follows c' = [1, 0]: squares 1 and 4. One draw drops nothing, the other the first label:

    [3, 2] follows [1, 0] (4, 4: mean 4) or [0, 2] follows [3, 0] (9, 4: mean 6.5). Were it one draw, [3, 2] would
    follow [3, 0] (0, 4: mean 2).
    """
    u = methods.SalUn(loss="match", drop_labels=True)
    rolled(monkeypatch, [0.6, 0.6], [0.4, 0.6])
    one = FORGET_LOSSES["match"](task, Shift(), draw_of(0, 2), u)[0].item()
    rolled(monkeypatch, [0.4, 0.6], [0.6, 0.6])
    other = FORGET_LOSSES["match"](task, Shift(), draw_of(0, 2), u)[0].item()
    assert sorted((one, other)) == pytest.approx([4.0, 6.5])


def test_the_target_of_match_may_be_predicted_in_train_mode(task):
    for dropout in (False, True):
        model = Shift().train()
        FORGET_LOSSES["match"](task, model, draw_of(0, 2), methods.SalUn(loss="match", target_dropout=dropout))
        assert sorted(model.modes) == [dropout, True] and model.training


def test_a_classifier_has_no_labels_to_drop():
    with pytest.raises(InputError, match=r"unlearn\.drop_labels: a classifier is given no labels that could be"):
        load_config("digits_classifier.yml", "salun", settings=["unlearn.drop_labels=true"], flags=FLAGS)


# ---- schedules


def rates(folder, mode: str, *more: str) -> list[float]:
    r = build(folder, mode, "--lr", "1.0", *more)
    found = []
    for k in range(r.cfg.training.n_iters):
        r._one_step(k)
        found.append(r.optimizer.param_groups[0]["lr"])
    return found


def test_scrubs_published_cosine_moves_once_an_epoch(folder):
    """(1 + cos(pi e / E)) / 2 of three epochs: 1, 3/4, 1/4. Two passes (2 + 5 steps) in the first two, then one of 5."""
    found = rates(folder, "scrub", "--epochs", "3", *OVERLAY)
    assert found == pytest.approx(7 * [1.0] + 7 * [0.75] + 5 * [0.25])
    first, second, *_ = rates(folder, "scrub", "--epochs", "3")
    assert first == 1.0 > second  # ours falls with each step


def test_bad_teachers_published_cosine_moves_once_an_epoch(folder):
    """Two epochs of ceil(100 / 16) steps over both sets: 1, then 1/2."""
    assert rates(folder, "bad_teacher", *OVERLAY) == pytest.approx(7 * [1.0] + 7 * [0.5])


# ---- SalUn of classifiers


def test_the_overlay_keeps_masked_weights_in_place(originals):
    """Weight decay and momentum included: the published code puts masked weights back after each step."""
    toy = originals["classifier"]
    settings = ("--set", "optim.weight_decay=0.1", "--set", "optim.momentum=0.9", "--lr", "0.01")
    run = cases.unlearn("classifier", "salun", toy.run, "--mask_path", str(toy.saliency), *settings, *OVERLAY)
    before, after, mask = cases.weights(toy.run), cases.weights(run), load_mask(str(toy.saliency), None, None)
    assert all(torch.equal(after[n][~m], before[n][~m]) for n, m in mask.items())
    assert any(not torch.equal(after[n][m], before[n][m]) for n, m in mask.items())


class Slopes:
    """The loss of image n is c_n a + 4 b."""

    def __call__(self, model, draw):
        return draw.c * model.a + 4 * model.b


def test_a_score_of_batch_means_counts_a_short_last_batch_more():
    """Batches of two and one. Means over images: (1 + 2 + 8) / 3 = 11/3 < 4. Sums of batch means: 3/2 + 8 > 4 + 4."""
    model = torch.nn.Module()
    model.a, model.b = (torch.nn.Parameter(torch.zeros(1)) for _ in "ab")
    draws = [Draw(torch.zeros(len(c)), torch.tensor(c)) for c in ([1.0, 2.0], [8.0])]
    score = gradient_score(model, Slopes(), draws)
    assert (score["a"].item(), score["b"].item()) == pytest.approx((11 / 3, 4))
    published = gradient_score(model, Slopes(), draws, by_batch=True)
    assert (published["a"].item(), published["b"].item()) == pytest.approx((9.5, 8))
    assert not top_share_mask(score, 0.5)["a"] and top_share_mask(published, 0.5)["a"]


def test_a_mask_is_made_of_batch_means_where_asked(originals):
    toy, scores = originals["classifier"], {}
    for name, more in {"ours": (), "published": OVERLAY}.items():
        words = [*cases.WORLDS["classifier"]["saliency"], *cases.from_run(toy.run, 0), "--save_dir", name, *more]
        cases.train.main(["--mode", "generate_mask", "--config", *words, "--set", "saliency.shares=[0.5]"])
        scores[name] = load_tensors(Path(name) / "score.safetensors")
    assert [made["average"] for _, made in scores.values()] == ["images", "batches"]
    assert scores["published"][1]["batch_size"] == 256


# ---- SVC-MIA


def test_m_entropy_is_song_and_mittals_and_not_the_published_codes():
    """p = (0.7, 0.2, 0.1), y = 0: -0.3 ln 0.7 - 0.2 ln 0.8 - 0.1 ln 0.9 = 0.1070 + 0.0446 + 0.0105 = 0.1622.

    The published code writes 1 - p into the columns of all labels of a batch: with every label in it that is
    -sum_c (1 - p_c) ln p_c = 0.1070 + 1.2876 + 2.0723 = 3.4669, whatever y is.
    """
    logits = torch.tensor([[0.7, 0.2, 0.1]]).log()
    assert m_entropy(logits, torch.tensor([0])).item() == pytest.approx(0.1622, abs=5e-5)
    # y = 2: -0.9 ln 0.1 - 0.7 ln 0.3 - 0.2 ln 0.8 = 2.0723 + 0.8428 + 0.0446
    assert m_entropy(logits, torch.tensor([2])).item() == pytest.approx(2.9597, abs=5e-5)


# ---- the overlay


def leaves(block: dict, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in block.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


CONFIGS = {"ddpm": "cifar10_{}.yml", "dit": "dit.yml", "classifier": "cifar10_classifier.yml"}
FILES = {"generate_fisher": "fisher", "generate_mask": "saliency_unlearn", "salun": "saliency_unlearn"}


def loaded(world: str, mode: str, **more):
    flags = {"pretrain": {}, "fim": {"ckpt_folder": "x"}, "sample": {"ckpt_folder": "x"}}.get(mode, FLAGS)
    data = {"dit": ["data={dataset: digits}"]}.get(world, ())
    return load_config(CONFIGS[world].format(FILES.get(mode, mode)), mode, settings=data, flags=flags, **more)


@pytest.mark.parametrize("world, mode", [(w, m) for w, block in BLOCKS.items() for m in block["modes"]])
def test_all_of_a_modes_block_arrives(world, mode):
    cfg = loaded(world, mode, overlays=["as_published.yml"])
    for path, wanted in leaves(BLOCKS[world]["modes"][mode]).items():
        section, key = path.split(".")
        section = "unlearn" if section == methods.METHODS[mode].own else section
        assert getattr(getattr(cfg, section), key) == wanted, path


@pytest.mark.parametrize(
    "world, mode",
    [(w, m) for w in BLOCKS for m in methods.MODES if m not in BLOCKS[w]["modes"] and w == "classifier"]
    + [(w, m) for w in ("ddpm", "dit") for m in ("pretrain", "sa", "ga", "finetune", "esd", "erasediff")],
)
def test_a_mode_without_a_block_is_left_alone(world, mode):
    assert loaded(world, mode, overlays=["as_published.yml"]) == loaded(world, mode)


def test_blocks_of_all_modes_and_of_one(tmp_path):
    """What a mode does not read is left out of what is for all; its own block is strict, and comes last."""
    overlay = tmp_path / "mine.yml"

    def load(text, mode):
        overlay.write_text(text)
        return load_config("digits_classifier.yml", mode, overlays=[str(overlay)], flags=FLAGS).unlearn

    both = "classifier:\n  unlearn: {forget_alpha: 3.0, dropout: false}\n  modes:\n    ga: {unlearn: {forget_alpha: 4.0}}\n"
    assert load(both, "salun").forget_alpha == 3.0 and load(both, "ga").forget_alpha == 4.0
    assert not load(both, "finetune").dropout  # has no forget_alpha
    with pytest.raises(InputError, match=r"mine\.yml \(classifier, ga\): unlearn\.forget_alfa: unknown key"):
        load("classifier: {modes: {ga: {unlearn: {forget_alfa: 4.0}}}}", "ga")
    with pytest.raises(InputError, match=r"mine\.yml: classifier\.modes\.gaa: no such mode \(did you mean 'ga'\?\)"):
        load("classifier: {modes: {gaa: {}}}", "salun")
    for text, named in (
        ("[1]", "classifier"),
        ("{modes: [1]}", r"classifier\.modes"),
        ("{modes: {ga: 5}}", r"\S*\.ga"),
    ):
        with pytest.raises(InputError, match=rf"mine\.yml: {named}: got .*; wanted keys and values"):
            load(f"classifier: {text}", "ga")


@pytest.mark.parametrize("section, key", LATER)
def test_a_key_that_came_later_changes_no_hash_until_it_is_used(section, key):
    """Its default is what was done before; at that the hash is that of the older version, which had no such key."""
    file, mode = {"fisher": ("fisher", "generate_fisher"), "sampling": ("sample", "sample")}.get(
        section, ("saliency_unlearn", "salun")
    )
    flags = {flag: value for flag, value in FLAGS.items() if mode != "sample" or flag == "ckpt_folder"}
    cfg = load_config(f"cifar10_{file}.yml", mode, flags=flags)
    assert getattr(getattr(cfg, section), key) == {"latents": None}.get(key, LATER[section, key])
    used = {"cosine_per": "epoch", "adaga_floor": 1e-15, "average": "batches", "mask_path": "x", "latents": "x"}
    used = used.get(key, True)
    other = cfg.model_copy(update={section: getattr(cfg, section).model_copy(update={key: used})})
    assert config_hash(other) != config_hash(cfg)
    hashed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json, "dumps", lambda tree, **_: hashed.append(tree) or "")
        config_hash(cfg)
    assert key not in hashed[0][section]


def test_the_list_of_differences_has_every_option():
    """The fourth column of docs/differences_from_published.md names the keys of the overlay, and no others."""
    rows = (CONFIG_FOLDER.parent / "docs/differences_from_published.md").read_text().splitlines()
    cells = [row.split("|")[4].split("`") for row in rows if row.startswith("| ")]
    named = {word for cell in cells for word in cell[1::2]}
    options = {path for world in BLOCKS.values() for block in world["modes"].values() for path in leaves(block)}
    assert {word for word in named if "." in word} == options
