"""The lines that a run prints before it begins: parameters, data, negatives, loss, micro-batches, steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from llave_hf.data.batches.planning import KINDS, plan_micro_batches, token_fill
from llave_hf.data.samples import Pair
from llave_hf.data.streaming.tasks import StreamedPairs, TrainingPairs
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.notes import settings_notes
from llave_hf.training.recipe.recipe import Recipe
from llave_hf.training.step.lockstep import tower_calls
from llave_hf.training.tuning.parts import count_parameters
from llave_hf.training.tuning.precision import autocast_dtype, emulated

SAMPLED_PAIRS = 64


@dataclass(frozen=True)
class SampledTokens:
    """Lengths of the distinct samples of some pairs, spread evenly over the data.

    Attributes:
        pairs: How many pairs.
        per_pair: Mean number of tokens of a query, its positive and its own negatives together.
        kinds, lengths: Of each distinct sample.
    """

    pairs: int
    per_pair: float
    kinds: list[str]
    lengths: list[int]


def describe_run(
    recipe: Recipe,
    model: nn.Module,
    dataset: TrainingPairs,
    *,
    collate: Callable[[Sequence[Pair]], dict[str, Any]],
    batches: int,
) -> str:
    """A few lines for people: model, data, devices, negatives, micro-batches, tokens, steps.

    Args:
        recipe: Of the run.
        model: That is trained, its frozen parts frozen.
        dataset: The training pairs.
        collate: Makes a batch of pairs, as in training.
        batches: How many of them a rank has in an epoch.
    """
    args = recipe.training
    trained, frozen = count_parameters(model)
    pairs = args.per_device_train_batch_size * args.world_size
    steps_an_epoch = max(1, batches // args.gradient_accumulation_steps)
    steps = args.max_steps if args.max_steps > 0 else round(args.num_train_epochs * steps_an_epoch)
    sampled = sample_tokens(collate, dataset)
    precision = str(autocast_dtype(args)).removeprefix("torch.")
    precision += ", which this processor does not multiply by itself (float32 is faster)" if emulated(args) else ""
    streamed = ", streamed" if isinstance(dataset, StreamedPairs) else ""
    rows = {
        "model": f"{recipe.model.model or 'from scratch'}, {trained:,} parameters trained, {frozen:,} frozen",
        "data": f"{len(dataset):,} pairs of {len(dataset.sources)} tasks, {args.batch_tasks} in a batch"
        f"{_groups(args, dataset)}{streamed}",
        "devices": f"{args.world_size} x {args.device.type}, {precision}",
        "batch": f"{pairs:,} pairs, {args.per_device_train_batch_size:,} a device",
        "negatives": f"{args.negatives_per_query:,} per query" + (" and its own" if args.use_negatives else ""),
        "loss": describe_loss(args),
        "tokens": f"about {sampled.per_pair:,.0f} a pair, {sampled.per_pair * pairs:,.0f} a step",
        "memory": describe_micro_batches(args, sampled),
        "steps": f"{steps:,}, {steps_an_epoch:,} an epoch ({steps / steps_an_epoch:.2f} epochs)",
    }
    told = [*rows.items(), *(("note", text) for text in settings_notes(recipe))]
    return "\n".join(f"  {name:<10} {text}" for name, text in told)


def _groups(args: LlaveTrainingArguments, dataset: TrainingPairs) -> str:
    if not args.batch_groups:
        return ""
    sizes = dataset.group_sizes()
    kinds = sorted({size for count, size in sizes if count})
    left = len(dataset) - sum(count * size for count, size in sizes)
    return f", in groups of {' or '.join(map(str, kinds))}" + (f" ({left:,} rows in none)" if left else "")


def describe_loss(args: LlaveTrainingArguments) -> str:
    """The loss in words: its parts by weight, and which negatives its margins leave out."""
    parts = []
    if args.contrastive_weight:
        factor = "" if args.contrastive_weight == 1 else f"{args.contrastive_weight:g} x "
        directions = "both directions" if len(args.directions) == 2 else args.directions[0].replace("_", " ")
        parts += [f"{factor}{_describe_contrast(args)}, {directions}", *_describe_margins(args)]
    if args.distill_weight:
        learned = " learned" if args.learn_temperature and not args.contrastive_weight else ""
        at = "" if args.contrastive_weight else f"temperature {args.temperature:g}{learned}, "
        grades = {"column": "pos_score and neg_score", "teacher": f"cosines of {args.hardness_teacher}"}
        sharpness = "" if args.teacher_temperature is None else f" at temperature {args.teacher_temperature:g}"
        parts.append(f"{at}{args.distill_weight:g} x graded labels, {grades[args.distill_source]}{sharpness}")
    return "; ".join(parts)


def _describe_margins(args: LlaveTrainingArguments) -> Iterator[str]:
    whose = "the moving average's" if args.hardness_source == "ema" else "the teacher's"
    for margin, origin in ((args.false_negative_margin, "the positive's"), (args.teacher_margin, f"{whose}")):
        if margin is not None:
            sign, size = "-" if margin < 0 else "+", abs(margin)
            above = f" {sign} {size:g}" + (" |s|" if args.margin_strategy == "relative" else "") if margin else ""
            yield f"without negatives over {origin} s{above}"


def _describe_contrast(args: LlaveTrainingArguments) -> str:
    learned = " learned" if args.learn_temperature else ""
    at = f"temperature {args.temperature:g}{learned}"
    if args.focal_margin is not None:
        return f"{at}, Focal-InfoNCE with margin {args.focal_margin:g}"
    sources = {
        "self": "the model's own cosines",
        "teacher": f"cosines of {args.hardness_teacher}",
        "ema": f"cosines of a moving average ({args.ema_decay:g})",
        "column": "numbers of the data",
    }
    steered = f", steered to {args.effective_negatives:g} effective negatives" if args.effective_negatives else ""
    by_task = " or by task" if args.hardness_strength_by_task else ""
    relative = " above the positive's" if args.hardness_reference == "positive" else ""
    hardness = f"hardness strength {args.hardness_strength:g}{by_task} of {sources[args.hardness_source]}{relative}"
    return f"{at}, {hardness}{steered}"


def describe_micro_batches(args: LlaveTrainingArguments, sampled: SampledTokens) -> str:
    """How a device's pairs go through the model, as a plan of samples like the sampled ones says."""
    count = len(sampled.lengths) * args.per_device_train_batch_size / sampled.pairs
    places = [place * len(sampled.lengths) // round(count) for place in range(round(count))]
    lengths = [sampled.lengths[place] for place in places]
    groups = plan_micro_batches(
        [sampled.kinds[place] for place in places],
        lengths,
        mini_batch_size=args.mini_batch_size,
        mini_batch_num_tokens=args.mini_batch_num_tokens,
    )
    limits = []
    if args.mini_batch_size is not None:
        limits.append(f"{args.mini_batch_size:,} samples")
    if args.mini_batch_num_tokens is not None:
        limits.append(f"{args.mini_batch_num_tokens:,} tokens")
    size = f" of at most {' and '.join(limits)}" if limits else ", one a kind"
    largest = max(len(group) * max(lengths[place] for place in group) for group in groups)
    graph = "the graph of one at a time" if args.caches_gradients else "the graph of all"
    if args.caches_gradients and args.graph_memory_gb:
        graph = f"graphs of {args.graph_memory_gb:g} GiB, or of one micro-batch"
    return (
        f"about {len(groups):,} micro-batches a step and device{size}, {token_fill(groups, lengths):.0%} full, "
        f"the largest {largest:,} tokens; holds {graph}"
    )


def sample_tokens(collate: Callable[[Sequence[Pair]], dict[str, Any]], dataset: TrainingPairs) -> SampledTokens:
    """Prepares a few pairs and counts their tokens."""
    count = min(SAMPLED_PAIRS, len(dataset))
    batch = collate([dataset[index * len(dataset) // count] for index in range(count)])
    kinds, lengths = [], []
    for part in batch["micro_batches"]:
        found = [int(length) for length in part["attention_mask"].sum(1)]
        lengths += found
        kinds += [KINDS[tower_calls(part)]] * len(found)
    used = [*batch["query_index"].tolist(), *batch["document_index"].tolist()]
    if "negative_index" in batch:
        used += [place for place in batch["negative_index"].flatten().tolist() if place >= 0]
    return SampledTokens(count, sum(lengths[index] for index in used) / count, kinds, lengths)
