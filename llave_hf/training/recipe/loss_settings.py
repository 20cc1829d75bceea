"""Settings of the loss that do not go together, refused before anything is read."""

from __future__ import annotations

from typing import Any

from llave_hf.losses.graded import GradedLabels, check_weights
from llave_hf.losses.hardness import Hardness, check_focal_margin
from llave_hf.losses.negatives import NegativeRules


def check_loss(args: Any) -> None:
    """Looks at all keys of the loss.

    Args:
        args: LlaveTrainingArguments.

    Raises:
        ValueError: One is out of its range, or two contradict each other; the message says what to do.
    """
    _check_teacher(args)
    _check_strength(args)
    _check_focal(args)
    _check_grades(args)
    NegativeRules(margin_strategy=args.margin_strategy)
    if args.learn_temperature and args.fp16:
        raise ValueError("learn_temperature does not go with fp16's scaled gradients; use bf16.")


def _check_teacher(args: Any) -> None:
    grades = grades_by_teacher(args)
    wants = args.hardness_source == "teacher" or grades
    wants = wants or (args.teacher_margin is not None and args.hardness_source != "ema")
    if wants and args.hardness_teacher is None:
        raise ValueError(
            "hardness_source teacher, distill_source teacher and teacher_margin need hardness_teacher: name a model."
        )
    if args.hardness_teacher is not None and not wants:
        raise ValueError(
            "hardness_teacher is given and nothing uses it; add hardness_source: teacher, a teacher_margin (with "
            "hardness_source ema the margin is in the moving average's cosines), or distill_source: teacher with a "
            "distill_weight, or leave it out."
        )
    if grades and args.hardness_source == "ema":
        raise ValueError(
            "distill_source is teacher and hardness_source ema: a step has the vectors of one other model. Take the "
            "teacher for both, or the grades from columns (distill_source: column)."
        )


def _check_strength(args: Any) -> None:
    if args.hardness_mode == "hard_negatives" and not args.use_negatives:
        raise ValueError(
            "hardness_mode hard_negatives weights rows' own negatives alone, and use_negatives is off: nothing "
            "would be weighted. Set use_negatives, or leave hardness_mode out."
        )
    if not 0 <= args.ema_decay < 1:
        raise ValueError(f"ema_decay is {args.ema_decay}; it must be at least 0 and below 1.")
    if args.hardness_warmup_steps < 0:
        raise ValueError(f"hardness_warmup_steps is {args.hardness_warmup_steps}; it must not be negative.")
    if args.effective_negatives is not None and args.hardness_strength_by_task is not None:
        raise ValueError("effective_negatives steers one alpha for all; leave out hardness_strength_by_task.")
    if args.hardness_reference == "none":
        return
    hardness = Hardness(
        args.hardness_strength,
        args.hardness_mode,
        args.hardness_source,
        args.max_hardness_weight,
        args.hardness_reference,
    )
    hardness.refuse_mere_temperature(args.temperature)


def _check_focal(args: Any) -> None:
    margin = args.focal_margin
    if margin is None:
        return
    check_focal_margin(margin)
    by_task = (args.hardness_strength_by_task or {}).values()
    if args.hardness_strength > 0 or any(by_task) or args.effective_negatives is not None:
        raise ValueError(
            f"focal_margin is {margin:g} and hardness_strength {args.hardness_strength:g}: both make hard negatives "
            "count more, and one takes the other's place. Set hardness_strength to 0 (and leave out "
            "hardness_strength_by_task and effective_negatives), or leave focal_margin out."
        )


def _check_grades(args: Any) -> None:
    GradedLabels(args.distill_weight, args.distill_source, args.teacher_temperature)
    check_weights(args.contrastive_weight, args.distill_weight)
    if args.distill_weight > 0 and not args.use_negatives:
        raise ValueError(
            "distill_weight is above 0 and use_negatives off: grades are of a row's positive beside its own "
            "negatives. Set use_negatives, or leave distill_weight out."
        )
    if args.contrastive_weight == 0 and args.effective_negatives is not None:
        raise ValueError(
            "effective_negatives steers the weights of the contrastive loss, and contrastive_weight is 0: leave one "
            "of them out."
        )


def grades_by_teacher(args: Any) -> bool:
    """Whether graded labels are a teacher's cosines."""
    return args.distill_weight > 0 and args.distill_source == "teacher"
