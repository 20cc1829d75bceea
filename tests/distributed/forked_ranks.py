"""Starts ranks from one process that has imported all they need: python forked_ranks.py WORLDS WORKER [argument ...]

    python tests/distributed/forked_ranks.py 1,2,4 tests/distributed/step_worker.py ROOT weights

Most of the time of a small check goes into imports of torch and transformers, which torchrun's ranks do one by one.
Here one process does them and forks: first one rank, then two, then four. Ranks are processes with torchrun's
variables in their environment, and each runs the worker's `main()`. Where a rank fails the others are ended.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parents[2]))

from llave_hf.runtime.quick_imports import quick_imports


def run_ranks(worlds: Sequence[int], worker: Path, *arguments: str, timeout: float | None = 1200) -> str:
    """What the ranks of all worlds printed.

    Raises:
        AssertionError: A rank failed; says what was written to stderr.
    """
    command = [sys.executable, __file__, ",".join(map(str, worlds)), str(worker), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes) as started:
        try:
            printed, complaints = started.communicate(timeout=timeout)
        except BaseException:
            os.killpg(started.pid, signal.SIGKILL)  # its ranks, too
            raise
    assert started.returncode == 0, (printed[-1000:], complaints[-4000:])
    return printed


def fork(rank: int, world: int, port: int, worker: str) -> int:
    """The process id of a rank."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ |= {name: str(value) for name, value in place.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        sys.modules[worker].main()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_world(world: int, worker: str) -> bool:
    """Whether all ranks ended well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {fork(rank, world, port, worker) for rank in range(world)}
    well = True
    while ranks:
        ended, status = os.wait()
        ranks.discard(ended)
        if status and well:
            well = False
            for rank in ranks:
                os.kill(rank, signal.SIGTERM)
    return well


if __name__ == "__main__":
    worlds, sys.argv = sys.argv[1].split(","), sys.argv[2:]
    place = Path(sys.argv[0])
    sys.path.insert(0, str(place.parent))
    with quick_imports():
        importlib.import_module(place.stem)
    sys.exit(not all(run_world(int(world), place.stem) for world in worlds))
