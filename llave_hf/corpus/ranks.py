"""Which process this is of several that share a corpus, and which of the parts it may work on.

Processes speak through lock files, which the system lets go of when a process dies: what a dead one had begun is taken
up by another. No process group is opened, so that one that fails takes no other with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

Entry = TypeVar("Entry")
_VARIABLES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))


@dataclass(frozen=True)
class Ranks:
    """This process's number, how many there are, and its number on this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Ranks:
        """As `accelerate launch` or `torchrun` says, else as Slurm says to each task of a step."""
        for rank, world_size, local_rank in _VARIABLES:
            if rank in environment and world_size in environment:
                found = (int(environment.get(name, 0)) for name in (rank, world_size, local_rank))
                return Ranks(*found)
        return Ranks()

    def device(self) -> str | None:
        """Its own GPU where there are several processes; None: the only one, or whatever there is."""
        import torch

        if self.world_size == 1 or not torch.cuda.is_available():
            return None
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"

    def order(self, entries: Sequence[Entry]) -> list[Entry]:
        """All entries, its own share first, so that processes seldom ask for the same."""
        shifts = [(self.rank + number) % self.world_size for number in range(self.world_size)]
        return [entry for shift in shifts for entry in entries[shift :: self.world_size]]


@contextlib.contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[bool]:
    """Holds a lock file while the context lasts; False where another process holds it longer than `timeout` seconds.

    Args:
        timeout: Negative: for as long as it takes.
    """
    lock = FileLock(path, timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
