"""Time and memory of the loss beside others', forward and backward, interleaved in one run: medians and ratios.

    python tests/benchmarks/loss.py --pairs 2048 --dimensions 896 --rounds 5

- llave_hf: HardnessWeightedContrastiveLoss, both directions, weighted.
- dense: the published formula, all logits held, both directions, weighted.
- sentence-transformers: MultipleNegativesRankingLoss, hardness on; it weights one direction, so its value is another.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def dense(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    similarities = queries @ documents.T
    positives = torch.eye(len(queries), dtype=torch.bool)
    logits = similarities * 50 + (9 * similarities.detach()).masked_fill(positives, 0)
    labels = torch.arange(len(queries))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def candidates() -> dict[str, LossFunction]:
    theirs = MultipleNegativesRankingLoss(
        SentenceTransformer(modules=[torch.nn.Identity()]),
        scale=50.0,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
        hardness_mode="in_batch_negatives",
        hardness_strength=9.0,
    )
    return {
        "llave_hf": HardnessWeightedContrastiveLoss(),
        "dense": dense,
        "sentence-transformers": lambda q, d: theirs.compute_loss_from_embeddings([q, d], None),
    }


def run(loss: LossFunction, queries: torch.Tensor, documents: torch.Tensor) -> float:
    """Seconds of one forward and backward."""
    queries.grad = documents.grad = None
    start = time.perf_counter()
    loss(queries, documents).backward()
    return time.perf_counter() - start


def peak_memory(loss: LossFunction, queries: torch.Tensor, documents: torch.Tensor) -> float:
    """Largest sum of live allocations within one forward and backward, in MiB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run(loss, queries, documents)
    live = largest = 0
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        largest = max(largest, live)
    return largest / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=2048)
    parser.add_argument("--dimensions", type=int, default=896)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    numbers = torch.Generator().manual_seed(0)
    shape = (arguments.pairs, arguments.dimensions)
    queries, documents = (
        F.normalize(torch.randn(shape, generator=numbers), dim=-1).requires_grad_() for _ in range(2)
    )
    losses = candidates()
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for turn in range(arguments.rounds + 1):
        for name, loss in losses.items():
            taken = run(loss, queries, documents)
            if turn:  # the first turn warms up
                seconds[name].append(taken)
    print(f"{arguments.pairs} pairs, {arguments.dimensions} dimensions, {torch.get_num_threads()} threads, medians")
    print(f"{'':<24}{'seconds':>9}{'ratio':>8}{'peak MiB':>10}")
    ours = statistics.median(seconds["llave_hf"])
    for name, loss in losses.items():
        median = statistics.median(seconds[name])
        print(f"{name:<24}{median:9.3f}{median / ours:8.2f}{peak_memory(loss, queries, documents):10.1f}")


if __name__ == "__main__":
    main()
