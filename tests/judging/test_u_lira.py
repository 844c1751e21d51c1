"""scripts/u_lira.py: which command trains which shadow, what goes on where it was, and what the attack is given."""

import importlib.util
import json
from pathlib import Path

import cases
import pytest
import torch

import datasets
import models
import train
from functions.errors import InputError
from functions.judging import membership
from functions.storage import checkpoint

ROOT = Path(__file__).resolve().parents[2]
ARGV = [
    "--out",
    "out",
    "--config",
    "digits_classifier.yml",
    "--mode",
    "ga",
    "--n_shadows",
    "6",
    "--n_candidates",
    "120",
]


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("u_lira", ROOT / "scripts" / "u_lira.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FakeTraining:
    """Stands for train.main: writes a run with random weights, remembers the words, fails when told to."""

    def __init__(self, fail_at: int | None = None):
        self.calls, self.fail_at = [], fail_at

    def __call__(self, words):
        self.calls.append(words)
        value = lambda flag: words[words.index(flag) + 1]
        run, mode = Path(value("--save_dir")), value("--mode")
        (run / "logs").mkdir(parents=True, exist_ok=True)
        (run / "logs" / "origin.json").write_text("{}")
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        description = models.classifiers.describe("cnn", 10, 1, 8, width=1)
        torch.manual_seed(int(value("--seed")))
        meta = cases.meta() | {
            "mode": mode,
            "model": description,
            "forget": None,
            "cost": {"seconds": 1.0, "forward": 0, "backward": 0},
            "config": {"data": {"n_workers": 0}},
        }
        weights = {"raw": models.build(description).state_dict()}
        checkpoint.save(run, 1, weights, {}, meta, 1, {"remain": torch.arange(1), "val": torch.arange(0)})
        return run


@pytest.fixture
def fake(monkeypatch):
    training = FakeTraining()
    monkeypatch.setattr(train, "main", training)
    return training


def indices(words, flag):
    """The list in the file that a word names."""
    word = next(w for w, before in zip(words[1:], words) if before == flag or w.startswith(f"{flag}="))
    return json.loads(Path(word.split("=")[-1]).read_text())


def test_thirds_of_the_candidates_are_left_out_and_forgotten(script, fake, capsys):
    path = script.main([*ARGV, "--", "--lr", "0.5"])
    assert path == Path("out/u_lira_ga.json") and len(fake.calls) == 12
    n, excluded, forgotten = len(datasets.load("digits")), [], []
    for pretrain, unlearn in zip(fake.calls[::2], fake.calls[1::2]):
        used, forget = set(indices(pretrain, "data.indices")), set(indices(unlearn, "--forget_idx"))
        out = set(range(n)) - used
        assert len(out) == len(forget) == 40 and forget < used
        excluded.append(out)
        forgotten.append(forget)
    candidates = set().union(*excluded, *forgotten)
    assert len(candidates) <= 120 and len({frozenset(o) for o in excluded + forgotten}) == 12
    i = 2
    run = f"out/runs/pretrain_00{i}"
    files = f"out/indices/120_of_{n}_s0/shadow_00{i}"
    assert fake.calls[2 * i] == [
        "--config",
        "digits_classifier.yml",
        "--mode",
        "pretrain",
        "--seed",
        "2",
        "--set",
        f"data.indices={files}_train.json",
        "--set",
        "data.val_fraction=0",
        *script.UNSEEN,
        "--save_dir",
        run,
    ]
    assert fake.calls[2 * i + 1] == [
        "--config",
        "digits_classifier.yml",
        "--mode",
        "ga",
        "--seed",
        "2",
        "--model_path",
        run,
        "--forget_idx",
        f"{files}_forget.json",
        "--lr",
        "0.5",
        *script.UNSEEN,
        "--save_dir",
        f"out/runs/ga_00{i}",
    ]
    found, text = json.loads(path.read_text()), capsys.readouterr().out
    assert f"TPR@1%FPR: {found['tpr']:.4f}, 95 % [" in text and "higher leaks more; 0.01 is chance" in text
    assert found["contract"]["words"] == ["--lr", "0.5"] and found["n_models"] == 6


def test_more_shadows_go_on_from_those_there_are(script, fake):
    script.main(ARGV)
    script.main(ARGV)
    assert len(fake.calls) == 12
    script.main([*ARGV, "--n_shadows", "8"])
    assert [c[c.index("--save_dir") + 1] for c in fake.calls[12:]] == [
        f"out/runs/{mode}_00{i}" for i in (6, 7) for mode in ("pretrain", "ga")
    ]
    with pytest.raises(InputError, match="pretrain_000.json: this stage was run as"):
        script.main([*ARGV, "--n_candidates", "150"])
    with pytest.raises(InputError, match="ga_000.json: this stage was run as"):
        script.main([*ARGV, "--", "--lr", "1"])


def test_a_stopped_shadow_is_resumed(script, fake):
    fake.fail_at = 6
    with pytest.raises(KeyboardInterrupt):
        script.main(ARGV)
    stopped = fake.calls[-1]
    fake.fail_at = None
    script.main(ARGV)
    assert fake.calls[6] == [*stopped, "--resume", "out/runs/ga_002"] and len(fake.calls) == 13


def test_salun_gets_its_mask_and_rl_none(script, fake):
    argv = [w if w != "ga" else "salun" for w in ARGV]
    script.main(argv)
    assert [c[c.index("--mode") + 1] for c in fake.calls[:3]] == ["pretrain", "generate_mask", "salun"]
    mask, salun = fake.calls[1:3]
    assert mask[mask.index("--forget_idx") :][:2] == salun[salun.index("--forget_idx") :][:2]
    assert salun[salun.index("--mask_path") + 1] == "out/runs/saliency_000/with_0.5.safetensors"
    fake.calls.clear()
    script.main([*argv, "--no-mask", "--out", "rl"])
    assert len(fake.calls) == 12 and not any("--mask_path" in c for c in fake.calls)


def test_the_attack_sees_what_was_forgotten(script, fake, monkeypatch):
    """Logits whose odds rise where shadow i forgot: found; where it forgot nothing in particular: chance."""
    labels = datasets.load("digits").labels
    argv = [*ARGV, "--n_shadows", "10", "--n_candidates", "300"]

    def rate(lift: float, of: str) -> dict:
        def logits(run, images, prints):
            g = torch.Generator().manual_seed(int(run.name[-3:]))
            z = torch.zeros(len(labels), 10)
            odds = torch.randn(len(labels), generator=g)
            name = next(Path("out/indices").glob(f"300_*/shadow_{run.name[-3:]}_{of}.json"))
            odds[json.loads(name.read_text())] += lift
            return z.scatter(1, labels[:, None], odds[:, None])

        monkeypatch.setattr(script, "logits_of_run", logits)
        found = json.loads(script.main(argv).read_text())
        assert {k: found[k] for k in ("tpr", "auc", "n_unlearned", "n_out")}.items() <= direct(logits).items()
        return found

    def direct(logits) -> dict:
        """The attack on the same logits, states read from the files of indices."""
        table, unlearned, out = [], [], []
        for i in range(10):
            (used,) = Path("out/indices").glob(f"300_*/shadow_{i:03d}_train.json")
            forget = json.loads(used.with_name(f"shadow_{i:03d}_forget.json").read_text())
            every = torch.arange(len(labels))
            table.append(membership.phi(logits(Path(f"ga_{i:03d}"), None, None), labels))
            unlearned.append(torch.isin(every, torch.tensor(forget)))
            out.append(~torch.isin(every, torch.tensor(json.loads(used.read_text()))))
        candidates = (torch.stack(unlearned) | torch.stack(out)).any(0)
        states = [torch.stack(of)[:, candidates] for of in (unlearned, out)]
        return membership.u_lira(torch.stack(table)[:, candidates], *states)

    leaking, chance = rate(6.0, "forget"), rate(0.0, "forget")
    assert leaking["tpr"] > 0.9 and leaking["auc"] > 0.99
    assert chance["tpr"] < 0.04 and abs(chance["auc"] - 0.5) < 0.06
    assert rate(6.0, "train")["tpr"] > 0.9  # all that was trained on is lifted, the left out is not


def test_budgets_without_a_rate_are_refused_before_training(script, fake):
    for more in (["--n_shadows", "2"], ["--n_candidates", "60"]):
        with pytest.raises(InputError, match="out scores, wanted at least 100 for a rate at 1% false positives"):
            script.main([*ARGV, *more])
    with pytest.raises(InputError, match="--n_candidates 5000: digits has"):
        script.main([*ARGV, "--n_candidates", "5000"])
    assert fake.calls == []


@pytest.mark.parametrize("mode", ["salun", "retrain", "sfron"])
def test_with_real_commands(script, mode):
    """Toy size, through train.py: the runs are there and forgot what they were told to."""
    Path("toy.yml").write_text(
        "base: digits_classifier.yml\ntraining: {epochs: 1, batch_size: 256}\nmodes:\n  pretrain:\n    model: {name: cnn, width: 4}\n"
    )
    more = {"salun": ["--", "--epochs", "1"], "sfron": ["--", "--set", "training.n_iters=4"]}.get(mode, [])
    argv = ["--out", "out", "--config", "toy.yml", "--mode", mode, "--n_shadows", "6", "--n_candidates", "120", *more]
    path = script.main(argv)
    found = json.loads(path.read_text())
    assert 0 <= found["tpr"] <= 1 and found["n_models"] == 6
    for i in range(6):
        kept = cases.load_indices(f"out/runs/{mode}_00{i}")
        (forget,) = Path("out/indices").glob(f"*/shadow_00{i}_forget.json")
        (used,) = Path("out/indices").glob(f"*/shadow_00{i}_train.json")
        assert kept["forget"].tolist() == json.loads(forget.read_text()) and len(kept["val"]) == 0
        assert sorted(kept["forget"].tolist() + kept["remain"].tolist()) == json.loads(used.read_text())
    before = path.read_text()
    script.main(argv)
    assert path.read_text() == before
