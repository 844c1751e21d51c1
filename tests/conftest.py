"""Every test: one thread (toy sizes) unless OMP_NUM_THREADS says more, a folder of its own, and no network."""

import os
import shutil
import socket
from pathlib import Path

import cases
import pytest
import torch
import yaml

from functions.config import layers

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Scripts write relative to the working directory: give each test an empty one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """World -> its toy original for the whole suite; who writes into a run folder copies it first."""
    return {world: cases.Toy(world, tmp_path_factory.mktemp(world)) for world in cases.WORLDS}


@pytest.fixture
def small_configs(own_folder, monkeypatch):
    """configs/ is a copy in which the digits DDPM is small: two steps, 25 timesteps, samples of 4, no previews."""
    shutil.copytree(layers.CONFIG_FOLDER, "configs")
    small = {
        "diffusion": {"timesteps": 25},
        "model": {"ch": 8},
        "training": {"n_iters": 2, "batch_size": 8, "snapshot_freq": 2, "preview": "off"},
        "fisher": {"draws": 1},
        "fim": {"per_class": 2},
        "sampling": {"timesteps": 4},
    }
    for path in Path("configs/ddpm").glob("digits*.yml"):
        cfg = yaml.safe_load(path.read_text())
        for section in cfg.keys() & small.keys():
            cfg[section] |= small[section]
        for block in cfg.get("modes", {}).values():
            block.pop("training", None)
        path.write_text(yaml.safe_dump(cfg))
    monkeypatch.setattr(layers, "CONFIG_FOLDER", Path("configs").resolve())


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that reaches for the network fails instead of waiting."""
    connect = socket.socket.connect

    def refuse(self, *args):
        if self.family == socket.AF_UNIX:  # workers of a DataLoader hand tensors over through these
            return connect(self, *args)
        raise OSError("tests have no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
