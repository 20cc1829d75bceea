"""What a server may read off the right hidden states: another token, a mean, another length, other numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .reference import Reference, Row

_POOLING = (
    'the server pools otherwise: the last token is wanted (vLLM: --pooler-config \'{"pooling_type": "LAST"}\'; '
    "1_Pooling/config.json)"
)
_END = (
    "the end of the prompt is lost, and the vector is that of its last token: use the folder's chat template as it "
    "is, the newline at its end included"
)
_CUT = (
    "the end is where the vector is taken from: never let the server cut it (vLLM: no truncate_prompt_tokens, and "
    '/v2/embed with "truncate": "NONE"); refuse longer inputs, or cut the text before'
)


@dataclass(frozen=True)
class Reading:
    """A vector that may be read off hidden states.

    Attributes:
        name: Of the fault; empty for the right one.
        advice: What to do.
        cosine: To the server's vector.
        norm: Its length before it is normalised.
    """

    name: str
    advice: str
    cosine: float
    norm: float


def readings(reference: Reference, row: Row, hidden: np.ndarray, target: np.ndarray) -> list[Reading]:
    """All readings, the right one first.

    Args:
        reference: The model.
        row: The sequence of T tokens.
        hidden: `(T, D)`.
        target: The server's vector, of D numbers or fewer: `dimensions`.
    """
    width = target.size

    def read(name: str, advice: str, vector: np.ndarray) -> Reading:
        norm = float(np.linalg.norm(vector))
        return Reading(name, advice, float(vector @ target / (norm * np.linalg.norm(target))), norm)

    kept = hidden[:, :width]
    found = [
        read("", "", kept[-1]),
        read("the mean of all tokens is taken", _POOLING, kept.mean(0)),
        read("the first token is taken", _POOLING, kept[0]),
    ]
    if width < hidden.shape[1]:
        other = "`dimensions` takes the vector's end, where its beginning is wanted"
        found.append(read("the last numbers are taken", other, hidden[-1, -width:]))
    if len(kept) > 2:
        near = kept[1:-1] @ target / np.linalg.norm(kept[1:-1], axis=1)
        place = 1 + int(np.argmax(near))
        found.append(read(*_place(reference, row, place), kept[place]))
    return found


def _place(reference: Reference, row: Row, place: int) -> tuple[str, str]:
    """Another token than the last: hidden states know nothing of what follows, so it is as if the rest were cut."""
    total, suffix = len(row.ids), reference.builder.suffix
    shown = reference.tokenizer.decode(row.ids[max(0, place - 3) : place + 1])
    where = f"after token {place + 1} of {total}, at …{shown[-24:]!r}"
    if row.ids[total - len(suffix) :] == suffix and place >= total - len(suffix) - 1:
        return f"the prompt's end is left out, {where}", _END
    return f"the end is cut off, {where}", _CUT
