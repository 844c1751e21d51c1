"""The Inception networks with random weights: against their own layers, one image at a time, and through the shell."""

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import noise, save_images
from safetensors import safe_open

import evaluator
from functions.config.cli import run_main
from functions.files import read_json, sha256_file
from functions.judging import inception, metrics

CPU = torch.device("cpu")
FIVE = ["Inception Score", "FID", "sFID", "Precision", "Recall"]


@pytest.fixture(scope="module")
def model():
    """torch-fidelity's network, 24 million random weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

    buffer = io.BytesIO()
    torch.save({}, buffer)
    buffer.seek(0)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inception, "load_state_dict", lambda self, state: None)
        model = Inception("random", ["2048", "logits_unbiased"], feature_extractor_weights_path=buffer)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.1, 0.2)  # torch's first weights turn E[x^2] = 1/2 into 1/6: the scale stays
    return model


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    """The file of those weights, published under its own hash."""
    path = tmp_path_factory.mktemp("weights") / inception.TORCH_WEIGHTS.name
    torch.save(model.state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        published(patch, "TORCH_WEIGHTS", path)
        yield path


def published(patch, name: str, path: Path) -> None:
    """As if the file in `path` were the one its author published."""
    patch.setattr(inception, name, getattr(inception, name)._replace(sha256=sha256_file(path)))


@pytest.fixture
def sets():
    """S: five grey pictures; R: six others."""
    save_images(Path("S"), noise(5))
    save_images(Path("R"), noise(6, seed=1))


def fails(argv: list[str], monkeypatch, capsys) -> str:
    """The one line that the evaluator ends with."""
    monkeypatch.setattr("sys.argv", ["evaluator.py", *argv])
    capsys.readouterr()
    assert run_main(evaluator.main) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and error.startswith("evaluator.py: ")
    return error


# ---- torch ----


@torch.inference_mode()
def test_one_pass_gives_pool_logits_and_the_layer_of_sfid(model, weights):
    x = torch.from_numpy(noise(3, 12, colour=True)).permute(0, 3, 1, 2)
    found = inception.torch_network(weights, CPU)(x.float() / 255)
    pool, logits = model(x)
    assert torch.equal(found.pool, pool) and torch.equal(found.logits, logits)
    assert logits.shape == (3, 1008) and 0.1 < logits.std() < 10
    torch.testing.assert_close(logits, pool @ model.fc.weight.T)  # no bias

    inputs = []
    handle = model.Mixed_6d.register_forward_hook(lambda module, args, out: inputs.append(args[0]))
    model(x[:1])
    handle.remove()
    layer = model.Mixed_6d.branch1x1
    expected = torch.relu(layer.bn(layer.conv(inputs[0])))[0].numpy()  # (192,17,17)
    assert found.spatial.shape == (3, 2023) and 0 < (found.spatial > 0).float().mean() < 1
    spatial = found.spatial[0].view(17, 17, 7)  # height, width, channel
    for c in range(7):
        np.testing.assert_allclose(spatial[:, :, c].numpy(), expected[c], rtol=1e-4, atol=1e-5)


def test_the_evaluator_prints_the_five_lines_and_says_which_network(weights, sets, capsys):
    evaluator.main(["S", "R", "--inception_weights", str(weights), "--batch_size", "4"])
    lines = capsys.readouterr().out.splitlines()
    numbers = read_json("S/metrics.json")["evaluator"]
    assert [line.split(": ")[0] for line in lines[:6]] == [*FIVE, "KID"]
    assert lines[1:3] == [f"FID: {numbers['fid']}", f"sFID: {numbers['sfid']}"]
    digest = sha256_file(weights)
    assert numbers["contract"]["protocol"]["evaluation"]["features"] == {"name": "inception", "sha256": digest}
    assert any("Note: 5 images for 2048 feature dimensions: FID is biased upwards, 2044 more" in line for line in lines)

    with safe_open(f"R.inception-{digest[:8]}.safetensors", framework="pt") as cached:
        assert {name: cached.get_tensor(name).shape[1] for name in cached.keys()} == {  # noqa: SIM118
            "pool": 2048,
            "logits": 1008,
            "spatial": 2023,
        }


class Evil:
    """A pickle that makes a folder when it is read by what obeys pickles."""

    def __reduce__(self):
        return os.mkdir, ("hacked",)


def test_weights_that_are_not_the_published_ones_are_one_line(weights, sets, monkeypatch, capsys):
    Path("cut.pth").write_bytes(weights.read_bytes()[:1000])
    argv = ["S", "R", "--inception_weights"]
    assert "cut.pth: cut short, or not weights-inception-2015-12-05" in fails([*argv, "cut.pth"], monkeypatch, capsys)
    assert "absent.pth: no such file (--inception_weights;" in fails([*argv, "absent.pth"], monkeypatch, capsys)
    torch.save({"fc.weight": Evil()}, "evil.pth")
    assert "evil.pth: cut short, or not" in fails([*argv, "evil.pth"], monkeypatch, capsys)
    published(monkeypatch, "TORCH_WEIGHTS", Path("evil.pth"))  # even then
    assert "evil.pth: refused, nothing of it was run: it calls posix.mkdir," in fails(
        [*argv, "evil.pth"], monkeypatch, capsys
    )
    assert not Path("hacked").exists() and not Path("S/metrics.json").exists()


def test_without_a_library_one_line_names_it(weights, sets, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    error = fails(["S", "R", "--inception_weights", str(weights)], monkeypatch, capsys)
    assert error.endswith("pip install torch-fidelity")
    Path("graph.pb").write_bytes(b"graph")
    published(monkeypatch, "TENSORFLOW_GRAPH", Path("graph.pb"))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    argv = ["S", "R", "--features", "tensorflow", "--inception_weights", "graph.pb"]
    assert fails(argv, monkeypatch, capsys).endswith("pip install tensorflow")


# ---- tensorflow ----


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A small frozen graph with the names, the order of operations and the batch of 1 of ADM's; its path."""
    pytest.importorskip("tensorflow", reason="tensorflow cannot be imported here", exc_type=ImportError)
    tf = inception._quiet_tensorflow()
    draw = np.random.default_rng(0)
    filters, weights = (draw.normal(size=s).astype("f") for s in ((1, 1, 3, 9), (27, 4)))
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, [1, None, None, 3], name="ExpandDims")
        resized = tf.raw_ops.ResizeBilinear(images=images, size=[12, 12], name="ResizeBilinear")
        x = tf.multiply(tf.subtract(resized, 128.0), 1 / 128)
        spatial = tf.nn.relu(tf.nn.conv2d(x, filters, 1, "SAME"), name="mixed_6/conv")
        three = tf.concat([spatial, 2 * spatial, -spatial], 3)
        pool = tf.nn.avg_pool2d(three, 12, 12, "VALID", name="pool_3")
        logits = tf.matmul(tf.reshape(pool, [1, 27]), tf.constant(weights), name="softmax/logits/MatMul")
        tf.nn.softmax(logits + 100 * draw.normal(size=4).astype("f"), name="softmax")
        path = tmp_path_factory.mktemp("graph") / inception.TENSORFLOW_GRAPH.name
        path.write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.MonkeyPatch.context() as patch:
        published(patch, "TENSORFLOW_GRAPH", path)
        yield path


def one_by_one(graph: Path, pictures: np.ndarray) -> list[np.ndarray]:
    """pool_3, logits without bias and mixed_6/conv of uint8 (N,H,W,3), as the graph itself computes each image."""
    tf = inception._quiet_tensorflow()
    names = ["pool_3:0", "softmax/logits/MatMul:0", "mixed_6/conv:0"]
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(tf.GraphDef.FromString(graph.read_bytes()), name="")
        found = [session.run(names, {"ExpandDims:0": picture[None].astype("f")}) for picture in pictures]
    return [np.concatenate(arrays) for arrays in zip(*found)]


def test_the_frozen_graph_sees_batches_as_it_sees_single_images(graph):
    pictures = noise(5, 7, colour=True)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    found = inception.tensorflow_network(graph, CPU)(x)
    pool, logits, spatial = one_by_one(graph, pictures)
    np.testing.assert_allclose(found.pool.numpy(), pool.reshape(5, 27), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.logits.numpy(), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.spatial.numpy(), spatial[..., :7].reshape(5, -1), rtol=1e-5, atol=1e-6)


def test_the_evaluator_finds_the_graph_in_the_cache(graph, monkeypatch, capsys):
    save_images(Path("S"), noise(30))
    save_images(Path("R"), noise(30, seed=1))
    monkeypatch.setenv("TORCH_HOME", "cache")
    Path("cache/hub/checkpoints").mkdir(parents=True)
    shutil.copy(graph, "cache/hub/checkpoints")
    evaluator.main(["S", "R", "--features", "tensorflow"])
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()[:6]] == [*FIVE, "KID"]
    numbers = read_json("S/metrics.json")["evaluator"]
    found, known = (one_by_one(graph, noise(30, seed=seed)[..., None].repeat(3, 3)) for seed in (0, 1))
    statistics = [metrics.statistics(torch.from_numpy(a[0].reshape(30, -1))) for a in (found, known)]
    assert numbers["fid"] == pytest.approx(metrics.fid(*statistics[0], *statistics[1]), rel=1e-4)
    assert numbers["contract"]["protocol"]["evaluation"]["features"]["name"] == "tensorflow"


def test_a_graph_that_is_missing_is_one_line(sets, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", "cache")
    error = fails(["S", "R", "--features", "tensorflow"], monkeypatch, capsys)
    assert "--features tensorflow: classify_image_graph_def.pb is not there and cannot be fetched" in error
    assert "at cache/hub/checkpoints/classify_image_graph_def.pb, or name a copy with --inception_weights" in error
