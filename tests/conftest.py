"""Every test: one thread (toy sizes) unless OMP_NUM_THREADS says more, a folder of its own, and no network."""

import os
import signal
import socket

import cases
import pytest
import torch

from functions.experiments import curves
from runners import plan

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
# Jobs in the background and nohup ignore these, and tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Warnings are errors here: a warning that torch shows once a process would fail one test and hide in all others.
torch.set_warn_always(True)


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
    """configs/ is a copy with a small digits DDPM."""
    cases.small_configs(monkeypatch)


@pytest.fixture(autouse=True)
def no_curves(request, monkeypatch):
    """A plot costs half a second, and hundreds of runs here end with one: two files draw them for all."""
    if request.path.name not in ("test_curves.py", "test_first_hour.py"):
        monkeypatch.setattr(curves, "of_run", lambda run, title: f"{run}: no curves in tests")


@pytest.fixture(autouse=True)
def no_memory_table(monkeypatch):
    """Seconds for each dry run; tests/training/test_footprint.py looks at it."""
    monkeypatch.setattr(plan, "_memory", lambda run: ())


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that reaches for the network fails instead of waiting."""
    connect = socket.socket.connect

    def refuse(self, *args):
        if self.family == socket.AF_UNIX:  # workers of a DataLoader hand tensors over through these
            return connect(self, *args)
        raise OSError("tests have no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
