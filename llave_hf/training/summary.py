"""What a run is going to do, said before it begins."""

from __future__ import annotations

from llave_hf.data.pairs import PairDataset

from .parts import count_parameters
from .recipe import Recipe
from .trainer import LlaveTrainer

SAMPLED_PAIRS = 64


def describe_run(recipe: Recipe, trainer: LlaveTrainer, dataset: PairDataset) -> str:
    """A few lines for people: model, data, devices, negatives, tokens, steps."""
    args = trainer.args
    trained, frozen = count_parameters(trainer.model)
    pairs = args.per_device_train_batch_size * args.world_size
    steps_an_epoch = max(1, len(trainer.get_train_dataloader()) // args.gradient_accumulation_steps)
    steps = args.max_steps if args.max_steps > 0 else round(args.num_train_epochs * steps_an_epoch)
    tokens = tokens_per_pair(trainer, dataset)
    precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    directions = "both directions" if len(args.directions) == 2 else args.directions[0].replace("_", " ")
    rows = {
        "model": f"{recipe.model.model or 'from scratch'}, {trained:,} parameters trained, {frozen:,} frozen",
        "data": f"{len(dataset):,} pairs of {len(dataset.sources)} tasks, {args.batch_tasks} in a batch",
        "devices": f"{args.world_size} x {args.device.type}, {precision}",
        "batch": f"{pairs:,} pairs, {args.per_device_train_batch_size:,} a device",
        "negatives": f"{args.negatives_per_query:,} per query" + (" and its own" if args.use_negatives else ""),
        "loss": f"temperature {args.temperature:g}, hardness strength {args.hardness_strength:g}, {directions}",
        "tokens": f"about {tokens:,.0f} a pair, {tokens * pairs:,.0f} a step",
        "steps": f"{steps:,}, {steps_an_epoch:,} an epoch ({steps / steps_an_epoch:.2f} epochs)",
    }
    return "\n".join(f"  {name:<10} {text}" for name, text in rows.items())


def tokens_per_pair(trainer: LlaveTrainer, dataset: PairDataset) -> float:
    """Mean number of tokens of a query and its positive together, over pairs spread evenly over the data."""
    count = min(SAMPLED_PAIRS, len(dataset))
    pairs = [dataset[index * len(dataset) // count] for index in range(count)]
    batch = trainer.data_collator(pairs)
    lengths = [int(n) for part in batch["micro_batches"] for n in part["attention_mask"].sum(1)]
    used = [*batch["query_index"].tolist(), *batch["document_index"].tolist()]
    return sum(lengths[index] for index in used) / count
