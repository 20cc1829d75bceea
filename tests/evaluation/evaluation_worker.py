"""One rank of an evaluation with a made-up encoder that writes down how much it encoded, and may die on the way.

evaluation_worker.py BENCHMARK OUTPUT CACHE LIVES OTHERS
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
    """Vectors from the bytes of a text; rank 1 is killed when it has encoded `lives` inputs, and rank 0 `others`."""

    def __init__(self, log: Path, lives: int, others: int = 0) -> None:
        self.log, self.lives, self.others, self.seen = log, lives, others, 0
        self._write()

    def encode(self, inputs: list[str], **_: Any) -> np.ndarray:
        if self.seen + len(inputs) > self.lives:
            other = self.log.with_name(self.log.name.replace("-1.", "-0."))
            while int(other.read_text()) < self.others:
                time.sleep(0.1)
            time.sleep(2)  # it keeps what it encoded last
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += len(inputs)
        self._write()
        generators = (np.random.default_rng(list(text.encode())) for text in inputs)
        return np.stack([generator.standard_normal(16) for generator in generators])

    def _write(self) -> None:
        """Whole or not at all: the launcher ends a rank amid anything when the other is gone."""
        unfinished = self.log.with_suffix(".unfinished")
        unfinished.write_text(str(self.seen))
        unfinished.rename(self.log)


if __name__ == "__main__":
    benchmark, output, cache, lives, others = sys.argv[1:]
    state = PartialState(cpu=True)
    assert state.num_processes == 2
    vectors.PIECE_VECTORS = 16
    model = Counting(Path(output).parent / f"{Path(output).name}-{state.process_index}.seen", 10**6)
    if state.process_index == 1:
        model.lives, model.others = int(lives), int(others)
    options: dict[str, Any] = {"batch_size": 1, "show_progress": False, "model_revision": "v1"}
    evaluate_benchmark(model, benchmark, output_dir=output, cache=cache, **options)
    state.destroy_process_group()
    leave_ranks()
