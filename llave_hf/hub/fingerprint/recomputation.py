"""Opens a model in one of several ways and recomputes the stages of a fingerprint."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import torch
from transformers import AutoModel, AutoProcessor, PreTrainedModel

from llave_hf.runtime.opening import cast, without_advice
from llave_hf.runtime.progress import forward_bar

from .fingerprint import surroundings
from .samples import Sample
from .stages import MODEL_STAGES, STAGES, full_precision, model_stages, pixel_summary, prompt_text, summary, token_ids


class Recomputation:
    """Values of the stages: those of the processor when they are first asked for, those of the model by [`run`].

    Args:
        model: The [`LlaveModel`].
        processor: The model's.
        outputs: From a sample and the processor's inputs of it to `vector` and, where `stages` has it, `visual`.
        stages: Those that can be recomputed in this way, in order.
        surroundings: See [`llave_hf.hub.fingerprint.fingerprint.surroundings`].
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        outputs: Callable[[Sample, Any], dict[str, list[float]]],
        stages: tuple[str, ...],
        surroundings: dict[str, Any],
    ) -> None:
        self.model = model
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
        if stage in MODEL_STAGES:
            return self._outputs[sample.name].get(stage)
        inputs = self._prepared(sample)
        if stage == "tokens":
            return token_ids(inputs)
        return pixel_summary(inputs)

    def run(self, samples: Sequence[Sample]) -> None:
        """Puts samples through the model, each once."""
        inputs = [self._prepared(sample) for sample in samples]
        with forward_bar(self.model, inputs, "Computing"):
            for sample, given in zip(samples, inputs, strict=True):
                self._outputs[sample.name] = self._compute(sample, given)

    def _prepared(self, sample: Sample) -> Any:
        if sample.name not in self._inputs:
            self._inputs[sample.name] = self._processor(**sample.columns)
        return self._inputs[sample.name]

    def _prompt(self, sample: Sample) -> str:
        try:
            return prompt_text(self._processor, sample)
        except jinja2.TemplateError as error:  # a broken template is a prompt that differs
            return f"(the template fails: {error})"


def open_model(model: str | os.PathLike[str], backend: str, dtype: str, device: str) -> Recomputation:
    """Opens a folder or Hub id by a name of [`BACKENDS`], to compute in `dtype` on `device`."""
    return BACKENDS[backend](os.fspath(model), dtype, device)


def _auto(model: str, dtype: str, device: str) -> Recomputation:
    network = _cast(AutoModel.from_pretrained(model).eval(), dtype).to(device)
    processor = AutoProcessor.from_pretrained(model)
    return Recomputation(
        network, processor, lambda _, inputs: model_stages(network, inputs), STAGES, surroundings(network, processor)
    )


def _cast(model: Any, dtype: str) -> Any:
    cast(model, getattr(torch, dtype))
    return model


def _sentence_transformers(model: str, dtype: str, device: str) -> Recomputation:
    from sentence_transformers import SentenceTransformer

    with without_advice():
        transformer = SentenceTransformer(model, device=device)
    return _encoding(_cast(transformer, dtype))


def _llave_sentence_transformer(model: str, dtype: str, device: str) -> Recomputation:
    from llave_hf.encoding.sentence_transformer import LlaveSentenceTransformer

    with without_advice():
        transformer = LlaveSentenceTransformer(model, device=device)
    return _encoding(_cast(transformer, dtype))


def _encoding(transformer: Any) -> Recomputation:
    """Through `encode`: of the model only the vector is compared, what its modules do on the way is theirs."""

    def outputs(sample: Sample, _: Any) -> dict[str, list[float]]:
        with full_precision(transformer.device):
            vectors = transformer.encode([sample.entry], convert_to_tensor=True, show_progress_bar=False)
        return {"vector": summary(vectors[0])}

    stages = tuple(stage for stage in STAGES if stage != "visual")
    network, processor = transformer[0].auto_model, transformer[0].processor
    return Recomputation(network, processor, outputs, stages, surroundings(network, processor))


BACKENDS: dict[str, Callable[[str, str, str], Recomputation]] = {
    "auto": _auto,
    "sentence-transformers": _sentence_transformers,
    "llave-sentence-transformer": _llave_sentence_transformer,
}
