"""A whole training step on a published checkpoint: the research code's embeddings, loss and gradients."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from checkpoints import ROOT
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from llave_hf import HardnessWeightedContrastiveLoss, LlaveModel
from llave_hf.checkpoints.llava_qwen.modeling import KEY_MAPPING
from llave_hf.data.samples import strip_marks
from llave_hf.training.tuning.parts import freeze_parts

FOLDER = ROOT / "tiny_2x2"
CASE = next(case for case in json.loads((FOLDER / "cases.json").read_text()) if case["id"] == "train_step")
TENSORS = load_file(FOLDER / "reference.safetensors")


def ours(published: str) -> str:
    """A published parameter name as ours."""
    pattern, target = next((p, t) for p, t in KEY_MAPPING.items() if re.match(p, published))
    return re.sub(pattern, target, published)


def embed(model: LlaveModel, processor: Any, side: str) -> torch.Tensor:
    texts = [strip_marks(pair["qry" if side == "qry" else "pos_text"]) for pair in CASE["pairs"]]
    paths = [pair[f"{side}_image_path"] for pair in CASE["pairs"]]
    images = [str(FOLDER / "inputs" / path) if path else None for path in paths]
    return model(**processor(text=texts, images=images)).embeddings


@pytest.mark.parametrize("key", sorted(CASE["results"]))
def test_embeddings_loss_and_gradients(key: str) -> None:
    alpha, scale = (float(value) for value in re.match(r"alpha(\d+)_scale(\d+)", key).groups())  # type: ignore[union-attr]
    model, processor = AutoModel.from_pretrained(FOLDER), AutoProcessor.from_pretrained(FOLDER)
    freeze_parts(model, ["vision_tower"])
    query, positive = embed(model, processor, "qry"), embed(model, processor, "pos")
    torch.testing.assert_close(query, TENSORS["train_step/qry_embedding"], atol=5e-6, rtol=0)
    torch.testing.assert_close(positive, TENSORS["train_step/pos_embedding"], atol=5e-6, rtol=0)

    loss = HardnessWeightedContrastiveLoss(temperature=1 / scale, hardness_strength=alpha)(query, positive)
    loss.backward()
    expected = CASE["results"][key]
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-4)

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    norms = {ours(name): norm for name, norm in expected["grad_norms"].items() if not name.startswith("lm_head")}
    assert norms.keys() == gradients.keys()
    for name, norm in norms.items():
        found = gradients[name]
        assert (found is None) == (norm is None), name
        assert found is None or float(found.norm()) == pytest.approx(norm, rel=1e-4), name
    prefix = f"train_step/{key}/grad/"
    whole = {ours(k.removeprefix(prefix)): value for k, value in TENSORS.items() if k.startswith(prefix)}
    assert len(whole) == 7
    for name, value in whole.items():
        found = gradients[name]
        assert found is not None
        assert float((found - value).abs().max() / value.abs().max()) <= 1e-4, name
