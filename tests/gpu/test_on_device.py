"""What a GPU does is what the CPU does: encoding, threads, mixed precision, kept graphs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import pictures, tiny_model
from step_helpers import furthest, make_pairs, make_trainer, run_steps, write_media

from llave_hf import LlaveSentenceTransformer

pytestmark = pytest.mark.gpu

COUNT = 40  # inputs: enough for what is left out of a forward to be tried, and then used


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    model, processor = tiny_model()
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media") / "root")


def inputs(seed: int = 0) -> list[Any]:
    texts = [f"text number {seed} {number} of a list " * (1 + number % 3) for number in range(COUNT)]
    shown = pictures([(30 + number, 40) for number in range(COUNT // 2)], seed=100 * seed)
    return [*texts, *shown, *({"text": text, "image": image} for text, image in zip(texts, shown, strict=False))]


def encoder(folder: Path, device: str, **model_kwargs: Any) -> LlaveSentenceTransformer:
    return LlaveSentenceTransformer(str(folder), device=device, model_kwargs=model_kwargs)


def test_vectors_are_those_of_the_cpu(folder: Path, device: str) -> None:
    expected = encoder(folder, "cpu").encode(inputs())
    ours = encoder(folder, device)
    for _ in range(2):  # with its trials, and after them
        np.testing.assert_allclose(ours.encode(inputs()), expected, atol=1e-5)


def test_vectors_in_bfloat16_are_near_those_of_float32(folder: Path, device: str) -> None:
    expected = encoder(folder, "cpu").encode(inputs())
    found = encoder(folder, device, dtype=torch.bfloat16).encode(inputs())
    assert np.isfinite(found).all()
    assert (found * expected).sum(1).min() > 0.99


def test_threads_get_their_own_vectors(folder: Path, device: str) -> None:
    ours = encoder(folder, device)
    expected = [encoder(folder, "cpu").encode(inputs(seed)) for seed in range(4)]
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: ours.encode(inputs(n), num_workers=1)})) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, vectors in enumerate(expected):
        np.testing.assert_allclose(found[number], vectors, atol=1e-5)


def test_a_step_under_autocast_is_finite_and_near_float32(root: Path, device: str) -> None:
    rows = make_pairs(root, 8, kinds=("mixed", "mixed", "video"))
    where = {"use_cpu": device == "cpu", "mini_batch_size": 2, "hardness_strength": 1.0, "temperature": 0.5}
    found = []
    for bf16 in (False, True):
        trainer = make_trainer(root, bf16=bf16, **where)
        found.append(run_steps(trainer, [rows], model=trainer.accelerator.prepare_model(trainer.model)))
    (losses, expected), (halved_losses, gradients) = found
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())
    assert halved_losses == pytest.approx(losses, rel=0.01)
    assert 0 < furthest(gradients, expected) < 0.2


@pytest.mark.parametrize("gib", [0.0, 0.0015, 1.0])
@pytest.mark.parametrize("frozen", [False, True])
def test_cached_steps_with_kept_graphs_have_the_gradients_of_the_whole_batch(
    root: Path, device: str, gib: float, frozen: bool
) -> None:
    """Pixels travel as bytes and are normalised on the device; dropout draws the device's numbers twice.

    Without videos: whole batches and cached ones run kinds in different orders, and would draw different numbers.
    """
    rows = make_pairs(root, 8)
    found = []
    for caching in (False, True):
        trainer = make_trainer(
            root,
            double=True,
            dropout=0.5,
            use_cpu=device == "cpu",
            gradient_caching=caching,
            mini_batch_size=2,
            graph_memory_gb=gib,
            freeze=["vision_tower"] if frozen else [],
        )
        torch.manual_seed(0)
        found.append((*run_steps(trainer, [rows]), torch.rand(1, device=device).item()))
        assert next(trainer.model.parameters()).device.type == device
    (losses, expected, after), (cached_losses, gradients, cached_after) = found
    assert cached_losses == pytest.approx(losses, rel=1e-10)
    assert furthest(gradients, expected) < 1e-10
    assert cached_after == after
