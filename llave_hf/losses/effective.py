"""The effective number of negatives (Σw)²/Σw², and steering α by it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LossStatistics:
    """What the last batch was like, over all ranks; the same on each.

    Args:
        negatives: Mean number of in-batch negatives of a query that count.
        masked_share: Share of the in-batch pairs (positives apart) that are masked, mean of the directions.
        effective_negatives: Mean over (about 256) queries of (Σw)²/Σw² with w = e^(αh), or None if not asked for.
        hardness_strength: Mean α.
    """

    negatives: float
    masked_share: float
    effective_negatives: float | None
    hardness_strength: float


class EffectiveNegatives:
    """Steers α so that (Σw)²/Σw² comes to a target.

    Where hardness is spread like a normal distribution, log(N/N_eff) = α²·var(h): one measurement gives the variance
    and so the α that hits the target. Each step goes part of the way (`rate`), at most to half or twice the last α.

    Args:
        target: Effective number of negatives to hold.
        strength: α to start from.
        rate: Part of the way (in log α) that each step goes.
        maximum: α is at most this.
    """

    def __init__(self, target: float, strength: float = 9.0, rate: float = 0.2, maximum: float = 20.0) -> None:
        if target < 1:
            raise ValueError(f"the target is {target} effective negatives; it must be at least 1.")
        if not 0 < strength <= maximum:
            raise ValueError(f"strength is {strength}; it must lie above 0 and not above maximum, {maximum}.")
        if not 0 < rate <= 1:
            raise ValueError(f"rate is {rate}; it must lie in (0, 1].")
        self.target, self.strength, self.rate, self.maximum = target, strength, rate, maximum

    def update(self, statistics: LossStatistics) -> float:
        """The next step's α, from the last step's statistics (`track_effective_negatives=True`)."""
        if statistics.effective_negatives is None:
            raise ValueError("the loss has not measured effective_negatives: set track_effective_negatives=True.")
        floor = 1e-3
        wanted = math.log(max(statistics.negatives, 1.0) / self.target)
        found = math.log(max(statistics.negatives, 1.0) / max(statistics.effective_negatives, 1e-9))
        ratio = math.sqrt(max(wanted, 1e-9) / max(found, 1e-9))
        ratio = min(max(ratio, 0.5), 2.0)
        self.strength = min(max(self.strength * ratio**self.rate, floor), self.maximum)
        return self.strength

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs."""
        return {"strength": self.strength}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Goes on from [`state_dict`]."""
        self.strength = state["strength"]


__all__ = ["EffectiveNegatives", "LossStatistics"]
