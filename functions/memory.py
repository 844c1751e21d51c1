"""What fits into this machine's memory: said before it is asked for. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path

from functions.errors import InputError

CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container, or a job of a cluster, may use


def of_machine() -> int:
    """Bytes that this process can hope for: the machine's, or its container's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP.read_text().strip() if CGROUP.is_file() else "max"
    return min(machine, int(limit)) if limit.isdecimal() else machine


def check_room(key: str, n: int, what: str, each: int) -> None:
    """Raises InputError where n times `each` bytes are more than there are. `key` says where n is set."""
    if n * each > of_machine():
        raise InputError(
            f"{key}: {n:,} {what} take {n * each / 1e9:,.0f} GB or more; this machine has {of_machine() / 1e9:,.0f} GB"
        )
