"""Threads that share a model get their own vectors, to the bit what one thread gets."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import KINDS, save_backbone
from helpers import picture, pictures
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor

from llave_hf import LlaveModel, LlaveProcessor, LlaveSentenceTransformer

THREADS, CALLS = 8, 200

Encode = Callable[[list[Any]], np.ndarray]


@pytest.fixture(autouse=True)
def switching_often() -> Iterator[None]:
    """Between threads every ten microseconds, so that what they share is met half done; one core's work for each."""
    before, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-5)
    torch.set_num_threads(1)
    yield
    sys.setswitchinterval(before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return saved(tmp_path_factory.mktemp("llava"), "llava_onevision")


def saved(root: Path, kind: str) -> Path:
    backbone = save_backbone(root / "backbone", kind)
    LlaveModel.from_pretrained(backbone).save_pretrained(root / "model")
    LlaveProcessor.from_pretrained(backbone).save_pretrained(root / "model")
    return root / "model"


def inputs_of(thread: int) -> list[list[Any]]:
    """What a thread asks for, again and again: texts, pictures, a clip, and all of them in one list."""
    texts = [f"text {number} of thread {thread} " * (1 + number % 3) for number in range(4)]
    shown: list[Any] = [
        picture(28 + 4 * thread, 30, seed=thread),
        {"image": picture(40, 28, seed=thread), "text": "what"},
    ]
    clip = [{"video": pictures([(28, 28)] * 2, seed=100 * thread), "text": "when"}]
    return [texts, shown, clip, [*texts[:2], *shown, *clip]]


def encoder_of(kind: str, folder: Path) -> Encode:
    if kind == "SentenceTransformer":
        stock = SentenceTransformer(str(folder), device="cpu")
        return lambda inputs: stock.encode(inputs, show_progress_bar=False)
    if kind == "LlaveSentenceTransformer":
        ours = LlaveSentenceTransformer(str(folder), device="cpu")
        return lambda inputs: ours.encode(inputs, show_progress_bar=False, num_workers=1)
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)

    def encode(inputs: list[Any]) -> np.ndarray:
        samples = [
            entry if isinstance(entry, dict) else {"text": entry} if isinstance(entry, str) else {"image": entry}
            for entry in inputs
        ]
        with torch.inference_mode():
            made = processor(
                text=[sample.get("text", "") for sample in samples],
                images=[sample.get("image") for sample in samples],
                videos=[sample.get("video") for sample in samples],
            )
            return model(**made).embeddings.numpy()

    return encode


def run_in_threads(work: Callable[[int], None], count: int) -> None:
    """Raises what a thread raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as error:  # raised again below, in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["AutoModel", "SentenceTransformer", "LlaveSentenceTransformer"])
def test_eight_threads_get_what_one_gets(folder: Path, kind: str) -> None:
    encode = encoder_of(kind, folder)
    asked = [inputs_of(thread) for thread in range(THREADS)]
    for lists in asked[:1]:  # what is tried once per process is tried
        for _ in range(30):
            encode(lists[0])
    expected = [[encode(inputs) for inputs in lists] for lists in asked]
    assert len({vectors.tobytes() for lists in expected for vectors in lists}) == 4 * THREADS

    def work(thread: int) -> None:
        for call in range(CALLS):
            place = call % len(asked[thread])
            assert np.array_equal(encode(asked[thread][place]), expected[thread][place]), (thread, call)

    run_in_threads(work, THREADS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thread_that_waits_in_the_middle_gets_its_own_vectors(tmp_path: Path, kind: str) -> None:
    """One thread stops behind the vision tower's layers and in the language model while another runs."""
    model = AutoModel.from_pretrained(saved(tmp_path, kind)).eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    ready = [
        processor(text=["what", "which"], images=[[p] for p in pictures([(40, 28), (28, 40)], seed=10 * n)])
        for n in range(2)
    ]

    @torch.inference_mode()
    def embed(number: int) -> torch.Tensor:
        return model(**ready[number]).embeddings

    expected = [embed(0), embed(1)]
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    vision = model.backbone.vision_tower if hasattr(model.backbone, "vision_tower") else model.backbone.visual
    tower_layers = next(m for m in vision.modules() if isinstance(m, torch.nn.ModuleList))
    for module in (tower_layers[-1], model.backbone.language_model.layers[0]):
        behind, go = threading.Event(), threading.Event()
        found: dict[int, torch.Tensor] = {}

        def pause(*_: Any, behind: threading.Event = behind, go: threading.Event = go) -> None:
            if threading.current_thread().name == "waits":
                behind.set()
                assert go.wait(60)

        handle = module.register_forward_hook(pause)
        thread = threading.Thread(target=lambda found=found: found.update({0: embed(0)}), name="waits")
        thread.start()
        assert behind.wait(60)
        found[1] = embed(1)
        go.set()
        thread.join()
        handle.remove()
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_a_model_that_has_run_can_be_pickled_and_observed_once(folder: Path) -> None:
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    inputs = processor(text=["what"], images=[[picture(40, 28)]])
    with torch.inference_mode():
        expected = [model(**inputs).embeddings for _ in range(2)][1]
        layers = model.backbone.vision_tower.encoder.layers
        assert [len(layer._forward_hooks) for layer in layers] == [1] * len(layers)
        again = pickle.loads(pickle.dumps(model))
        assert torch.equal(again(**inputs).embeddings, expected)
        assert [len(layer._forward_hooks) for layer in again.backbone.vision_tower.encoder.layers] == [1] * len(layers)


def test_threads_that_encode_while_the_first_trial_runs(folder: Path) -> None:
    ours = LlaveSentenceTransformer(str(folder), device="cpu")
    texts = [f"text number {number} of a list " * (1 + number % 3) for number in range(40)]
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    found: dict[int, np.ndarray] = {}
    run_in_threads(lambda n: found.update({n: ours.encode(texts, num_workers=1)}), 4)
    for vectors in found.values():
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
