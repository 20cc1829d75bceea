"""What encoding took: tokens, and the time in which the model waited for pictures and videos."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Meter:
    """Sums over calls of `encode`; one thread's.

    Attributes:
        tokens: Of distinct inputs, padding left out.
        waited: Seconds in which nothing was left to do but wait for a medium that was being opened and prepared.
    """

    tokens: int = 0
    waited: float = 0.0
