"""The loss with what lies between its products compiled: the same values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_features import FEATURES, VECTORS, batch
from torch._dynamo.testing import CompileCounter

from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss as Loss
from llave_hf.losses.fused import compiled, exponentials_and_sums, weighted

KINDS = ("relative", "focal", "graded")
# Of the many forms, those that have a tile's pass of their own.
FORMS = ("relative, all negatives, shared, capped", "focal, learned, a task", "focal, shared negatives, Matryoshka")

CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    **{name: case for name, case in FEATURES.items() if name in FORMS or not name.startswith(KINDS)},
    "duplicates once": ({"count_duplicates_once": True}, ("query_ids", "document_ids")),
    "duplicates once, shared negatives": (
        {"count_duplicates_once": True, "share_negatives": True},
        ("query_ids", "document_ids", "negatives"),
    ),
}


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """Dynamo compiles a function for eight sets of arguments at most, in a process; a run needs one or two."""
    torch._dynamo.reset()
    compiled.cache_clear()


def value_and_gradients(name: str, device: str = "cpu", **options: Any) -> list[torch.Tensor]:
    settings, given = CASES[name]
    inputs = {key: x.detach().to(device).requires_grad_(x.requires_grad) for key, x in batch(11, given).items()}
    loss = Loss(**settings, tile_size=3, **options).to(device)
    value = loss(**inputs)
    vectors = [inputs[vector] for vector in VECTORS if vector in inputs]
    parameters = [*vectors, *loss.parameters()]
    return [value.detach(), *torch.autograd.grad(value, parameters, materialize_grads=True)]


@pytest.mark.parametrize("keep_tiles_mib", [0.0, 16.0])
@pytest.mark.parametrize("name", CASES)
def test_the_graph_has_the_values_of_the_eager_path(name: str, keep_tiles_mib: float) -> None:
    """The graph that torch.compile captures, without its code generator."""
    eager, fused = (
        value_and_gradients(name, keep_tiles_mib=keep_tiles_mib, compiler=compiler) for compiler in (None, "aot_eager")
    )
    for one, other in zip(eager, fused, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_one_graph_serves_tiles_of_all_sizes() -> None:
    counter = CompileCounter()
    for function in (exponentials_and_sums, weighted):
        counter.clear()
        run = torch.compile(function, dynamic=True, fullgraph=True, backend=counter)
        for rows, columns in ((5, 7), (9, 4), (16, 33)):
            tile = torch.randn(rows, columns)
            if function is weighted:
                run(tile, torch.randn(rows), torch.randn(columns), None, None, torch.randn(rows), None)
            else:
                run(tile, torch.float32, None, None, None, None)
        assert counter.frame_count == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_kernels_on_a_gpu_have_the_values_of_the_cpu(name: str) -> None:
    expected = value_and_gradients(name)
    for one, other in zip(expected, value_and_gradients(name, "cuda", compiler="inductor"), strict=True):
        torch.testing.assert_close(one, other.cpu(), atol=1e-10, rtol=1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiler", [None, "inductor"])
def test_float32_on_a_gpu_is_near_float64(compiler: str | None) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(2, 3000, 256, dtype=torch.float64), dim=-1)
    vectors[1] = torch.nn.functional.normalize(vectors[0] + vectors[1], dim=-1)
    found = []
    for dtype, device in ((torch.float64, "cpu"), (torch.float32, "cuda")):
        queries, documents = (x.to(device, dtype).requires_grad_() for x in vectors)
        value = Loss(compiler=compiler if device == "cuda" else None)(queries, documents)
        found.append([value.detach(), *torch.autograd.grad(value, (queries, documents))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other.double().cpu(), one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))
