"""Checkpoints of the published DDPM code: `torch.save([model, optimiser, step])`, with the EMA as a fourth entry.

The model's names begin with `module.` (DataParallel), the EMA's do not: the published helper looks inside the wrapper.
Their step is the index of the last update, ours the number of updates: one more.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from functions.errors import InputError
from functions.files import check_exported, stream_exported
from functions.finite import check_finite
from functions.storage.checkpoint import FILES, Snapshot
from functions.storage.pickles import load_torch, tensors_by_name
from functions.storage.tensors import plain_names

Weights = dict[str, dict[str, Tensor]]  # `raw` and, where there is one, `ema`
ADAM_GROUP = ("lr", "betas", "eps", "weight_decay", "amsgrad", "params")  # known to every version of torch


def load_list(path: Path | str) -> tuple[Weights, int]:
    """Weights by plain name, and the number of updates. The optimiser's state is left out.

    Raises InputError where the file is missing, damaged, holds code or is no such list.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file (wanted the ckpt.pth of the published code)")
    check_exported(path)
    states = load_torch(path, path)
    if not isinstance(states, list):
        raise InputError(f"{path}: wanted the list of the published code, got a {type(states).__name__}")
    if len(states) not in (3, 4):
        raise InputError(f"{path}: a list of {len(states)}, wanted 3 or 4: model, optimiser, step and maybe EMA")
    if not isinstance(states[2], int) or states[2] < 0:
        raise InputError(f"{path}: entry 2: wanted the step, got {_shown(states[2])}")
    entries = {"raw": 0} if len(states) == 3 else {"raw": 0, "ema": 3}
    weights = {kind: tensors_by_name(states[i], f"{path}: entry {i}") for kind, i in entries.items()}
    return {kind: plain_names(tensors) for kind, tensors in weights.items()}, states[2] + 1


def save_list(path: Path | str, weights: Weights, optimizer: dict, step: int) -> None:
    """The list after `step` updates, with the names that the published code expects. Atomic.

    Raises InputError for weights, or a state of the optimiser, that are not finite.
    """
    for kind, tensors in weights.items():
        check_finite(f"{path}: not written: {kind} weights", tensors)
    moments = {f"{i}.{key}": t for i, of in optimizer["state"].items() for key, t in of.items()}
    check_finite(
        f"{path}: not written: the optimiser's state", {k: t for k, t in moments.items() if torch.is_tensor(t)}
    )
    states = [wrapped_names(weights["raw"]), optimizer, step - 1]
    if "ema" in weights:
        states.append(weights["ema"])
    with stream_exported(path) as file:
        torch.save(states, file)


def export(snapshot: Snapshot, source: str, out: Path) -> str:
    """The snapshot as the list in the file `out`; what was written, in words. Raises InputError where it is no DDPM."""
    meta = snapshot.meta
    if meta["world"] != "ddpm":
        raise InputError(f"{source}: a checkpoint of world {meta['world']}; --export ddim is for ddpm models")
    weights = {kind: snapshot.weights(kind) for kind, file in FILES.items() if file in meta["files"]}
    adam = adam_state(snapshot.state()["optimizers"], meta["config"]["optim"], len(weights["raw"]))
    save_list(out, weights, adam, meta["step"])
    return f"{' and '.join(weights)} weights at step {meta['step']}"


def wrapped_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`module.` before every name, as DataParallel has it."""
    return {f"module.{name}": t for name, t in tensors.items()}


def adam_state(optimizers: list[dict], optim: dict, n_params: int) -> dict:
    """The state of a run's Adam (the remain steps' where there are two), with the keys that every torch version has.

    A fresh Adam where the run has no state (imported) or another optimiser. `optim` is the config's section.
    """
    state = torch.optim.Adam([torch.zeros(0) for _ in range(n_params)], lr=optim["lr"]).state_dict()
    if optimizers and optim["name"] == "adam":
        state = optimizers[0]
    groups = [{key: group[key] for key in ADAM_GROUP} for group in state["param_groups"]]
    return {"state": state["state"], "param_groups": groups}


def _shown(value: object) -> str:
    """A number as it is, anything else by its type."""
    return str(value) if isinstance(value, (int, float)) else f"a {type(value).__name__}"
