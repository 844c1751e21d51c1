"""timm's published weights: the file of a model in the hub's cache, fetched into it where it is not there.

huggingface_hub keeps it under `HF_HOME`. Without a network it tries each file six times, in 23 seconds and as many
warnings: here one question to the hub comes first.
"""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from pathlib import Path

from functions.errors import InputError, nearest

FILE = "model.safetensors"  # of every repository of timm's on the hub
TIMEOUT = 10  # seconds for an answer of the hub


class WeightsError(InputError):
    """ImageNet weights cannot be had: whoever asked for them may go on without."""


def config_of(arch: str):
    """timm's own record of the weights of `arch`, a model's name with or without the tag of its weights.

    Raises InputError for an unknown name, WeightsError for a model or a tag without weights.
    """
    import timm

    if not timm.is_model(arch):
        raise InputError(f"{arch!r} is no model of timm's{nearest(arch, timm.list_models())}")
    try:
        config = timm.get_pretrained_cfg(arch)
    except RuntimeError:  # the tag is unknown
        config = None
    if config is None or not config.has_weights:
        name, tagged = arch.partition(".")[0], timm.list_pretrained(f"{arch.partition('.')[0]}.*")
        hint = f": timm has {', '.join(tagged[:8])}" if tagged else f": timm has none of {name}"
        raise WeightsError(f"weights of {arch} cannot be had{hint}")
    return config


def weights_file(config) -> Path | None:
    """The file of the weights that `config` is of; None where timm has them elsewhere than on the hub.

    Raises OSError where the hub cannot be asked.
    """
    import huggingface_hub

    if not config.hf_hub_id:
        return None
    try:
        return Path(huggingface_hub.hf_hub_download(config.hf_hub_id, FILE, local_files_only=True))
    except huggingface_hub.errors.LocalEntryNotFoundError:
        _ask_the_hub(huggingface_hub.constants)
        return Path(huggingface_hub.hf_hub_download(config.hf_hub_id, FILE))


def _ask_the_hub(constants) -> None:
    """Raises OSError where the hub does not answer, or where it is not to be asked (`HF_HUB_OFFLINE`)."""
    if constants.HF_HUB_OFFLINE:
        raise OSError("not in the cache, and HF_HUB_OFFLINE is set")
    with contextlib.suppress(urllib.error.HTTPError):  # an answer too
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=TIMEOUT).close()
