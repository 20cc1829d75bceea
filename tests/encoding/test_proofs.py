"""A shortcut that does not give what the plain forward gives is left out, and said to be."""

from __future__ import annotations

import copy
import inspect
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import KINDS, save_backbone
from helpers import pictures, tiny_model
from torch import nn

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.encoding.proofs import Proofs, difference, tolerance
from llave_hf.encoding.shared_prefix import BOTH, PRUNING, SHARING, Decoder
from llave_hf.training.step.lean_forward import LeanForward
from llave_hf.training.step.tower_memory import KEEPING, TowerMemory
from llave_hf.training.step.trial import embeddings_and_gradients

TEXTS = [f"text number {number} of a list " * (1 + number % 3) for number in range(40)]


class Foreign(nn.Module):
    """A decoder around another one, as some later release might have it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.layers = inner.layers
        self.config = inner.config

    def get_input_embeddings(self) -> nn.Module:
        return self.inner.get_input_embeddings()


class OtherSignature(Foreign):
    """Takes its cache by another name."""

    def forward(self, inputs_embeds: Any = None, attention_mask: Any = None, memory: Any = None, **rest: Any) -> Any:
        return self.inner(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **rest)


class OtherCache(Foreign):
    """Takes the cache and keeps something else in it than keys and values."""

    def forward(self, inputs_embeds: Any = None, attention_mask: Any = None, cache: Any = None, **rest: Any) -> Any:
        if cache is not None and not len(cache.layers):
            cache.layers = [type("State", (), {"keys": None, "values": None})() for _ in self.layers]
        return self.inner(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **rest)


class OtherPositions(Foreign):
    """Counts positions from the first token that it is given, in a shape of its own."""

    def forward(
        self,
        inputs_embeds: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        cache: Any = None,
        **rest: Any,
    ) -> Any:
        name = "cache" if "cache" in inspect.signature(self.inner.forward).parameters else "past_key_values"
        length = inputs_embeds.shape[1]
        positions = (
            torch.arange(length, device=inputs_embeds.device).view(1, 1, length).expand(3, len(inputs_embeds), length)
        )
        return self.inner(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=positions[0],
            **{name: cache},
            **rest,
        )


class OtherKind(Foreign):
    """Has another word for full attention."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.config = copy.deepcopy(inner.config)
        self.config.layer_types = ["causal_attention"] * len(inner.layers)

    def forward(self, *args: Any, cache: Any = None, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class OtherLayers(nn.Module):
    """Calls its layers by another name."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def get_input_embeddings(self) -> nn.Module:
        return self.inner.get_input_embeddings()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class Mixing(nn.Module):
    """A last block that reads more than the pooled token: the one before it too."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.inner(hidden + hidden.roll(1, dims=-2))


def foreign(kind: str) -> LlaveModel:
    model, _ = tiny_model()
    model = copy.deepcopy(model).eval()
    decoder = model.backbone.language_model
    kinds = {
        "signature": OtherSignature,
        "kind": OtherKind,
        "cache": OtherCache,
        "positions": OtherPositions,
        "layers": OtherLayers,
    }
    if kind == "block":
        decoder.layers[-1].mlp = Mixing(decoder.layers[-1].mlp)
    else:
        model.backbone.language_model = kinds[kind](decoder)
    return model


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "llave_hf.encoding.proofs"]


def plain(model: LlaveModel, processor: LlaveProcessor) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([model(**processor(text=[text])).embeddings for text in TEXTS]).numpy()


LEFT_OUT = {
    "signature": SHARING,
    "kind": SHARING,
    "cache": SHARING,
    "positions": SHARING,
    "block": PRUNING,
    "layers": BOTH,
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_a_foreign_decoder_is_run_as_it_is_and_one_line_says_so(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    processor = tiny_model()[1]
    model = foreign(kind)
    with caplog.at_level(logging.WARNING):
        found = [LlaveEncoder(model, processor).encode(TEXTS) for _ in range(2)]
    expected = plain(model, processor)
    for vectors in found:
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
    (line,) = lines(caplog)
    assert line.startswith(LEFT_OUT[kind])
    assert "with transformers" in line


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_training_falls_back_too(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    processor = tiny_model()[1]
    model = foreign(kind).train()
    batch = dict(processor(text=TEXTS[:6]))
    lean = LeanForward(model)
    with caplog.at_level(logging.WARNING), lean.of_micro_batches([batch]) as inputs:
        found = embeddings_and_gradients(model, inputs[0])
    expected = embeddings_and_gradients(model, batch)
    assert difference(expected, found, 1e-5) == ""
    assert [line.startswith(LEFT_OUT[kind]) for line in lines(caplog)] == [True]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_said_of_a_backbone_that_is_known(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_backbone(tmp_path, kind)
    model, processor = LlaveModel.from_pretrained(tmp_path).eval(), LlaveProcessor.from_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        LlaveEncoder(model, processor).encode(TEXTS)
        with LeanForward(model.train()).of_micro_batches([dict(processor(text=TEXTS[:6]))]):
            pass
    assert Proofs.of(model).known(PRUNING, frozenset({()}))
    assert not lines(caplog)


def test_a_wrong_gradient_is_noticed_where_the_embeddings_are_right(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As if a later cache detached what it keeps."""
    model, processor = tiny_model()
    model = copy.deepcopy(model).train()
    real = Decoder.run_prefix
    monkeypatch.setattr(
        Decoder, "run_prefix", lambda self, prefix: [(k.detach(), v.detach()) for k, v in real(self, prefix)]
    )
    batch = dict(processor(text=TEXTS[:6]))
    with caplog.at_level(logging.WARNING), LeanForward(model).of_micro_batches([batch]) as (inputs,):
        assert inputs["input_ids"].shape == batch["input_ids"].shape
    assert [line.startswith(SHARING) for line in lines(caplog)] == [True]


def test_a_tower_whose_layers_are_read_elsewhere_runs_twice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, processor = tiny_model()
    model = copy.deepcopy(model).train()
    model.backbone.vision_tower.requires_grad_(False)
    memory = TowerMemory.of(model, max_bytes=1e9)
    batch = dict(
        processor.normalised(dict(processor(text=["a", "b"], images=[[p] for p in pictures([(28, 28), (40, 28)])])))
    )
    assert memory.suits(model, batch)
    wrong = TowerMemory(memory.layers, {0}, 1e9)  # another layer than the one that is read
    other = copy.deepcopy(model)
    with caplog.at_level(logging.WARNING):
        assert not TowerMemory(dict(enumerate(other.backbone.vision_tower.encoder.layers)), wrong.read, 1e9).suits(
            other, batch
        )
    assert [line.startswith(KEEPING) for line in lines(caplog)] == [True]


def test_a_frozen_tower_is_kept_beside_a_language_model_of_another_form(caplog: pytest.LogCaptureFixture) -> None:
    processor = tiny_model()[1]
    model = foreign("layers").train()
    model.backbone.vision_tower.requires_grad_(False)
    batch = dict(
        processor.normalised(dict(processor(text=["a", "b"], images=[[p] for p in pictures([(28, 28), (40, 28)])])))
    )
    with caplog.at_level(logging.WARNING):
        assert TowerMemory.of(model, max_bytes=1e9).suits(model, batch)
    assert not lines(caplog)


def test_what_is_known_is_not_tried_again() -> None:
    model = nn.Linear(2, 2)
    tried: list[str] = []

    def results(name: str) -> list[torch.Tensor]:
        tried.append(name)
        return [torch.ones(2)]

    for _ in range(3):
        assert Proofs.of(model).holds("Nothing", "texts", lambda: results("plain"), lambda: results("short"))
    assert tried == ["plain", "short"]
    with pytest.raises(ZeroDivisionError):  # the inputs' own errors are not the shortcut's
        Proofs.of(model).holds("Nothing", "pictures", lambda: [1 / 0], lambda: results("short"))


def test_numbers_that_are_not_finite_prove_nothing(caplog: pytest.LogCaptureFixture) -> None:
    proofs, good, none = Proofs(torch.nn.Linear(1, 1)), [torch.ones(2)], [torch.full((2,), torch.nan)]
    assert not proofs.holds("Counting", "texts", lambda: none, lambda: none) and not proofs.known("Counting", "texts")
    assert proofs.holds("Counting", "texts", lambda: good, lambda: good) and proofs.known("Counting", "texts")
    assert not proofs.holds("Counting", "pictures", lambda: good, lambda: none)
    assert [record.getMessage()[:20] for record in caplog.records] == ["Counting is left out"]


def test_differences_and_tolerances() -> None:
    one = torch.tensor([3.0, 4.0])
    assert difference([one], [one * (1 + 1e-5)], 1e-4) == ""
    assert "differ by 0.1" in difference([one], [one * 1.1], 1e-4)
    assert "differ by nan" in difference([one], [one * float("nan")], 1e-4)
    assert "shape (1,), not (2,)" in difference([one], [one[:1]], 1e-4)
    assert "1 results for 2" in difference([one, one], [one], 1e-4)
    assert difference([one, one * 1e-9], [one, one * 2e-9], 1e-4) == ""  # on the scale of the largest
    assert tolerance(nn.Linear(1, 1)) == 1e-4
    assert tolerance(nn.Linear(1, 1).double()) == 1e-9
    assert tolerance(nn.Linear(1, 1).bfloat16()) == 0.1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tolerance(nn.Linear(1, 1)) == 0.1


def test_a_list_that_is_not_worth_a_trial_is_encoded_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llave_hf.encoding.lean_decoding.CHEAP_TRIAL", 0)
    model, processor = tiny_model()
    few = ["a dog", "a cat"]
    before = LlaveEncoder(model, processor).encode(few)
    assert not Proofs.of(model).known(PRUNING, frozenset({()}))
    LlaveEncoder(model, processor).encode(TEXTS)
    assert Proofs.of(model).known(PRUNING, frozenset({()}))
    assert np.array_equal(LlaveEncoder(model, processor).encode(few), before)
