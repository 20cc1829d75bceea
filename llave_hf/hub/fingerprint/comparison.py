"""Compares one stage of a fingerprint with the same stage recomputed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .fingerprint import expanded

PIXEL_TOLERANCE = 1e-3  # of mean and standard deviation, where another backend than "pil" made the pixels
_SHOWN = 8  # tokens of a difference that are printed


@dataclass(frozen=True)
class Comparison:
    """How one stage of one sample compares.

    Args:
        agrees: Within what is allowed.
        amount: By how much the numbers differ; 0 for text.
        detail: What differs, for the user.
        other_bytes: The pixels agree by their mean and deviation only, so what follows cannot be as near as usual.
    """

    agrees: bool
    amount: float = 0.0
    detail: str = ""
    other_bytes: bool = False


def compare(stage: str, written: Any, found: Any, *, tolerance: float, exact_pixels: bool) -> Comparison:
    """Compares what the fingerprint holds with what was recomputed.

    Args:
        stage: One of [`STAGES`]; says what the other two are.
        written, found: As `fingerprint.json` holds them; None where the sample has no such stage.
        tolerance: Of visual features and vectors, relative to the largest number that was written.
        exact_pixels: Whether the pixels' hashes count.
    """
    if written is None or found is None:
        detail = f"there is {'one now' if written is None else 'none now'}, and there was {_one(written)} when written"
        return Comparison(written is found, detail=detail)
    if stage == "prompt":
        return _compare_prompts(written, found)
    if stage == "tokens":
        return _compare_tokens(expanded(written), found)
    if stage == "pixels":
        return _compare_pixels(written, found, exact_pixels)
    return _compare_vectors(np.array(written), np.array(found), tolerance)


def _one(written: Any) -> str:
    return "none" if written is None else "one"


def _compare_prompts(written: str, found: str) -> Comparison:
    at = _first_difference(written, found)
    shown = f"from character {at} on {found[at : at + 40]!r}, where {written[at : at + 40]!r} was written"
    return Comparison(written == found, detail=shown)


def _compare_tokens(written: list[int], found: list[int]) -> Comparison:
    at = _first_difference(written, found)
    shown = (
        f"{len(found)} tokens, {len(written)} were written; from token {at} on {found[at : at + _SHOWN]}, where "
        f"{written[at : at + _SHOWN]} was written"
    )
    return Comparison(written == found, detail=shown)


def _first_difference(written: Any, found: Any) -> int:
    pairs = enumerate(zip(written, found, strict=False))  # the longer one's rest is the difference, if no pair is
    return next((index for index, (old, new) in pairs if old != new), min(len(written), len(found)))


def _compare_pixels(written: dict[str, Any], found: dict[str, Any], exact: bool) -> Comparison:
    if written.keys() != found.keys():
        return Comparison(False, detail=f"tensors {sorted(found)}, where {sorted(written)} were written")
    largest, other_bytes = 0.0, False
    for name, old in written.items():
        new = found[name]
        if old["shape"] != new["shape"]:
            return Comparison(False, detail=f"{name}: shape {new['shape']}, where {old['shape']} was written")
        amount = float(np.max(np.abs([new["mean"] - old["mean"], new["std"] - old["std"]])))
        if not amount <= PIXEL_TOLERANCE or (exact and old["sha256"] != new["sha256"]):
            detail = (
                f"{name}: mean {new['mean']:.6g} and deviation {new['std']:.6g}, where {old['mean']:.6g} and "
                f"{old['std']:.6g} were written"
            )
            return Comparison(False, amount, detail)
        largest, other_bytes = max(largest, amount), other_bytes or old["sha256"] != new["sha256"]
    return Comparison(True, largest, other_bytes=other_bytes)


def _compare_vectors(written: np.ndarray, found: np.ndarray, tolerance: float) -> Comparison:
    if written.shape != found.shape:
        return Comparison(False, detail=f"{len(found)} numbers are kept, where {len(written)} were written")
    scale = float(np.abs(written).max())
    amount = float(np.abs(written - found).max()) / (scale or 1.0)
    detail = f"differs by {amount:.2g} of its largest number; {tolerance:g} is allowed"
    return Comparison(amount <= tolerance, amount, detail)
