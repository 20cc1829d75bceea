"""Encodes (for evaluation) with a model that is spread over ranks, without a whole copy of it on any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from llave_hf import distributed
from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.encoding.rows import Features
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.training.engines.engines import reshard

from .lockstep import kind_number, make_filler

DONE = -1


class LockstepEncoder(LlaveEncoder):
    """Encodes each rank's own inputs; every forward is one of all ranks, which gathers the model layer by layer.

    Before each batch ranks agree on its kind (texts, pictures, videos). One whose next batch is of another kind, or
    that has none left, runs a filler of that kind and throws it away.

    Args:
        model: Without its wrappers, for its configuration.
        processor: The model's own.
        spread: The model as the engine wrapped it, which runs.
    """

    def __init__(self, model: LlaveModel, processor: LlaveProcessor, spread: nn.Module) -> None:
        super().__init__(model, processor, lean=False)  # which calls parts of the model by themselves
        self.spread = spread
        self._inside = False

    @contextmanager
    def share(self) -> Iterator[None]:
        """Within it a rank encodes its share, with any number of calls; then it keeps step until all have.

        All ranks enter it, also one that has nothing to encode or fails at it.
        """
        self._inside = True
        was_training = self.spread.training
        self.spread.eval()
        try:
            yield
        finally:
            while (kind := self._agreed(DONE)) != DONE:
                self._run(make_filler(self.processor, kind))
            self._inside = False
            self.spread.train(was_training)
            reshard(self.spread)

    def _forward(self, batch: Features) -> torch.Tensor:
        if not self._inside:
            raise RuntimeError("a model that is spread over ranks encodes within share(), which all ranks enter.")
        own = kind_number(batch)
        while (kind := self._agreed(own)) != own:
            self._run(make_filler(self.processor, kind))
        return self._run(batch)

    def _agreed(self, kind: int) -> int:
        """The kind that runs next: one that a rank has, if any."""
        return int(distributed.all_gather(torch.tensor([kind], device=self.model.device)).max())

    def _run(self, batch: Features) -> torch.Tensor:
        # The engine keeps what a forward gathers for training, which takes no tensors of inference_mode.
        with torch.inference_mode(False), torch.no_grad():
            moved: dict[str, Any] = {
                name: value.clone().to(self.model.device) if isinstance(value, torch.Tensor) else value
                for name, value in self.processor.normalised(batch).items()
            }
            return self.spread(micro_batches=[moved]).embeddings.float().cpu()
