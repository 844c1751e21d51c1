"""DiTs of others become run folders, and run folders DiTs of others, bit for bit; what the files are is told by shapes."""

import json
import shutil
from pathlib import Path

import cases
import dits
import pytest
import safetensors.torch
import torch

import convert
from functions.errors import InputError
from functions.storage import dit_files, exported_dit
from functions.storage.meta import DIT_SIZES
from models.dit import DiT


def import_(path, *more):
    return convert.main([str(path), *dits.CONFIG, *more])


def save(content, path="DiT.pt", **options) -> Path:
    torch.save(content, path, **options)
    return Path(path)


# ---- what people have


def bare(zipped=True):
    return save(dits.weights(), _use_new_zipfile_serialization=zipped)


def tensors_file():
    safetensors.torch.save_file(dits.weights(), "DiT.safetensors")
    return Path("DiT.safetensors")


FILES = {
    "bare": bare,
    "bare, old": lambda: bare(False),
    "safetensors": tensors_file,
    "model": lambda: save({"model": {f"module._orig_mod.{n}": t for n, t in dits.weights().items()}}),
    "ema": lambda: save({"ema": dits.weights()}),
    "both": lambda: dits.training_file("0000600.pt"),
    "both, old": lambda: dits.training_file("0000600.pt", zipped=False),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_others_become_run_folders(name, capsys):
    run = import_(FILES[name]())
    assert run.parent == Path("results/digits/pretrain")
    assert cases.same(cases.weights(run, "raw"), dits.weights(0))
    meta = cases.load_meta(run)
    assert ("ema.safetensors" in meta["files"]) == name.startswith("both")
    if name.startswith("both"):
        assert cases.same(cases.weights(run, "ema"), dits.weights(1)) and meta["step"] == 600
    assert meta["model"] == dits.described() and meta["world"] == "dit" and meta["forget"] is None
    assert meta["encoder"]["kwargs"]["channels"] == 2 and meta["diffusion"]["learned_variance"]
    assert "weights at step" in capsys.readouterr().out


def test_half_precision_becomes_float32():
    run = import_(save({n: t.bfloat16() for n, t in dits.weights().items()}))
    found = cases.weights(run)
    assert {t.dtype for t in found.values()} == {torch.float32}
    assert torch.equal(
        found["final_layer.linear.weight"], dits.weights()["final_layer.linear.weight"].bfloat16().float()
    )


def test_the_config_says_the_heads_that_shapes_do_not():
    run = convert.main([str(bare()), *dits.CONFIG[:-1], dits.MODEL.replace("num_heads: 4", "num_heads: 3")])
    assert cases.load_meta(run)["model"]["kwargs"]["num_heads"] == 3
    theirs = convert.main([str(dits.make_run("run")), "--export", "diffusers", "--out", "theirs"])
    with pytest.raises(InputError, match="num_heads 4 and not 3; --model"):
        convert.main([str(theirs), *dits.CONFIG[:-1], dits.MODEL.replace("num_heads: 4", "num_heads: 3")])


def test_an_imported_model_is_unlearned_and_drawn_from():
    run = import_(bare())
    assert cases.stats(cases.unlearn("dit", "finetune", run))[-1]["remain"] > 0


# ---- published sizes


SIZES = [(size, 2, 32) for size in DIT_SIZES] + [("S", patch, side) for patch in (2, 4, 8) for side in (32, 64)]


def test_the_published_sizes_are_told_by_their_shapes():
    for size, patch, side in SIZES:
        kwargs = {**DIT_SIZES[size], "patch_size": patch, "in_channels": 4, "image_size": side, "n_classes": 1000}
        with torch.device("meta"):
            tensors = DiT(**kwargs).state_dict()
        found = dit_files.kwargs_of(tensors, "x")
        assert found == {**kwargs, "learned_variance": True, "mlp_ratio": 4, "num_heads": None}
        assert dit_files.usual_heads(found) == kwargs["num_heads"]
        assert dit_files.said(found) == f"DiT-{size}/{patch} for {8 * side}x{8 * side} images, 1000 classes"
    # embeddings of t and c 5, q, k, v, out, two of the MLP and the modulation 14 in a block; 6 outside
    assert len(dit_files.to_diffusers(tensors, 12)) == 12 * (5 + 14) + 6


@pytest.mark.parametrize(
    "kwargs, more, message",
    [
        (
            {},
            ["--set", "model={name: dit, size: S, patch_size: 2}"],
            r"width 48 and depth 3, patches of 2, for 8x8 images, 10 classes, 2 channels, and fits nothing else; asked for: DiT-S/2 for .*--model",
        ),
        ({"image_size": 8}, [], r"for 16x16 images.*\(image_size 8 and not 4; --image_size\)"),
        ({"patch_size": 1}, [], r"\(patch_size 1 and not 2; --model\)"),
        ({"n_classes": 7}, [], r"7 classes.*\(n_classes 7 and not 10; data.dataset\)"),
        (
            {"learned_variance": False},
            [],
            r"no learned variance, and fits.*\(learned_variance False and not True; diffusion.learned_variance\)",
        ),
        ({"mlp_ratio": 2}, [], r"\(mlp_ratio 2 and not 4\)"),
    ],
)
def test_another_size_says_what_the_file_fits(kwargs, more, message):
    path = save(dits.weights(**kwargs))
    with pytest.raises(InputError, match=rf"^DiT\.pt: is a DiT of .*{message}"):
        import_(path, *more)
    assert not Path("results").exists()


def test_what_is_no_dit_is_refused():
    tensors = dits.weights()
    less = {n: t for n, t in tensors.items() if n != "blocks.1.attn.proj.bias"}
    unpositioned = {n: t for n, t in tensors.items() if n != "pos_embed"}
    nan = {**tensors, "pos_embed": torch.full_like(tensors["pos_embed"], float("nan"))}
    for content, message in (
        ([tensors, {}, 3], "a list, as the published DDPM code saves"),
        ({"model": {"a": 1}}, "model: a: wanted a tensor by name, got a int"),
        ({"a": torch.zeros(1)}, r"\(raw\): 1 tensors that are no DiT's: lacks x_embedder.proj.weight"),
        (unpositioned, "lacks pos_embed"),
        ({**tensors, "x_embedder.proj.weight": torch.zeros(48)}, "no DiT's"),
        (less, r"\(raw\): 1 tensors do not fit the model: blocks\.1\.attn\.proj\.bias"),
        ({**tensors, "blocks.999999.x": torch.zeros(1)}, r"model\.kwargs: depth: got 1000000"),
        ({"model": tensors, "ema": dits.weights(patch_size=1)}, "model and ema are of two sizes"),
        (nan, r"192 of .* values are NaN or infinite, in pos_embed"),
        ({n: t.int() for n, t in tensors.items()}, "torch.int32; wanted numbers with fractions"),
    ):
        with pytest.raises(InputError, match=rf"^DiT\.pt.*{message}") as error:
            import_(save(content))
        assert "\n" not in str(error.value)
    assert not Path("results").exists()


# ---- the published file again


def test_the_published_file_and_back():
    run = dits.make_run("run")
    path = convert.main([str(run), "--export", "dit", "--weights", "raw"])
    assert path == run / "ckpts" / "dit.pt" and path.with_name("dit.pt.sha256").is_file()
    found = torch.load(path, weights_only=True)
    assert cases.same(found, cases.weights(run, "raw")) and list(found)[:1]
    dits.model(found)  # strict
    assert cases.same(cases.weights(import_(path), "raw"), cases.weights(run, "raw"))
    assert cases.same(
        torch.load(convert.main([str(run), "--export", "dit", "--out", "ema.pt"]), weights_only=True),
        cases.weights(run, "ema"),
    )
    both = convert.main([str(run), "--export", "dit", "--weights", "both", "--out", "both.pt"])
    again = import_(both)
    for kind in ("raw", "ema"):
        assert cases.same(cases.weights(again, kind), cases.weights(run, kind))
    with pytest.raises(InputError, match="already exists"):
        convert.main([str(run), "--export", "dit"])


def test_plain_weights_say_what_they_are_of():
    run = dits.make_run("run", ("raw",))
    out = convert.main([str(run), "--export", "weights"])
    assert cases.same(torch.load(out, weights_only=True), cases.weights(run))
    about = json.loads(out.with_suffix(".json").read_text())
    assert about["model"] == dits.described() and about["input"].startswith("latents")


def test_what_has_no_such_file_is_refused(originals):
    with pytest.raises(InputError, match="a model named unet; --export dit is for DiTs"):
        convert.main([str(originals["ddpm"].run), "--export", "dit", "--out", "x.pt"])
    with pytest.raises(InputError, match="has no ema weights"):
        convert.main([str(dits.make_run("run", ("raw",))), "--export", "dit", "--weights", "both", "--out", "x.pt"])
    with pytest.raises(InputError, match="--weights both: --export weights holds one set"):
        convert.main(["run", "--export", "weights", "--weights", "both"])


# ---- diffusers


def load(folder):
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel.from_pretrained(folder).eval().requires_grad_(False)


def inputs(n_classes=10):
    g = torch.Generator().manual_seed(3)
    c = torch.arange(n_classes + 1)  # the last is the null label
    t = torch.randint(0, 1000, (len(c),), generator=g)
    return torch.randn(len(c), 2, 4, 4, generator=g), t, c


@pytest.mark.parametrize("learned", [True, False])
def test_diffusers_computes_the_same_to_the_bit(learned):
    run = dits.make_run("run", learned_variance=learned)
    out = convert.main([str(run), "--export", "diffusers"])
    assert out == run / "diffusers"
    theirs, (x, t, c) = load(out / "transformer"), inputs()
    ours = dits.model(cases.weights(run, "ema"), learned_variance=learned)
    wanted = ours(x, t, c)
    assert (wanted - wanted.flip(0)).abs().max() > 0.1
    untouched = theirs(x, t, class_labels=c).sample
    found = exported_dit.as_published(theirs)(x, t, class_labels=c).sample
    assert (found - wanted).abs().max() == 0.0
    assert (untouched - wanted).abs().max() > 1e-3  # the edits are needed
    assert sum(p.numel() for p in theirs.parameters()) == sum(
        p.numel() for n, p in ours.named_parameters() if n != "pos_embed"
    )


@pytest.mark.parametrize("learned", [True, False])
def test_ours_to_diffusers_to_ours(learned):
    run = dits.make_run("run", ("raw",), learned_variance=learned)
    out = convert.main([str(run), "--export", "diffusers", "--out", "theirs"])
    for place in (out, out / "transformer"):
        again = import_(place, "--set", f"diffusion.learned_variance={learned}".lower())
        assert cases.same(cases.weights(again), cases.weights(run))
        assert cases.load_meta(again)["model"] == cases.load_meta(run)["model"]


def test_theirs_to_ours_to_theirs():
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    config = exported_dit.transformer_config(dits.KWARGS)
    theirs = exported_dit.as_published(DiTTransformer2DModel(**config))
    untied = DiTTransformer2DModel(**config)
    untied.load_state_dict(theirs.state_dict())
    untied.save_pretrained("theirs")
    run = import_("theirs")
    again = load(convert.main([str(run), "--export", "diffusers", "--out", "again"]) / "transformer")
    assert cases.same(again.state_dict(), untied.state_dict())
    # as older ones were saved
    torch.save(untied.state_dict(), "theirs/diffusion_pytorch_model.bin")
    Path("theirs/diffusion_pytorch_model.safetensors").unlink()
    assert cases.same(cases.weights(import_("theirs")), cases.weights(run))


@pytest.mark.parametrize("learned", [True, False])
def test_plain_diffusers_draws_from_the_folder(learned):
    from diffusers import DiTPipeline

    classes = [f"n{c:04d}" for c in range(1000)]
    run = dits.make_run("run", ("raw",), classes=classes, learned_variance=learned)
    out = convert.main([str(run), "--export", "diffusers"])
    pipe = DiTPipeline.from_pretrained(out)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.get_label_ids(["n0207"]) == [207]
    draw = lambda w: (
        pipe([207, 3], guidance_scale=w, num_inference_steps=2, output_type="np", generator=torch.manual_seed(0)).images
    )
    assert draw(4.0).shape == (2, 8, 8, 1) and (draw(4.0) != draw(1.0)).any()
    assert (out / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == (
        cases.VAE / "diffusion_pytorch_model.safetensors"
    ).read_bytes()


def test_labels_of_imagenet_are_english():
    from functions import imagenet

    found = exported_dit.labels(list(imagenet.wnids()))
    assert found["207"].split(", ")[0] == "golden retriever" and len(found) == 1000
    assert exported_dit.labels(["a", "b"]) == {"0": "a", "1": "b"}


def test_an_autoencoder_that_is_not_here_is_left_out_and_another_is_refused():
    run = dits.make_run("run", ("raw",))
    meta = cases.load_meta(run)
    moved = {**meta["encoder"], "kwargs": {**meta["encoder"]["kwargs"], "vae": "stabilityai/sd-vae-ft-ema"}}
    model = dits.model(cases.weights(run))
    Path("one").mkdir()
    exported_dit.save(Path("one"), model, {**meta, "encoder": moved})
    assert sorted(p.name for p in Path("one").iterdir()) == ["scheduler", "transformer"]
    other = {**meta["encoder"], "kwargs": {**meta["encoder"]["kwargs"], "sha256": "0" * 64}}
    with pytest.raises(InputError, match="another autoencoder than the one"):
        exported_dit.save(Path("two"), model, {**meta, "encoder": other})


def test_another_diffusers_that_computes_something_else_is_no_export(monkeypatch):
    run = dits.make_run("run", ("raw",))
    right = exported_dit.transformer_config
    monkeypatch.setattr(exported_dit, "transformer_config", lambda k: {**right(k), "norm_eps": 0.1})
    with pytest.raises(RuntimeError, match="differs from the model by"):
        convert.main([str(run), "--export", "diffusers"])
    assert [p.name for p in run.iterdir()] == ["ckpts"]


def changed(**more) -> None:
    path = Path("theirs/transformer/config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    path.with_name("config.json.sha256").unlink(missing_ok=True)


def test_folders_that_are_no_dit_are_refused():
    convert.main([str(dits.make_run("run", ("raw",))), "--export", "diffusers", "--out", "whole"])
    for more, message in (
        ({"_class_name": "UNet2DModel"}, r"config\.json: is not of a DiTTransformer2DModel"),
        ({"num_attention_heads": -1}, "heads: got -1; wanted a size"),
        ({"num_layers": 10**9}, "depth: got 1000000000"),
        ({"num_layers": 2}, r"\d+ tensors do not fit a DiTTransformer2DModel of 2 blocks.*transformer_blocks\.2\."),
        ({"sample_size": 2**13}, "sample_size 8192: 16,777,216 tokens; at most 65,536"),
        ({"sample_size": 8}, r"image_size 8 and not 4"),
        ({"patch_size": 4}, r"as config\.json has it: 3 tensors do not fit the model: final_layer\.linear\.bias"),
        ({"activation_fn": "gelu"}, "activation_fn 'gelu': a DiT has gelu-approximate"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine True: a DiT has False"),
    ):
        shutil.copytree("whole", "theirs")
        changed(**more)
        with pytest.raises(InputError, match=message) as error:
            import_("theirs")
        assert "\n" not in str(error.value)
        shutil.rmtree("theirs")
    shutil.copytree("whole", "theirs")
    tensors = safetensors.torch.load_file("theirs/transformer/diffusion_pytorch_model.safetensors")
    tensors["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"] += 1
    Path("theirs/transformer/diffusion_pytorch_model.safetensors.sha256").unlink()
    safetensors.torch.save_file(tensors, "theirs/transformer/diffusion_pytorch_model.safetensors")
    with pytest.raises(InputError, match=r"transformer_blocks\.1\.norm1\..* differs from transformer_blocks\.0"):
        import_("theirs")
    with pytest.raises(InputError, match="tensors of diffusers; name their folder"):
        import_("theirs/transformer/diffusion_pytorch_model.safetensors")
    Path("theirs/transformer/diffusion_pytorch_model.safetensors").rename(
        "theirs/transformer/diffusion_pytorch_model.safetensors.index.json"
    )
    with pytest.raises(InputError, match="its weights are in several files"):
        import_("theirs")
    with pytest.raises(InputError, match="whole/vae.*is not of a DiT"):
        import_("whole/vae")
    with pytest.raises(InputError, match="no DiT there"):
        import_("run")
