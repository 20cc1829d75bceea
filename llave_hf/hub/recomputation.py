"""Opens a model in one of several ways and recomputes the stages of a fingerprint."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jinja2
from transformers import AutoModel, AutoProcessor

from .fingerprint import surroundings
from .fingerprint_samples import Sample
from .stages import STAGES, full_precision, model_stages, pixel_summary, prompt_text, summary, token_ids


class Recomputation:
    """Values of the stages, each computed when it is first asked for.

    Args:
        processor: The model's.
        outputs: From a sample and the processor's inputs of it to `vector` and, where `stages` has it, `visual`.
        stages: Those that can be recomputed in this way, in order.
        surroundings: See [`llave_hf.hub.fingerprint.surroundings`].
    """

    def __init__(
        self,
        processor: Any,
        outputs: Callable[[Sample, Any], dict[str, list[float]]],
        stages: tuple[str, ...],
        surroundings: dict[str, Any],
    ) -> None:
        self.stages = stages
        self.surroundings = surroundings
        self._processor = processor
        self._compute = outputs
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, dict[str, list[float]]] = {}

    def value(self, stage: str, sample: Sample) -> Any:
        """A stage of a sample; None where the sample has none."""
        if stage == "prompt":
            return self._prompt(sample)
        if sample.name not in self._inputs:
            self._inputs[sample.name] = self._processor(**sample.columns)
        inputs = self._inputs[sample.name]
        if stage == "tokens":
            return token_ids(inputs)
        if stage == "pixels":
            return pixel_summary(inputs)
        if sample.name not in self._outputs:
            self._outputs[sample.name] = self._compute(sample, inputs)
        return self._outputs[sample.name].get(stage)

    def _prompt(self, sample: Sample) -> str:
        try:
            return prompt_text(self._processor, sample)
        except jinja2.TemplateError as error:  # a broken template is a prompt that differs
            return f"(the template fails: {error})"


def open_model(model: str | os.PathLike[str], backend: str, dtype: str, device: str) -> Recomputation:
    """Opens a folder or Hub id by a name of [`BACKENDS`], to compute in `dtype` on `device`."""
    return BACKENDS[backend](os.fspath(model), dtype, device)


def _auto(model: str, dtype: str, device: str) -> Recomputation:
    network = AutoModel.from_pretrained(model, dtype=dtype).to(device).eval()
    processor = AutoProcessor.from_pretrained(model)
    return Recomputation(
        processor, lambda _, inputs: model_stages(network, inputs), STAGES, surroundings(network, processor)
    )


def _sentence_transformers(model: str, dtype: str, device: str) -> Recomputation:
    from sentence_transformers import SentenceTransformer

    return _encoding(SentenceTransformer(model, device=device, model_kwargs={"dtype": dtype}))


def _llave_sentence_transformer(model: str, dtype: str, device: str) -> Recomputation:
    from llave_hf.sentence_transformer import LlaveSentenceTransformer

    return _encoding(LlaveSentenceTransformer(model, device=device, model_kwargs={"dtype": dtype}))


def _encoding(transformer: Any) -> Recomputation:
    """Through `encode`: of the model only the vector is compared, what its modules do on the way is theirs."""

    def outputs(sample: Sample, _: Any) -> dict[str, list[float]]:
        with full_precision(transformer.device):
            vectors = transformer.encode([sample.entry], convert_to_tensor=True, show_progress_bar=False)
        return {"vector": summary(vectors[0])}

    stages = tuple(stage for stage in STAGES if stage != "visual")
    processor = transformer[0].processor
    return Recomputation(processor, outputs, stages, surroundings(transformer[0].auto_model, processor))


BACKENDS: dict[str, Callable[[str, str, str], Recomputation]] = {
    "auto": _auto,
    "sentence-transformers": _sentence_transformers,
    "llave-sentence-transformer": _llave_sentence_transformer,
}
