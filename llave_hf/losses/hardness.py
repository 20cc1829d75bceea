"""How hard a negative is: what is added to its logit (LLaVE, Eq. 5: alpha * sg(s))."""

from __future__ import annotations

HARDNESS_MODES = ("in_batch_negatives", "hard_negatives", "all_negatives")


class SelfHardness:
    """The policy is its own reward model: a negative is as hard as it is similar (LLaVE, section 3.3).

    The log-weight alpha * sg(s) is linear in s, so a weighted logit is one product s * (1/τ + alpha). Its gradient is
    that of s/τ alone: the weight is a constant to the optimizer.

    Args:
        strength: alpha; 9 in the paper, 0.5 in the published code's defaults, 0 for plain InfoNCE.
        mode: Which negatives are weighted, in sentence-transformers' words: `"in_batch_negatives"`,
            `"hard_negatives"` (a row's own explicit ones) or `"all_negatives"`.
    """

    def __init__(self, strength: float, mode: str) -> None:
        if strength < 0:
            raise ValueError(f"hardness_strength is {strength}; it must not be negative (0 turns weighting off).")
        if mode not in HARDNESS_MODES:
            raise ValueError(f"hardness_mode is {mode!r}; choose one of {', '.join(map(repr, HARDNESS_MODES))}.")
        self.strength = strength
        self.mode = mode

    @property
    def in_batch_strength(self) -> float:
        """alpha for in-batch negatives."""
        return 0.0 if self.mode == "hard_negatives" else self.strength

    @property
    def explicit_strength(self) -> float:
        """alpha for explicit negatives."""
        return 0.0 if self.mode == "in_batch_negatives" else self.strength
