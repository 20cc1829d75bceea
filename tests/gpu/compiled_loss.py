"""The compiled loss beside the eager one: value, gradients, time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from rows import SKIPPED, Row, Setting, bounded, median_seconds

from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss as Loss


def rows(setting: Setting) -> Iterator[Row]:
    pairs, width = (256, 32) if setting.small else (8192, 1024)
    queries, documents = _vectors(pairs, width, setting.device)
    ids = torch.arange(pairs, device=setting.device) // 2  # each query twice, so that masks are fused too
    ways = {name: Loss(compiler=compiler) for name, compiler in (("eager", None), ("compiled", "inductor"))}

    def step(loss: Loss) -> list[torch.Tensor]:
        value = loss(queries, documents, query_ids=ids)
        return [value.detach(), *torch.autograd.grad(value, (queries, documents))]

    expected, found = step(ways["eager"]), step(ways["compiled"])
    shape = f"{pairs:,} pairs x {width}, float32"
    yield bounded(f"value, relative to eager ({shape})", _apart(found[0], expected[0]), 1e-5)
    gradients = max(_apart(one, other) for one, other in zip(found[1:], expected[1:], strict=True))
    yield bounded("gradients, relative to eager", gradients, 1e-5)
    eager, compiled = median_seconds(
        setting, [partial(step, loss) for loss in ways.values()], 3 if setting.quick else 10
    )
    times = f"{1000 * eager:.2f} / {1000 * compiled:.2f} ms, {eager / compiled:.2f} x"
    yield Row("forward and backward, eager / compiled", times)
    if not setting.on_gpu:
        yield Row("memory that they add", "a CPU does not count it", "", SKIPPED)
        return
    before, after = (_peak(partial(step, loss)) for loss in ways.values())
    yield Row("memory that they add, eager / compiled", f"{before:.0f} / {after:.0f} MiB")


def _vectors(pairs: int, width: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(pairs, width, generator=numbers), dim=-1)
    noise = torch.nn.functional.normalize(torch.randn(pairs, width, generator=numbers), dim=-1)
    documents = torch.nn.functional.normalize(queries + noise, dim=-1)
    return queries.to(device).requires_grad_(), documents.to(device).requires_grad_()


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def _peak(action: partial[list[torch.Tensor]]) -> float:
    """MiB."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
