"""One rank of an evaluation with a made-up encoder that writes down how much it encoded, and may die on the way.

evaluation_worker.py BENCHMARK OUTPUT CACHE LIVES
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from llave_hf.errors import leave_ranks
from llave_hf.evaluation import evaluate_benchmark
from llave_hf.evaluation.retrieval import vectors


class Counting:
    """Vectors from the bytes of a text; rank 1 is killed when it has encoded `lives` inputs."""

    def __init__(self, log: Path, lives: int) -> None:
        self.log, self.lives, self.seen = log, lives, 0
        log.write_text("0")

    def encode(self, inputs: list[str], **_: Any) -> np.ndarray:
        if self.seen + len(inputs) > self.lives:
            time.sleep(2)  # the other rank finishes its share
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += len(inputs)
        self.log.write_text(str(self.seen))
        generators = (np.random.default_rng(list(text.encode())) for text in inputs)
        return np.stack([generator.standard_normal(16) for generator in generators])


if __name__ == "__main__":
    benchmark, output, cache, lives = sys.argv[1:]
    state = PartialState(cpu=True)
    assert state.num_processes == 2
    vectors.PIECE_VECTORS = 16
    model = Counting(Path(output).parent / f"{Path(output).name}-{state.process_index}.seen", 10**6)
    if state.process_index == 1:
        model.lives = int(lives)
    options: dict[str, Any] = {"batch_size": 1, "show_progress": False, "model_revision": "v1"}
    evaluate_benchmark(model, benchmark, output_dir=output, cache=cache, **options)
    state.destroy_process_group()
    leave_ranks()
