"""Warnings from telemetry's history (collapse, trivial negatives, false negatives, ...): what was seen, what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]

IN_A_ROW = 3  # logs: one odd stretch of steps is no news
LONG = 10
ENOUGH_QUERIES = 200


def findings(
    history: Sequence[Entry], *, gradient_accumulation_steps: int = 1, few_negatives: int = 1000
) -> dict[str, str]:
    """What is wrong, by a short name.

    Args:
        history: Of `Telemetry.history`, oldest first.
        gradient_accumulation_steps: Of the run; more than 1 beside fewer than `few_negatives` is told.
        few_negatives: Where more negatives are known to help (LLaVE, Figure 5; MMEB recipes use about 1000).
    """
    recent = list(history[-IN_A_ROW:])
    if not recent:
        return {}
    found = {"accumulation": _accumulation(recent, gradient_accumulation_steps, few_negatives)}
    # Where batches had no negatives there is nothing to judge.
    told = [entry for entry in history[-LONG:] if entry["auc"] is not None]
    if recent == told[-IN_A_ROW:] and len(recent) == IN_A_ROW:
        found |= {
            "collapse": _collapse(recent),
            "trivial negatives": _trivial(recent),
            "false negatives": _false_negatives(told),
            "few effective negatives": _concentrated(recent),
            "masked groups": _masked_groups(told),
            "false negatives in groups": _false_negatives_in_groups(told),
        }
    return {name: message for name, message in found.items() if message is not None}


def _accumulation(recent: Sequence[Entry], steps: int, few: int) -> str | None:
    negatives = recent[-1]["negatives"]
    if steps <= 1 or negatives >= few:
        return None
    return (
        f"gradient_accumulation_steps {steps} averages gradients and adds no negatives: a query still sees "
        f"{negatives:.0f}. For more, raise per_device_train_batch_size by as much and set mini_batch_size (gradient "
        "caching), which keeps memory where it is."
    )


def _collapse(recent: Sequence[Entry]) -> str | None:
    values = [entry["random_cosine"] for entry in recent]
    # At the start of training everything is alike, too, but ever less so.
    if min(values) <= 0.95 or values[-1] < values[0] - 0.005:
        return None
    return (
        f"collapse: different queries, or different documents, have a mean cosine of {values[-1]:.3f} and it does not "
        "fall, so that nearly everything gets the same vector. Lower learning_rate, lengthen warmup_steps, raise "
        "temperature if it is below 0.02, and look for a prompt or a picture that all samples share."
    )


def _trivial(recent: Sequence[Entry]) -> str | None:
    if any(entry["auc"] <= 0.999 or entry["hard"] >= 0.3 for entry in recent):
        return None
    if sum(entry["queries"] for entry in recent) < ENOUGH_QUERIES:
        return None
    now = recent[-1]
    return (
        f"the negatives are trivial: the hardest five of a query have a mean cosine of {now['hard']:.2f}, positives "
        f"{now['positive']:.2f} (AUC {now['auc']:.4f}), which leaves nothing to learn. Use larger batches, "
        "batch_tasks: one, or hard negatives (llave mine, then use_negatives: true)."
    )


def _false_negatives(stretch: Sequence[Entry]) -> str | None:
    found = _still_outscored(stretch, "outscored")
    if found is None:
        return None
    auc_before, auc_now, now = found
    return (
        f"false negatives are likely: for {now:.0%} of the queries some negative scores above the positive by more "
        f"than 0.1 ({stretch[-1]['outscoring']:.2%} of the negatives), and no fewer while the others get better (AUC "
        f"{auc_before:.3f} to {auc_now:.3f}). Set false_negative_margin: 0.1 to leave them out, or give rows that "
        "share an answer equal labels, and look at some: positives may be wrong, too."
    )


def _masked_groups(stretch: Sequence[Entry]) -> str | None:
    """Of long, and in groups above all: a young model masks by cosines that are worth little, and everywhere.

    Entries of runs without groups have none of the names.
    """
    seen = [entry for entry in stretch if entry.get("masked_share_own_group") is not None]
    others = [entry["masked_share_other_groups"] or 0.0 for entry in seen]
    own = [entry["masked_share_own_group"] for entry in seen]
    if len(seen) < LONG or any(one < max(0.25, 2 * other) for one, other in zip(own, others, strict=True)):
        return None
    return (
        f"groups gather false negatives: {own[-1]:.0%} of what a query meets in its own group is masked, as an equal "
        f"answer or by a margin ({others[-1]:.0%} in other groups), so that groups are smaller than they look. Mine "
        "them again (llave mine) with a larger rank_min, --judge, or the column label."
    )


def _false_negatives_in_groups(stretch: Sequence[Entry]) -> str | None:
    """Of a query's own group alone."""
    seen = [entry for entry in stretch if entry.get("outscored_own_group") is not None]
    found = _still_outscored(seen, "outscored_own_group")
    if found is None:
        return None
    auc_before, auc_now, now = found
    share = seen[-1]["group_gradient_share"]
    return (
        f"groups gather false negatives: for {now:.0%} of the queries a document of their own group scores above the "
        f"positive by more than 0.1, and no fewer while the others get better (AUC {auc_before:.3f} to "
        f"{auc_now:.3f}); groups have {share:.0%} of the gradient. Mine them again (llave mine) with a larger "
        "rank_min, a margin, or --judge, or set false_negative_margin: 0.1 to leave them out."
    )


def _still_outscored(stretch: Sequence[Entry], name: str) -> tuple[float, float, float] | None:
    """Of a model that tells most pairs right, and ever more: what is out of order does not get less.

    Earlier, negatives outscore positives because the model has not learned, and the more so as cosines spread.

    Args:
        stretch: Entries that have the name.
        name: Of the share of queries with a negative above their positive.

    Returns:
        AUC before and now, and the share now; None where there is nothing to say.
    """
    if len(stretch) < LONG or min(entry["auc"] for entry in stretch) < 0.75:
        return None
    (auc_before, auc_now), (before, now) = _ends(stretch, "auc"), _ends(stretch, name)
    if auc_now < auc_before + 0.01 or now < 0.1 or now < 0.95 * before:
        return None
    return auc_before, auc_now, now


def _ends(stretch: Sequence[Entry], name: str) -> tuple[float, float]:
    """Means of the first and of the last entries."""
    ends = stretch[:IN_A_ROW], stretch[-IN_A_ROW:]
    first, last = (sum(entry[name] for entry in end) / IN_A_ROW for end in ends)
    return first, last


def _concentrated(recent: Sequence[Entry]) -> str | None:
    now = recent[-1]
    few = min(3.0, 0.8 * now["negatives"])  # of two negatives there are never more
    if now["hardness_strength"] <= 0 or any(entry["effective_negatives"] >= few for entry in recent):
        return None
    return (
        f"hardness_strength {now['hardness_strength']:.3g} leaves {now['effective_negatives']:.1f} of "
        f"{now['negatives']:.0f} negatives a query in effect, (Σw)²/Σw² of the weights. Lower hardness_strength, cap "
        "the weights, or use larger batches (mini_batch_size keeps memory where it is)."
    )
