"""`LlaveSentenceTransformer`: the class of sentence-transformers with LLaVE's prompts and engine."""

from __future__ import annotations

import inspect
import logging
import os
from functools import partial
from typing import Any

import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modality import infer_modality
from sentence_transformers.util import batch_to_device, truncate_embeddings
from transformers import PreTrainedConfig

from llave_hf.model.configuration_llave import LlaveConfig
from llave_hf.model.media_pictures_llave import as_sequence
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.runtime.opening import suit_processor, without_advice
from llave_hf.runtime.places import check_model, find_file

from .bare_inputs import for_sentence_transformers
from .encoder import LlaveEncoder
from .engine import UNLIMITED_ROWS, EncodingEngine, EncodingOptions
from .failures import Failures, check_on_error, with_gaps
from .meter import Meter
from .rows import Features

STOCK_BATCH_SIZE = 32
logger = logging.getLogger(__name__)
# sentence-transformers' arguments of `encode` behind those that this file names, in their order.
_OTHER_ARGUMENTS = (
    *("output_value", "precision", "convert_to_numpy", "convert_to_tensor", "device", "normalize_embeddings"),
    *("truncate_dim", "pool", "chunk_size"),
)
_OWN_ARGUMENTS = ("max_tokens", "num_workers", "failures", "meter")


class LlaveSentenceTransformer(SentenceTransformer):
    """A `SentenceTransformer` for LLaVE folders: the same interface and the same vectors, faster.

    `encode` embeds each distinct input once (by content), opens and prepares pictures and videos in threads while the
    model runs, and puts inputs of like length together under a token budget. `encode`, `encode_query` and
    `encode_document` take, beside sentence-transformers' own arguments:

    - `batch_size`: inputs a forward pass at most; by default only the token budget decides;
    - `max_tokens`: tokens a forward pass at most, padding included;
    - `num_workers`: threads that prepare pictures and videos, 0 for none;
    - `on_error`: `"raise"` a ValueError that names the place of the first input that cannot be used, or `"none"`:
      encode the others, and take an input whose vector is not finite for one. Then a list is returned, whatever
      `convert_to_tensor` says: for each input its vector (a numpy array, or a tensor where tensors are asked for), or
      None; a single input gives its vector or None;
    - `reasons`: a dictionary that `"none"` gives the places of such inputs and what is wrong with each; without it a
      warning says so;
    - `meter`: a [`Meter`] that is told what it took.

    Beside sentence-transformers' inputs, a picture may be given in every form of [`load_image`] (bytes, a `Path`, a
    file object, the Hub's `{"bytes", "path"}`), and the inputs in any sequence.

    Raises:
        ValueError: The folder holds no LLaVE model.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kind = getattr(self.config, "model_type", None)
        if kind != LlaveConfig.model_type:
            raise ValueError(
                f"LlaveSentenceTransformer got a model of type {kind!r}, not 'llave'; use SentenceTransformer for it."
            )
        self._engine_serves = _encode_calls_the_engine()
        if not self._engine_serves:
            logger.warning(
                "sentence-transformers %s encodes by other steps than 6.2, which it was made for: repeats are encoded "
                "again and batches are formed by count. For the engine of llave_hf install 6.2.",
                sentence_transformers.__version__,
            )

    @property
    def max_seq_length(self) -> int:
        """Longest input in tokens, the processor's `max_length`."""
        return self.processor.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.processor.max_length = value

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = UNLIMITED_ROWS,
        show_progress_bar: bool | None = None,
        *args: Any,
        on_error: str = "raise",
        reasons: dict[int, str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """See the class, and `SentenceTransformer.encode` for the arguments and what is returned."""
        check_on_error(on_error)
        if not self._engine_serves:
            if on_error != "raise":
                raise ValueError("on_error='none' needs sentence-transformers 6.2, whose steps are known.")
            batch_size = STOCK_BATCH_SIZE if batch_size == UNLIMITED_ROWS else batch_size
            kwargs = {name: value for name, value in kwargs.items() if name not in _OWN_ARGUMENTS}
        given = (prompt_name, prompt, batch_size, show_progress_bar, *args)
        if on_error == "raise":
            return super().encode(inputs, *given, **kwargs)
        self._check_one_process({**dict(zip(_OTHER_ARGUMENTS, args, strict=False)), **kwargs})
        single = self.is_singular_input(inputs)
        entries = [inputs] if single else list(inputs)
        failures: Failures = {}
        made = super().encode(entries, *given, failures=failures, **kwargs)
        vectors = with_gaps(made, len(entries), failures, reasons)
        return vectors[0] if single else vectors

    def is_singular_input(self, inputs: Any) -> bool:
        """Whether it is one input; any sequence is several, but for a conversation."""
        return super().is_singular_input(inputs) if isinstance(inputs, list) else as_sequence(inputs) is None

    def _check_one_process(self, arguments: dict[str, Any]) -> None:
        several = arguments.get("pool") is not None or isinstance(arguments.get("device"), list)
        if several or getattr(self, "_distributed_inference", None) is not None:
            raise ValueError("on_error='none' works in one process; leave out pool, or the list of devices.")
        if arguments.get("output_value", "sentence_embedding") != "sentence_embedding":
            raise ValueError("on_error='none' gives sentence embeddings only; leave output_value out.")

    def encode_query(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = UNLIMITED_ROWS,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """`encode` with the prompt "query" and the task "query"."""
        return super().encode_query(inputs, prompt_name, prompt, batch_size, *args, **kwargs)

    def encode_document(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = UNLIMITED_ROWS,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """`encode` with the prompt "document" (or "passage", "corpus") and the task "document"."""
        return super().encode_document(inputs, prompt_name, prompt, batch_size, *args, **kwargs)

    def get_model_kwargs(self) -> list[str]:
        return [*super().get_model_kwargs(), *_OWN_ARGUMENTS]

    def _inference(self, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        """Called by `encode`, and by each process of a pool."""
        if self._engine_serves:
            return self._encode_by_engine(inputs, *args, **kwargs)
        return super()._inference([for_sentence_transformers(entry) for entry in inputs], *args, **kwargs)

    @torch.inference_mode()
    def _encode_by_engine(
        self,
        inputs: list[Any],
        *,
        prompt: str | None,
        batch_size: int,
        show_progress_bar: bool,
        output_value: str | None,
        save_to_cpu: bool,
        normalize_embeddings: bool,
        truncate_dim: int | None,
        device: str | torch.device | None = None,
        max_tokens: int | None = None,
        num_workers: int | None = None,
        failures: Failures | None = None,
        meter: Meter | None = None,
        **kwargs: Any,
    ) -> Any:
        inputs = [for_sentence_transformers(entry) for entry in inputs]
        if output_value != "sentence_embedding":
            return super()._inference(
                inputs,
                prompt=prompt,
                batch_size=STOCK_BATCH_SIZE if batch_size == UNLIMITED_ROWS else batch_size,
                show_progress_bar=show_progress_bar,
                output_value=output_value,
                save_to_cpu=save_to_cpu,
                normalize_embeddings=normalize_embeddings,
                truncate_dim=truncate_dim,
                device=device,
                **kwargs,
            )
        target = self._resolve_inference_device(device)
        self.eval()

        def forward(batch: Features) -> torch.Tensor:
            vectors = self(batch_to_device(batch, target), **kwargs)["sentence_embedding"]
            if truncate_dim is not None:
                vectors = truncate_embeddings(vectors, truncate_dim)
            if normalize_embeddings:
                vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
            return vectors.cpu() if save_to_cpu else vectors

        engine = EncodingEngine(
            model=self.transformers_model,
            processor=self.processor,
            preprocess=partial(self.preprocess, prompt=prompt, **kwargs),
            forward=forward,
            is_text=lambda entry: infer_modality(entry, self.modalities) == "text",
        )
        options = EncodingOptions(max_tokens, batch_size, num_workers, show_progress_bar)
        vectors = engine.encode(inputs, options, failures, meter)
        return torch.stack(vectors) if vectors else torch.tensor([], device=target)


def _encode_calls_the_engine() -> bool:
    """Whether sentence-transformers' `encode` still ends in the method that ours replaces, with the same arguments."""
    stock = getattr(SentenceTransformer, "_inference", None)
    if stock is None or "_inference" not in inspect.unwrap(SentenceTransformer.encode).__code__.co_names:
        return False
    ours = set(inspect.signature(LlaveSentenceTransformer._encode_by_engine).parameters) - {*_OWN_ARGUMENTS}
    return ours == set(inspect.signature(stock).parameters)


def load_encoder(
    path: str | os.PathLike[str], *, device: str | None = None, dtype: str | None = None, **kwargs: Any
) -> Any:
    """Whatever embeds with `encode(list)`: a [`LlaveSentenceTransformer`] where there is one, else what fits.

    A Hub id opens as the same object as a folder with its files.

    Args:
        path: A folder or a Hub id.
        device: Where the model goes; None takes the GPU if there is one.
        dtype: What it computes in; None: as the weights are kept, but float32 on a CPU that does not multiply that
            type by itself, which standard error is told.
        **kwargs: `revision`, `token`, `trust_remote_code`, ... of `from_pretrained`.
    """
    check_model(path, **kwargs)
    encoder = _load_encoder(path, device or ("cuda" if torch.cuda.is_available() else "cpu"), dtype, kwargs)
    if dtype is None and not {"dtype", "torch_dtype"} & set(kwargs.get("model_kwargs", ())):
        suit_processor(encoder.model if isinstance(encoder, LlaveEncoder) else encoder, os.fspath(path))
    return encoder


def _load_encoder(path: str | os.PathLike[str], device: str, dtype: str | None, kwargs: dict[str, Any]) -> Any:
    of_model = {} if dtype is None else {"dtype": dtype}
    fields, _ = PreTrainedConfig.get_config_dict(path, **kwargs)
    is_llave = fields.get("model_type") == LlaveConfig.model_type
    if is_llave and find_file(path, "modules.json", **kwargs) is None:
        model = LlaveModel.from_pretrained(path, **of_model, **kwargs).to(device)
        return LlaveEncoder(model.eval(), LlaveProcessor.from_pretrained(path, **kwargs))
    opened = {**kwargs, "model_kwargs": {**kwargs.get("model_kwargs", {}), **of_model}} if of_model else dict(kwargs)
    if "cache_dir" in opened:  # by sentence-transformers' name
        opened["cache_folder"] = opened.pop("cache_dir")
    kind = LlaveSentenceTransformer if is_llave else SentenceTransformer
    with without_advice():
        return kind(os.fspath(path), device=device, **opened)
