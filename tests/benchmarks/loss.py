"""Time and memory of the loss beside others, forward and backward, interleaved in one run: medians and ratios.

    python tests/benchmarks/loss.py            # 8192 pairs, 1024 dimensions: minutes
    python tests/benchmarks/loss.py --quick    # 2048 pairs
    python tests/benchmarks/loss.py --forms    # each form of hardness beside the loss without it, and no more

- products: the B x B x D matrix products that cannot be avoided, into memory that is there already: four, or the three
  that are left when exponentials are kept.
- published: the formula of the published code, two B x B matrices and log(exp).
- dense: the same values in PyTorch's shortest words.
- sentence-transformers: both losses with hardness, both directions; they weight one, so their value is another. The
  cached one works on 256 rows at a time.

Prints Markdown tables. `min` stands beside the median: on a busy machine it is nearer the truth. With
OMP_NUM_THREADS=1 the processor's time is measured and not the wall's, which a busy machine changes little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss

Step = Callable[[], object]
WHOLE = 1e6  # MiB: all exponentials are kept


def vectors(pairs: int, dimensions: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs whose positives are nearer than the rest, as in training; leaves."""
    numbers = torch.Generator().manual_seed(0)
    queries = F.normalize(torch.randn(pairs, dimensions, generator=numbers), dim=-1)
    noise = F.normalize(torch.randn(pairs, dimensions, generator=numbers), dim=-1)
    documents = F.normalize(queries + 1.5 * noise, dim=-1)
    return queries.to(dtype).requires_grad_(), documents.to(dtype).requires_grad_()


def dense(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    similarities = queries @ documents.T
    positives = torch.eye(len(queries), dtype=torch.bool)
    logits = similarities * 50 + (9 * similarities.detach()).masked_fill(positives, 0)
    labels = torch.arange(len(queries))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def published(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    labels = torch.arange(len(queries))
    total = queries.new_zeros(())
    for logits in (50.0 * queries @ documents.T, 50.0 * documents @ queries.T):
        weights = torch.log(torch.exp(9 * logits.detach() / 50.0))
        weights.scatter_(1, labels[:, None], 0)
        total = total + F.cross_entropy(logits + weights, labels) / 2
    return total


def products(queries: torch.Tensor, documents: torch.Tensor, count: int) -> Step:
    """`count` of S = QDᵀ, S again, SD, SᵀQ."""
    square, gradient = torch.empty(len(queries), len(queries)), torch.empty_like(queries)

    def step() -> None:
        with torch.no_grad():
            for _ in range(count - 2):
                torch.mm(queries, documents.T, out=square)
            torch.mm(square, documents, out=gradient)
            torch.mm(square.T, queries, out=gradient)

    return step


def steps(queries: torch.Tensor, documents: torch.Tensor) -> dict[str, Step]:
    """Forward and backward of each candidate."""
    hardness = {
        "scale": 50.0,
        "directions": ("query_to_doc", "doc_to_query"),
        "partition_mode": "per_direction",
        "hardness_mode": "in_batch_negatives",
        "hardness_strength": 9.0,
    }
    model = SentenceTransformer(modules=[torch.nn.Identity()])
    plain = MultipleNegativesRankingLoss(model, **hardness)
    cached = CachedMultipleNegativesRankingLoss(model, mini_batch_size=256, **hardness)
    ours, default, keeping = (HardnessWeightedContrastiveLoss(keep_tiles_mib=mib) for mib in (0, 16, WHOLE))
    ids = torch.arange(len(queries))
    ids[: len(ids) // 20] = ids[len(ids) // 20 : 2 * (len(ids) // 20)]  # one in ten is repeated
    negatives = F.normalize(torch.randn(len(queries), 4, queries.shape[1]), dim=-1).requires_grad_()
    return {
        "four products": products(queries, documents, 4),
        "three products": products(queries, documents, 3),
        "llave_hf": lambda: ours(queries, documents).backward(),
        "llave_hf, tiles kept": lambda: keeping(queries, documents).backward(),
        "llave_hf, default": lambda: default(queries, documents).backward(),
        "llave_hf, masks and K = 4": lambda: ours(queries, documents, negatives, ids, ids).backward(),
        "dense": lambda: dense(queries, documents).backward(),
        "published": lambda: published(queries, documents).backward(),
        "sentence-transformers": lambda: plain.compute_loss_from_embeddings([queries, documents], None).backward(),
        "sentence-transformers, cached": lambda: cached.calculate_loss([[queries], [documents]], with_backward=True),
    }


# A form of the loss, what it is measured beside, and its settings; both get the same inputs.
FORMS: dict[str, tuple[str, dict[str, object]]] = {
    "plain": ("plain", {}),
    "K = 4": ("K = 4", {}),
    "teacher": ("teacher", {"hardness_source": "teacher"}),
    "teacher, capped": ("teacher, capped", {"hardness_source": "teacher", "max_weight": 3.0}),
    "margin": ("margin", {"false_negative_margin": 0.3}),
    "hardness_reference": ("teacher", {"hardness_source": "teacher", "hardness_reference": "positive"}),
    "hardness_reference, capped": (
        "teacher, capped",
        {"hardness_source": "teacher", "hardness_reference": "positive", "max_weight": 3.0},
    ),
    "focal_margin": ("plain", {"focal_margin": 0.3, "hardness_strength": 0.0}),
    "margin_strategy": ("margin", {"false_negative_margin": 0.3, "margin_strategy": "relative"}),
    "distill_weight": ("K = 4", {"distill_weight": 1.0}),
}
MOST = 1.35  # times the time, and the memory, of the loss without


def forms(leaves: tuple[torch.Tensor, ...], rounds: int) -> list[tuple[str, ...]]:
    """Time and memory of each form over those of what it is measured beside."""
    queries, documents = leaves
    numbers = torch.Generator().manual_seed(1)
    shape = (len(queries), 4, queries.shape[1])
    negatives = F.normalize(torch.randn(*shape, generator=numbers), dim=-1).requires_grad_()
    teacher = vectors(len(queries), 256)
    scores = {
        "positive_scores": torch.rand(len(queries), generator=numbers),
        "negative_scores": torch.rand(shape[:2], generator=numbers),
    }
    given: dict[str, dict[str, torch.Tensor]] = {"K = 4": {"negative_embeddings": negatives, **scores}}
    for name in ("teacher", "teacher, capped"):
        given[name] = {f"teacher_{side}_embeddings": x for side, x in zip(("query", "document"), teacher, strict=True)}

    def step_of(name: str) -> Step:
        beside, settings = FORMS[name]
        loss, inputs = HardnessWeightedContrastiveLoss(**settings), given.get(beside, {})
        return lambda: loss(queries, documents, **inputs).backward()

    candidates = {name: step_of(name) for name in FORMS}
    everything = (*leaves, negatives)
    seconds = timed(candidates, rounds, everything)
    memory = {name: peak_memory(step, everything) for name, step in candidates.items()}
    rows = [("form, on", "beside", "at most", "time, median", "min", "memory", "met")]
    for name, (beside, _) in FORMS.items():
        if name != beside:
            median, least = (f(seconds[name]) / f(seconds[beside]) for f in (statistics.median, min))
            held = memory[name] / memory[beside]
            met = "yes" if max(median, held) <= MOST else "no"
            rows.append((name, beside, f"{MOST:g}", f"{median:.2f}", f"{least:.2f}", f"{held:.2f}", met))
    return rows


def timed(candidates: dict[str, Step], rounds: int, leaves: tuple[torch.Tensor, ...]) -> dict[str, list[float]]:
    """Seconds of each round; the first, which warms up, is left out.

    One thread is timed by its own clock, which stands still while others have the processor.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, step in candidates.items():
            for leaf in leaves:
                leaf.grad = None
            start = clock()
            step()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def peak_memory(step: Step, leaves: tuple[torch.Tensor, ...]) -> float:
    """Largest sum of live allocations within one forward and backward, gradients included, in MiB."""
    for leaf in leaves:
        leaf.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    live = largest = 0
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        largest = max(largest, live)
    return largest / 2**20


def errors(pairs: int, dimensions: int) -> tuple[float, float]:
    """Of llave_hf in float32 against the dense form in float64: of the value, and the largest of the gradients
    relative to the largest gradient."""
    found, expected = [], []
    for dtype, results, loss in (
        (torch.float32, found, HardnessWeightedContrastiveLoss(keep_tiles_mib=0)),
        (torch.float64, expected, dense),
    ):
        leaves = vectors(pairs, dimensions, torch.float32)
        leaves = tuple(leaf.detach().to(dtype).requires_grad_() for leaf in leaves)
        value = loss(*leaves)
        results += [value.detach(), *torch.autograd.grad(value, leaves)]
    gradient = max(
        ((one.double() - other).abs().max() / other.abs().max()).item()
        for one, other in zip(found[1:], expected[1:], strict=True)
    )
    return abs(found[0].double() - expected[0]).item() / abs(expected[0].item()), gradient


def table(rows: list[tuple[str, ...]]) -> str:
    """Markdown."""
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, tuple("---" for _ in head), *rest))


def goals(seconds: dict[str, list[float]], memory: dict[str, float], gradients: float) -> list[tuple[str, ...]]:
    """Each goal with the ratio of medians, and of minima, that was measured. `gradients`: MiB that all need."""
    rows = [("goal", "at most", "median", "min", "met")]
    for name, one, other, limit in (
        ("time / four products", "llave_hf", "four products", 1.2),
        ("time, tiles kept / three products", "llave_hf, tiles kept", "three products", 1.2),
        ("time / published", "llave_hf", "published", 0.35),
        ("time, tiles kept / published", "llave_hf, tiles kept", "published", 0.35),
        ("time / sentence-transformers, cached", "llave_hf", "sentence-transformers, cached", 0.35),
        ("time with masks and K = 4 / without", "llave_hf, masks and K = 4", "llave_hf", 1.2),
        ("time, default / dense", "llave_hf, default", "dense", 1.0),
    ):
        median, least = (f(seconds[one]) / f(seconds[other]) for f in (statistics.median, min))
        rows.append((name, f"{limit:g}", f"{median:.2f}", f"{least:.2f}", "yes" if median <= limit else "no"))
    for name, taken in (("memory / dense", 0.0), ("memory / dense, gradients of the vectors apart", gradients)):
        ratio = (memory["llave_hf"] - taken) / (memory["dense"] - taken)
        rows.append((name, "1/20", f"1/{1 / ratio:.1f}", "", "yes" if ratio <= 1 / 20 else "no"))
    return rows


def large(quick: bool) -> list[tuple[str, ...]]:
    """Error, and the memory of batches that others cannot hold."""
    pairs = 2048 if quick else 8192
    value, gradient = errors(pairs, 1024)
    rows = [("goal", "at most", "measured", "met")]
    for name, error in (("value", value), ("gradient", gradient)):
        rows.append(
            (f"relative error of {name}, N = {pairs}", "1e-5", f"{error:.1e}", "yes" if error <= 1e-5 else "no")
        )
    size, dimensions = (8192, 256) if quick else (16384, 1024)
    leaves = vectors(size, dimensions)
    candidates = steps(*leaves)
    names = ("llave_hf", "published", "sentence-transformers, cached")
    ours, theirs, cached = (peak_memory(candidates[name], leaves) for name in names)
    for name, other, limit in (("published", theirs, 40), ("sentence-transformers, cached", cached, 5)):
        met = "yes" if other >= limit * ours else "no"
        rows.append((f"memory / {name}, N = {size}", f"1/{limit}", f"1/{other / ours:.1f} ({ours:.0f} MiB)", met))
    size = 16384 if quick else 65536
    leaves = vectors(size, 256)
    start = time.perf_counter()
    step = HardnessWeightedContrastiveLoss()
    peak = peak_memory(lambda: step(*leaves).backward(), leaves)
    met = "yes" if peak < 2048 else "no"
    rows.append(
        (f"memory, N = {size}, D = 256", "2048 MiB", f"{peak:.0f} MiB, {time.perf_counter() - start:.0f} s", met)
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="2048 pairs unless said otherwise, small memory checks")
    parser.add_argument("--forms", action="store_true", help="only the table of the forms of hardness")
    arguments = parser.parse_args()
    pairs = arguments.pairs or (2048 if arguments.quick else 8192)
    leaves = vectors(pairs, arguments.dimensions)
    print(
        f"{pairs} pairs, {arguments.dimensions} dimensions, float32, {torch.get_num_threads()} threads, "
        f"{arguments.rounds} rounds, load {os.getloadavg()[0]:.1f}\n"
    )
    if arguments.forms:
        print(table(forms(leaves, arguments.rounds)))
        return
    candidates = steps(*leaves)
    seconds = timed(candidates, arguments.rounds, leaves)
    memory = {name: peak_memory(step, leaves) for name, step in candidates.items()}
    ours = statistics.median(seconds["llave_hf"])
    rows = [("forward + backward", "median s", "min s", "times llave_hf", "peak MiB")]
    for name, taken in seconds.items():
        median = statistics.median(taken)
        peak = "" if "products" in name else f"{memory[name]:.0f}"
        rows.append((name, f"{median:.3f}", f"{min(taken):.3f}", f"{median / ours:.2f}", peak))
    print(table(rows) + "\n\n" + table(goals(seconds, memory, 2 * leaves[0].nbytes / 2**20)), flush=True)
    print("\n" + table(forms(leaves, arguments.rounds)), flush=True)
    del candidates, leaves
    print("\n" + table(large(arguments.quick)))


if __name__ == "__main__":
    main()
