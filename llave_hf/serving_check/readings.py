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
    """A vector that may be read off hidden states: its name (empty for the right one), what to do, and its cosine."""

    name: str
    advice: str
    cosine: float


def readings(reference: Reference, row: Row, hidden: np.ndarray, target: np.ndarray) -> list[Reading]:
    """All readings, the right one first.

    Args:
        reference: The model.
        row: The sequence of T tokens.
        hidden: `(T, D)`.
        target: The server's vector, of D numbers or fewer: `dimensions`.
    """
    width = target.size
    kept, aim = hidden[:, :width], target / np.linalg.norm(target)
    near = kept @ aim / np.linalg.norm(kept, axis=1)
    mean = kept.mean(0)
    found = [
        Reading("", "", float(near[-1])),
        Reading("the mean of all tokens is taken", _POOLING, float(mean @ aim / np.linalg.norm(mean))),
        Reading("the first token is taken", _POOLING, float(near[0])),
    ]
    if width < hidden.shape[1]:
        last = hidden[-1, -width:]
        other = "`dimensions` takes the vector's end, where its beginning is wanted"
        found.append(Reading("the last numbers are taken", other, float(last @ aim / np.linalg.norm(last))))
    if len(near) > 2:
        place = 1 + int(np.argmax(near[1:-1]))
        found.append(_at(reference, row, place, float(near[place])))
    return found


def _at(reference: Reference, row: Row, place: int, near: float) -> Reading:
    """Another token than the last: hidden states know nothing of what follows, so it is as if the rest were cut."""
    total, suffix = len(row.ids), reference.builder.suffix
    shown = reference.tokenizer.decode(row.ids[max(0, place - 3) : place + 1])
    where = f"after token {place + 1} of {total}, at …{shown[-24:]!r}"
    if row.ids[total - len(suffix) :] == suffix and place >= total - len(suffix) - 1:
        return Reading(f"the prompt's end is left out, {where}", _END, near)
    return Reading(f"the end is cut off, {where}", _CUT, near)
