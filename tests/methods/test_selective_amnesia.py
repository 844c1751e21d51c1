"""Selective Amnesia: its Fisher against one backward pass per timestep, resume, the penalty, replay and the surrogate."""

import shutil
from pathlib import Path

import bounds
import cases
import numpy as np
import pytest
import torch
from PIL import Image

import fim
from functions.config.load import load_config
from functions.curvature.sweep import sweep
from functions.errors import InputError
from functions.storage.artifacts import load_tensors, save_tensors
from functions.storage.pickles import load_tensor_dict, save_tensor_dict
from functions.tasks import Denoising
from functions.training.anchors import Anchor
from models.encoders import Pixels
from runners.passes import fim as fim_runner


class Net(torch.nn.Module):
    """A conditional eps-hat of a few weights, with dropout to be switched off and a weight that no loss reaches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.label = torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Embedding(4, 1)
        self.drop, self.unused = torch.nn.Dropout(0.5), torch.nn.Parameter(torch.ones(2))

    def forward(self, x, t, c):
        return self.drop(self.conv(x) * (1 + t.view(-1, 1, 1, 1) / 10) + self.label(c).view(-1, 1, 1, 1))


def task():
    return Denoising(torch.linspace(0.9, 0.1, 12).double(), Pixels(), 3, 0.1, "sum")


def draws(n_chunks, i, drop=False):
    x = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(i))
    return task().sweep(x, torch.tensor([i % 3]), n_chunks, drop, torch.Generator().manual_seed(100 + i))


def test_the_sweep_covers_every_timestep_once_and_chunks_change_nothing():
    whole, parts = list(draws(1, 0)), list(draws(5, 0))
    assert len(whole) == 1 and [len(d.t) for d in parts] == [3, 3, 2, 2, 2]
    for field in ("x", "c", "t", "eps"):
        assert torch.equal(getattr(whole[0], field), torch.cat([getattr(d, field) for d in parts])), field
    (d,) = whole
    x = 2 * torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)) - 1
    a = torch.linspace(0.9, 0.1, 12).view(-1, 1, 1, 1)
    assert d.t.tolist() == list(range(12)) and torch.allclose(d.x, a.sqrt() * x + (1 - a).sqrt() * d.eps, atol=1e-6)
    assert (d.c == 0).all()


def test_labels_are_dropped_only_when_asked():
    dropped = torch.cat([d.c for i in range(30) for d in draws(1, 3 * i, drop=True)])
    assert set(dropped.tolist()) == {0, 3} and 0.05 < (dropped == 3).float().mean() < 0.16


def test_sweep_is_the_mean_of_squared_sums_of_single_gradients():
    model = Net().double().train()
    double = lambda n, i: (d._replace(x=d.x.double(), eps=d.eps.double()) for d in draws(n, i))
    sums = list(sweep(model, task().losses, (double(4, i) for i in range(3))))
    total = sums[-1]
    assert len(sums) == 3 and model.training and all(p.grad is None for p in model.parameters())
    model.eval()
    wanted = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(3):
        summed = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for d in double(12, i):  # batch 1 per timestep
            for name, g in zip(
                summed, torch.autograd.grad(task().losses(model, d).sum(), list(model.parameters()), allow_unused=True)
            ):
                summed[name] += 0 if g is None else g
        for name, g in summed.items():
            wanted[name] += g**2
    for name in wanted.keys() - {"unused"}:
        assert bounds.error(total[name], wanted[name]) < bounds.TIGHT, name
    assert (total["unused"] == 0).all() and (total["conv.weight"] > 0).all()


# ---- the penalty


def test_the_penalty_and_its_gradient_are_those_of_the_formula():
    torch.manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(3, 2, dtype=torch.double)),
        torch.nn.Parameter(torch.randn(4, dtype=torch.double)),
    ]
    fishers = [torch.rand(3, 2, dtype=torch.double), torch.rand(4, dtype=torch.double)]
    anchor, start = Anchor(params, fishers), [p.detach().clone() for p in params]
    assert anchor.penalty().item() == 0
    with torch.no_grad():
        for p in params:
            p += torch.randn_like(p)
    penalty = anchor.penalty()
    wanted = sum((f * (p - s) ** 2).sum() for f, p, s in zip(fishers, params, start))
    assert torch.allclose(penalty, wanted)
    (3 * penalty).backward()
    for p, f, s in zip(params, fishers, start):
        assert torch.allclose(p.grad, 3 * 2 * f * (p - s).detach())


# ---- fim.py


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A toy model of 25 timesteps with two samples of each class and its Fisher of one each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("sa"))
        cases.small_configs(patch)
        run = cases.pretrain("ddpm").resolve()
        cases.replay_fisher("ddpm", run)
        yield run


def make_fisher(run, *more):
    return fim.main(["--config", "digits_fim.yml", "--ckpt_folder", str(run), "--set", "fim.per_class=1", *more])


def test_the_fisher_lies_where_the_readme_says_in_both_formats(run):
    fisher, made = load_tensors(run / "fisher_dict.safetensors")
    published = load_tensor_dict(run / "fisher_dict.pkl")
    assert fisher.keys() == published.keys() == cases.weights(run).keys()
    assert all(torch.equal(fisher[n], published[n]) for n in fisher)
    assert (made["n"], made["estimator"]) == (10, "sweep")
    assert (made["cost"]["forward"], made["cost"]["backward"]) == (250, 250)
    assert b"module.conv_in.weight" in (run / "fisher_dict.pkl").read_bytes()  # the published names


def test_an_interrupted_fisher_goes_on_where_it_stopped(run, monkeypatch, capsys):
    wanted, _ = load_tensors(run / "fisher_dict.safetensors")
    (run / "fisher_dict.safetensors").unlink()
    passed = []
    sweep_images = fim_runner.SweepFisher._sweeps

    def stop_after_four(self, start):
        for i, draws in enumerate(sweep_images(self, start)):
            if i == 4:
                raise KeyboardInterrupt
            yield draws

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fim_runner.SweepFisher, "_sweeps", stop_after_four)
        patch.setattr(fim_runner.SweepFisher, "_due", lambda self, n: n == 3)
        make_fisher(run)
    assert not (run / "fisher_dict.safetensors").exists()
    monkeypatch.setattr(
        fim_runner.SweepFisher, "_sweeps", lambda self, start: passed.append(start) or sweep_images(self, start)
    )
    make_fisher(run, "--n_chunks", "7")
    assert passed == [3] and "resuming after 3 of 10" in capsys.readouterr().out
    found, made = load_tensors(run / "fisher_dict.safetensors")
    # Other chunks, other rounding: of a square twice that of a gradient, whose condition is taken as 500. A bias of the
    # keys has no gradient but rounding, for attention's softmax takes away what all keys have in common.
    off = 2 * bounds.SLACK * 500 * bounds.unit()
    for n in (n for n in wanted if not n.endswith(".k.bias")):
        assert (found[n] - wanted[n]).abs().max() <= off * wanted[n].max(), n
    assert made["cost"]["forward"] == 250 and not list(run.glob(".fisher_dict*"))


def test_the_published_fisher_sees_other_images_and_labels(run):
    wanted, _ = load_tensors(run / "fisher_dict.safetensors")
    found, made = load_tensors(make_fisher(run, "--overlay", "as_published.yml"))
    assert made["unit_images"] and made["drop_labels"]
    assert not torch.allclose(found["conv_in.weight"], wanted["conv_in.weight"], rtol=0.01)
    make_fisher(run)


# ---- the method


def test_the_class_is_replaced_by_noise_and_the_others_are_the_models_own_samples(run, monkeypatch):
    seen = []
    draw = Denoising._draw
    monkeypatch.setattr(Denoising, "_draw", lambda self, *words: seen.append(words) or draw(self, *words))
    cases.unlearn("ddpm", "sa", run, "--set", "training.batch_size=64")
    surrogates, replays = seen[0::2], seen[1::2]
    assert not any(drop for _, _, drop, _ in seen)
    assert all((c == 0).all() for _, c, *_ in surrogates)
    z = torch.cat([z for z, *_ in surrogates])
    assert -1 <= z.min() < -0.98 and 0.98 < z.max() <= 1 and abs(z.mean()) < 0.02 and abs(z.std() - 3**-0.5) < 0.02
    assert torch.cat([c for _, c, *_ in replays]).unique().tolist() == list(range(1, 10))
    drawn = torch.stack([torch.from_numpy(_png(run / "class_samples" / "3" / f"{k}.png")) for k in range(2)])
    threes = torch.cat([(z[c == 3] + 1) / 2 for z, c, *_ in replays])[:, 0] * 255
    assert all(any(torch.allclose(t, d.float(), atol=1e-3) for d in drawn) for t in threes)


def _png(path):
    with Image.open(path) as image:
        return np.array(image)


def test_the_loss_is_the_sum_of_its_three_parts(run, monkeypatch):
    """gamma_gr and lmbda weigh what they name."""
    from runners.methods.sa import SelectiveAmnesia

    values = []
    descend = SelectiveAmnesia.descend
    monkeypatch.setattr(
        SelectiveAmnesia,
        "descend",
        lambda self, loss, *a, **k: values.append(loss.item()) or descend(self, loss, *a, **k),
    )
    out = cases.unlearn(
        "ddpm", "sa", run, "--set", "sa.lmbda=7.0", "--set", "sa.gamma_gr=3.0", "--set", "optim.lr=1e-2"
    )
    lines = cases.stats(out)
    assert values == pytest.approx([s["forget"] + 3 * s["replay"] + 7 * s["ewc"] for s in lines], rel=1e-5)
    assert lines[0]["ewc"] == 0 and lines[-1]["ewc"] > 0


def test_a_resumed_run_keeps_the_originals_anchor(run):
    argv = ["--mode", "sa", "--config", "digits_baselines.yml", *cases.TOY, *cases.from_run(run, 0)]
    whole = cases.train.main([*argv, "--set", "optim.lr_schedule=constant"])
    half = cases.train.main([*argv, "--set", "optim.lr_schedule=constant", "--set", "training.n_iters=2"])
    resumed = cases.train.main([*argv, "--set", "optim.lr_schedule=constant", "--resume", str(half)])
    assert cases.same(cases.weights(resumed), cases.weights(whole))


def test_a_run_is_not_continued_with_another_fisher_or_other_replay(run):
    copy = Path(shutil.copytree(run, "copy"))
    argv = ["--mode", "sa", "--config", "digits_baselines.yml", *cases.TOY, *cases.from_run(copy, 0)]
    begun = cases.train.main([*argv, "--set", "training.n_iters=2"])
    fisher, made = load_tensors(copy / "fisher_dict.safetensors")
    save_tensors(copy / "fisher_dict.safetensors", {n: 2 * f for n, f in fisher.items()}, made)
    with pytest.raises(InputError, match="began with another fisher"):
        cases.train.main([*argv, "--set", "training.n_iters=2", "--resume", str(begun)])
    save_tensors(copy / "fisher_dict.safetensors", fisher, made)
    shutil.copy(copy / "class_samples/3/0.png", copy / "class_samples/3/1.png")
    with pytest.raises(InputError, match="began with another replay"):
        cases.train.main([*argv, "--set", "training.n_iters=2", "--resume", str(begun)])


def test_samples_of_another_checkpoint_are_not_the_models_own(run, capsys):
    other = cases.pretrain("ddpm", "--seed", "1")
    shutil.copytree(run / "class_samples", other / "class_samples")
    with pytest.raises(InputError, match="class_samples: drawn from another checkpoint than the newest of"):
        make_fisher(other)
    (other / "class_samples" / "samples.json").unlink()
    make_fisher(other)
    assert "no samples.json: who drew these images is not known" in capsys.readouterr().err


def test_published_hyper_parameters():
    flags = {"label_to_forget": 0, "ckpt_folder": "x"}
    c = load_config("cifar10_sa.yml", "sa", flags=flags)
    assert (c.unlearn.lmbda, c.unlearn.gamma_gr, c.optim.lr, c.training.n_iters, c.training.ema_rate) == (
        10,
        1,
        1e-4,
        20000,
        0.9999,
    )


# ---- what is refused


def test_a_fisher_of_another_model_is_refused(run):
    other = cases.pretrain("ddpm", "--seed", "1")
    (other / "fisher_dict.safetensors").write_bytes((run / "fisher_dict.safetensors").read_bytes())
    with pytest.raises(InputError, match="Fisher .*made from another checkpoint"):
        cases.unlearn("ddpm", "sa", other)
    with pytest.raises(InputError, match=r"Fisher nowhere\.safetensors: no such file; fim\.py makes it"):
        cases.unlearn("ddpm", "sa", run, "--set", "sa.fisher_path=nowhere.safetensors")
    fisher, made = load_tensors(run / "fisher_dict.safetensors")
    save_tensors("cut.safetensors", {n: f for n, f in fisher.items() if n != "conv_in.weight"}, made)
    with pytest.raises(InputError, match=r"made for another architecture: 1 names or shapes differ: conv_in\.weight"):
        cases.unlearn("ddpm", "sa", run, "--set", "sa.fisher_path=cut.safetensors")
    for wrong, message in (
        ({"estimator": "saliency"}, "is no Fisher, but a file of saliency tensors"),
        ({"threshold": 1.0}, "is no Fisher"),
        ({"set": "forget"}, "of the forget set; wanted"),
        ({"forget": {"dataset": "digits", "label": 7}}, "made for class 7, this run forgets class 0"),
    ):
        save_tensors("other.safetensors", fisher, {**made, **wrong})
        with pytest.raises(InputError, match=f"Fisher other.safetensors: {message}"):
            cases.unlearn("ddpm", "sa", run, "--set", "sa.fisher_path=other.safetensors")
    save_tensors("negative.safetensors", {**fisher, "conv_in.weight": -1 - fisher["conv_in.weight"]}, made)
    with pytest.raises(InputError, match=r"negative, NaN or infinite values in 1 tensors: conv_in\.weight"):
        cases.unlearn("ddpm", "sa", run, "--set", "sa.fisher_path=negative.safetensors")


def test_a_published_pickle_serves_as_the_fisher(run, capsys):
    fisher, _ = load_tensors(run / "fisher_dict.safetensors")
    save_tensor_dict("theirs.pkl", {f"module.{n}": f for n, f in fisher.items()})
    ours = cases.unlearn("ddpm", "sa", run)
    theirs = cases.unlearn("ddpm", "sa", run, "--set", "sa.fisher_path=theirs.pkl")
    assert cases.same(cases.weights(ours), cases.weights(theirs))
    assert "foreign, provenance: none" in capsys.readouterr().err


class Exploit:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_a_pickle_with_code_in_it_is_refused_and_nothing_runs(run):
    import pickle

    Path("evil.pkl").write_bytes(pickle.dumps({"conv_in.weight": Exploit()}))
    with pytest.raises(InputError, match=r"evil\.pkl"):
        cases.unlearn("ddpm", "sa", run, "--set", "sa.fisher_path=evil.pkl")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "missing, message",
    [
        ("class_samples", r"class_samples: no such folder; python sample\.py --mode sample_classes makes it"),
        ("class_samples/4", r"class_samples: no samples of class 4; python"),
        ("class_samples/4/0.png", r"class_samples: fewer than 2 samples of class 4 \(fim\.per_class\)"),
    ],
)
def test_replay_that_is_not_there_is_named(run, missing, message):
    copy = Path(shutil.copytree(run, "copy"))
    path = copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=message):
        make_fisher(copy, "--set", "fim.per_class=2")
    if missing != "class_samples/4/0.png":
        with pytest.raises(InputError, match=message):
            cases.unlearn("ddpm", "sa", copy)


def test_replay_of_another_size_is_refused(run):
    copy = Path(shutil.copytree(run, "copy"))
    for path in copy.glob("class_samples/*/*.png"):
        Image.fromarray(_png(path)).resize((9, 9)).save(path)
    with pytest.raises(InputError, match=r"class_samples: images of shape \(1, 9, 9\), the model draws \(1, 8, 8\)"):
        make_fisher(copy)


def test_a_classifier_has_no_sweep_and_no_samples(tmp_path):
    (tmp_path / "sweep.yml").write_text("world: classifier\ndata: {dataset: digits}\nfim: {}\n")
    with pytest.raises(InputError, match="world: classifier has no timesteps to sum over"):
        load_config(str(tmp_path / "sweep.yml"), "fim", settings=["fim.n_chunks=2", "ckpt_folder=x"])
    with pytest.raises(InputError, match=r"sa\.replay: a classifier draws no samples; wanted remain"):
        load_config(
            "digits_classifier.yml",
            "sa",
            settings=["sa.replay=samples"],
            flags={"label_to_forget": 0, "ckpt_folder": "x"},
        )
