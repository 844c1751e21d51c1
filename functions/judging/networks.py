"""The feature networks that evaluator.py knows by name, each with what a contract says of it.

`NETWORKS[kind](source, build, device)` -> Network. `source`: the file of weights (None: cached or fetched) or of the
classifier; `build` is models.build.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from functions.judging import inception as published
from functions.judging import libraries
from functions.judging.classifier import classifier_protocol, feature_network, load_classifier, require_shape
from functions.judging.features import Network
from functions.storage.fetch import locate

Build = Callable[[dict], nn.Module]
FLAG = "--inception_weights"


def inception(source: Path | str | None, build: Build, device: torch.device) -> Network:
    """torch-fidelity's InceptionV3, its weights checked or fetched."""
    weights = published.TORCH_WEIGHTS
    path = locate(weights, source, FLAG, "--features inception")
    return Network("inception", weights.sha256, published.torch_network(path, device), 3, {})


def tensorflow(source: Path | str | None, build: Build, device: torch.device) -> Network:
    """ADM's frozen graph, checked or fetched."""
    graph = published.TENSORFLOW_GRAPH
    path = locate(graph, source, FLAG, "--features tensorflow")
    return Network("tensorflow", graph.sha256, published.tensorflow_network(path, device), 3, {})


def classifier(source: Path | str, build: Build, device: torch.device) -> Network:
    """The penultimate features of a classifier made by train_classifier.py."""
    model, record = load_classifier(source, build)
    check = lambda shape, images: require_shape(record, shape, images)
    run = feature_network(model.to(device))
    return Network("classifier", record["sha256"], run, record["shape"][0], classifier_protocol(record), check)


def lite0(source: None, build: Build, device: torch.device) -> Network:
    """EfficientNet-Lite0 out of its package: 1280 features of colour pictures of any size."""
    model, found = libraries.lite0(build, "--features lite0")
    run = libraries.resizing(feature_network(model.to(device)), found)
    said = {key: libraries.record(model, found)[key] for key in ("arch", "preprocessing")}
    return Network("lite0", found["sha256"], run, 3, said)


NETWORKS = {"inception": inception, "tensorflow": tensorflow, "classifier": classifier, "lite0": lite0}
