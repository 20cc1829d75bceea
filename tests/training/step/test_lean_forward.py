"""What a step leaves out of the language model changes no embedding and no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backbones import KINDS, SHARING, save_backbone
from helpers import checkpoint_activations, pictures
from step_helpers import furthest, gradients_of, to_double

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.training.step.lean_forward import LeanForward

WORDS = ["a dog", "a dog in the snow", "two cats on a mat", "nothing", "a house"]


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LlaveModel, Any]:
    folder = save_backbone(tmp_path_factory.mktemp(request.param), request.param)
    model = to_double(LlaveModel.from_pretrained(folder)).train()
    return model, LlaveProcessor.from_pretrained(folder)


def batch_of(processor: Any, kind: str) -> dict[str, Any]:
    shown = None if kind == "texts" else [[image] for image in pictures([(28, 28), (40, 28), (28, 50)] * 2)[:5]]
    instruction = "\n" if kind == "pictures" else "Find the picture that shows this: "
    made = dict(processor(text=[instruction + words for words in WORDS], images=shown))
    return {n: v.double() if v.is_floating_point() else v for n, v in made.items()}


def run(model: LlaveModel, lean: LeanForward, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any], list[int]]:
    """Embeddings, gradients, and how many tokens went through the decoder's first layer."""
    tokens: list[int] = []
    handle = model.backbone.language_model.layers[0].register_forward_pre_hook(
        lambda layer, args: tokens.append(args[0].shape[:2].numel())
    )
    model.zero_grad()
    with lean.of_micro_batches([batch]) as inputs:
        embeddings = model(micro_batches=inputs).embeddings
        weights = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        (embeddings * weights).sum().backward()
    handle.remove()
    return embeddings.detach(), gradients_of(model), tokens


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_embeddings_and_gradients_are_those_of_the_whole(opened: tuple[LlaveModel, Any], kind: str) -> None:
    model, processor = opened
    batch = batch_of(processor, kind)
    expected, gradients, tokens = run(model, LeanForward(), batch)
    lean = LeanForward(model)
    run(model, lean, batch)  # tries both ways
    found, lean_gradients, lean_tokens = run(model, lean, batch)
    backbone = model.config.backbone_config.model_type
    allowed = 1e-6 if backbone == "qwen3_5" else 1e-12  # linear attention computes in float32
    torch.testing.assert_close(found, expected, rtol=allowed, atol=allowed)
    assert lean_gradients.keys() == gradients.keys()
    assert furthest(lean_gradients, gradients) < allowed
    assert tokens == [batch["input_ids"].numel()]
    if backbone not in SHARING:
        assert lean_tokens == tokens
    elif kind == "texts":
        shared, rest = lean_tokens
        assert shared >= 8
        assert rest == tokens[0] - shared * len(WORDS)
    assert not model.backbone.language_model._forward_pre_hooks


@pytest.mark.parametrize("reason", ["dropout", "checkpoints", "few rows", "short"])
def test_nothing_is_shared_where_it_would_be_wrong_or_dear(opened: tuple[LlaveModel, Any], reason: str) -> None:
    model, processor = opened
    decoder = model.backbone.language_model
    batch = batch_of(processor, "texts")
    attention = next(layer.self_attn for layer in decoder.layers if hasattr(layer, "self_attn"))
    before = attention.attention_dropout
    try:
        if reason == "dropout":
            attention.attention_dropout = 0.1
        elif reason == "checkpoints":
            checkpoint_activations(model)
        elif reason == "few rows":
            batch = {name: value[:3] for name, value in batch.items()}
        else:
            batch = dict(processor(text=[f"{words} " * 80 for words in WORDS]))
        *_, tokens = run(model, LeanForward(model), batch)
        assert set(tokens) == {batch["input_ids"].numel()}
    finally:
        attention.attention_dropout = before
        checkpoint_activations(model, on=False)
