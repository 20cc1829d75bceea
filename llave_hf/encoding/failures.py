"""What `encode` gives where some of its inputs cannot be used and the others are wanted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

ON_ERROR = ("raise", "none")
# Of an input that is fine, of which the model makes nothing.
TRY_FLOAT32 = "look at the weights with llave verify, and run what computes in float16 in float32"
NOT_FINITE = f"the model gives it a vector whose numbers are not finite; {TRY_FLOAT32}"
_NAMED = 3  # inputs that a warning spells out

Failures = dict[int, ValueError]  # by place in the list


def check_on_error(on_error: str) -> None:
    """Raises ValueError for anything but `"raise"` and `"none"`."""
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}; choose 'raise', or 'none' for None in place of bad inputs.")


def with_gaps(made: Iterable[Any], total: int, failures: Failures, reasons: dict[int, str] | None) -> list[Any]:
    """Vectors at the places of their inputs, None at those of the inputs that have none.

    Args:
        made: The vectors there are, in order.
        total: How many inputs there were.
        failures: Why the others have none.
        reasons: Is given that as texts, which begin with the place; None: a warning says it.
    """
    told = {place: str(failures[place]) for place in sorted(failures)}
    if reasons is not None:
        reasons.update(told)
    elif told:
        named = "\n".join(list(told.values())[:_NAMED])
        more = "\n..." if len(told) > _NAMED else ""
        logger.warning(f"{len(told)} of {total} inputs cannot be used and have no vector:\n{named}{more}")
    vectors = iter(made)
    return [None if place in failures else next(vectors) for place in range(total)]
