"""The Inception network of FID and sFID, the weights of 2015-12-05: in torch (torch-fidelity), and ADM's frozen graph.

One pass gives the three things ADM's evaluator reads (openai/guided-diffusion, evaluations/evaluator.py): `pool_3`
(2048), the logits without bias (1008), and the first 7 channels of `mixed_6/conv` (17 x 17 x 7 = 2023). The last one's
layer is `Mixed_6d.branch1x1` in torch-fidelity (its utils/util_convert_inception_weights.py); the order within the
2023 is the graph's (height, width, channel). Both libraries are imported only here, when used.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from functions.errors import InputError
from functions.judging.features import Features
from functions.storage.fetch import PublicFile
from functions.storage.pickles import load_torch

# The first 8 digits are in the file's name, by torch.hub's convention; the whole hash is that of the copy on the
# Hugging Face hub (RaphaelLiu/EvalCrafter-Models, pt_inception-2015-12-05-6726825d.pth).
TORCH_WEIGHTS = PublicFile(
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
# OpenAI publishes no hash; two copies on the hub (Martinser/eval_model, molinamarc/syntheva) have this one.
TENSORFLOW_GRAPH = PublicFile(
    "classify_image_graph_def.pb",
    "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/classify_image_graph_def.pb",
    "009d6814d1bc560d4e7b236e170e9b2d5ca6f4b57bd8037f6db05776204415c6",
)
SPATIAL_CHANNELS = 7
TENSORS = ("pool_3:0", "mixed_6/conv:0", "softmax/logits/MatMul:0")


def torch_network(path: Path, device: torch.device) -> Callable[[Tensor], Features]:
    """torch-fidelity's InceptionV3 as a network of float (B,3,H,W) in [0,1], resized to 299 as TensorFlow 1 does it."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise InputError(f"--features inception needs torch-fidelity ({error}): pip install torch-fidelity") from None
    wanted = ["2048", "logits_unbiased"]
    model = FeatureExtractorInceptionV3("inception", wanted, feature_extractor_weights_path=_own_copy(path))
    model.to(device)
    seen: list[Tensor] = []
    model.Mixed_6d.branch1x1.register_forward_hook(lambda module, args, out: seen.append(out[:, :SPATIAL_CHANNELS]))

    def network(x: Tensor) -> Features:
        # cuDNN's TF32 convolutions, on unless told otherwise, keep 10 bits of each factor
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            pool, logits = model((x * 255).round().to(torch.uint8))
        return Features(pool, logits, seen.pop().permute(0, 2, 3, 1).flatten(1))

    return network


def _own_copy(path: Path) -> io.BytesIO:
    """The tensors in `path`, written anew: torch-fidelity unpickles what it is given, so it is given our own bytes."""
    buffer = io.BytesIO()
    torch.save(load_torch(path, path), buffer)
    buffer.seek(0)
    return buffer


def tensorflow_network(path: Path, device: torch.device) -> Callable[[Tensor], Features]:
    """ADM's frozen graph as a network of float (B,3,H,W) in [0,1], fed as float NHWC 0..255; the graph resizes."""
    tf = _quiet_tensorflow()
    with tf.Graph().as_default() as graph:
        definition = tf.GraphDef.FromString(path.read_bytes())
        images = tf.placeholder(tf.float32, [None, None, None, 3])
        pool, spatial, biased = tf.import_graph_def(
            definition, input_map={"ExpandDims:0": images}, return_elements=TENSORS, name="inception"
        )
        # the graph's own logits keep the batch of 1 it was frozen with
        weights = biased.op.inputs[1]
        pool = tf.reshape(pool, [-1, weights.shape[0]])
        wanted = [pool, tf.matmul(pool, weights), spatial[..., :SPATIAL_CHANNELS]]
    gpus = {} if device.type == "cuda" else {"device_count": {"GPU": 0}}
    config = tf.ConfigProto(allow_soft_placement=True, **gpus)
    config.gpu_options.allow_growth = True
    session = tf.Session(graph=graph, config=config)

    def network(x: Tensor) -> Features:
        batch = (x * 255).round().permute(0, 2, 3, 1).cpu().numpy()
        found = session.run(wanted, {images: batch})
        return Features(*(torch.from_numpy(array).flatten(1).to(x.device) for array in found))

    return network


def _quiet_tensorflow():
    """tensorflow.compat.v1 without its log on the screen. Raises InputError where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read once, when its libraries are loaded
    try:
        with _closed_stderr():
            import tensorflow
    except ImportError as error:
        raise InputError(f"--features tensorflow needs tensorflow ({error}): pip install tensorflow") from None
    tensorflow.get_logger().setLevel("ERROR")
    return tensorflow.compat.v1


@contextlib.contextmanager
def _closed_stderr():
    """File descriptor 2 to nowhere: what tensorflow's C++ libraries say while they load obeys no setting."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
