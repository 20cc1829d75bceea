"""The model that is served: inputs to rows of tokens and pixels, and rows to vectors. The vectors of `encode`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sentence_transformers.base.modules import Normalize
from sentence_transformers.util import batch_to_device

from llave_hf.encoding.engine import CPU_MAX_TOKENS, GPU_MAX_TOKENS, INPUT_ERRORS, reason_of
from llave_hf.encoding.packing import MOST_PACKED
from llave_hf.encoding.rows import Features, Row, split_rows
from llave_hf.encoding.sentence_transformer import LlaveSentenceTransformer, load_encoder
from llave_hf.errors import UserError

from .inputs import Input
from .limits import CHARACTERS_PER_TOKEN, Limits
from .media import check_media
from .prefixes import Prefixes

_ANY_LENGTH = 1 << 30  # lets the processor leave nothing out, so that what is too long is seen


class ServedModel:
    """Opens a model and gives what `encode` of a [`LlaveSentenceTransformer`] gives, batch by batch.

    Args:
        encoder: The model.
        limits: Of an input.
        max_tokens: Of a batch, padding included; None: by the device.
    """

    def __init__(self, encoder: LlaveSentenceTransformer, limits: Limits, max_tokens: int | None = None) -> None:
        self.limits = limits
        self._encoder = encoder.eval()
        self._processor = encoder.processor
        self.max_length: int = encoder.max_seq_length
        self.prompts: dict[str, str] = dict(encoder.prompts)
        self.default_prompt: str | None = encoder.default_prompt_name
        self._cut = encoder.truncate_dim
        self.dimension = int(encoder.get_embedding_dimension() or 0)
        self.is_normalised = any(isinstance(module, Normalize) for module in encoder)
        on_cpu = encoder.device.type == "cpu"
        self.max_tokens = max_tokens or (CPU_MAX_TOKENS if on_cpu else GPU_MAX_TOKENS)
        self.mixed_tokens = 0  # of texts of any lengths that make a batch without padding; known after `warm_up`
        self._prefixes = Prefixes(self._encoder.transformers_model, self._forward, self._pad_token_id)

    def prepare(self, entries: Sequence[Input]) -> list[Row | Exception]:
        """A row for each input, or what is wrong with it; called from several threads.

        Args:
            entries: Texts, or one input of another kind.
        """
        try:
            for entry in entries:
                self._check(entry)
            features = self._processor(
                text=[entry.text for entry in entries],
                images=[entry.pictures for entry in entries],
                videos=[entry.clip for entry in entries],
                max_length=_ANY_LENGTH,
            )
            return [self._checked(row) for row in split_rows(features, range(len(entries)))]
        except INPUT_ERRORS as error:
            if len(entries) > 1:  # which one is it?
                return [row for entry in entries for row in self.prepare([entry])]
            return [ValueError(reason_of(error))]

    @torch.inference_mode()
    def warm_up(self, rows: Sequence[Row]) -> torch.Tensor:
        """The vectors of a few texts, with which everything that leaves work out is tried."""
        with self._prefixes.of(rows) as lean:
            self.mixed_tokens = MOST_PACKED if lean.can_pack(rows) else 0
        return self.encode(rows)

    @torch.inference_mode()
    def encode(self, rows: Sequence[Row]) -> torch.Tensor:
        """The vectors `(B, D)` of one batch; from one thread at a time."""
        with self._prefixes.of(rows) as lean:
            return lean.run(rows)

    def shortened(self, vectors: torch.Tensor, dimensions: int | None) -> torch.Tensor:
        """The first numbers of vectors `(B, D)`, of the length of one again; as `encode` gives them for None."""
        if dimensions is None:
            return vectors
        cut = vectors[:, :dimensions]
        return torch.nn.functional.normalize(cut, p=2, dim=1) if self.is_normalised else cut

    def _forward(self, batch: Features) -> torch.Tensor:
        vectors = self._encoder(batch_to_device(batch, self._encoder.device))["sentence_embedding"]
        return vectors[:, : self._cut].float().cpu()

    def _check(self, entry: Input) -> None:
        most = self.max_length * CHARACTERS_PER_TOKEN
        if len(entry.text) > most:
            raise ValueError(f"it has {len(entry.text)} characters; at most {most}, for {self.max_length} tokens.")
        if not entry.is_text:
            check_media(entry, self.limits, self._processor.num_frames or self._processor.max_frames)

    def _checked(self, row: Row) -> Row | Exception:
        if len(row) <= self.max_length:
            return row
        return ValueError(
            f"it has {len(row)} tokens with its prompt and pictures; this model takes at most {self.max_length}. "
            "Shorten the text, or cut it into several inputs."
        )

    @property
    def _pad_token_id(self) -> int:
        return self._processor.tokenizer.pad_token_id or 0


def open_model(
    path: str, limits: Limits, *, device: str | None = None, dtype: str | None = None, max_tokens: int | None = None
) -> ServedModel:
    """A folder or Hub id, opened; raises [`UserError`] where it is no native LLaVE model."""
    encoder = load_encoder(path, device=device, dtype=dtype)
    if not isinstance(encoder, LlaveSentenceTransformer):
        raise UserError(
            f"{path} has not the files of a native folder (modules.json and config.json of LLaVE); write one with "
            "llave convert (a published checkpoint), llave merge (an adapter), or save_pretrained of a LlaveModel."
        )
    return ServedModel(encoder, limits, max_tokens)
