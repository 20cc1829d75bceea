from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import checkpoint_activations, picture, pictures, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModel, LlavaOnevisionForConditionalGeneration, LlavaOnevisionModel

from llave_hf import LlaveConfig, LlaveModel, LlaveModelOutput, LlaveProcessor

Tiny = tuple[LlaveModel, LlaveProcessor]
Sample = tuple[str, list[Any], Any]  # text, images, video


def inputs_of(processor: LlaveProcessor, samples: list[Sample], **options: Any) -> dict[str, Any]:
    texts, images, videos = zip(*samples, strict=True)
    return dict(processor(text=list(texts), images=list(images), videos=list(videos), **options))


def embed(model: LlaveModel, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).embeddings


MIXED: list[Sample] = [
    ("a dog", [], None),
    ("what?", [picture(56, 40)], None),
    ("", pictures([(28, 28), (90, 30)]), None),
    ("a clip of snow", [], pictures([(30, 20)] * 3)),
    ("both", [picture(20, 50)], pictures([(30, 20)] * 2)),
]


# ------------------------------------------------------------------------------------------------- the embedding


def test_output_is_normalised_float32(tiny: Tiny) -> None:
    model, processor = tiny
    with torch.no_grad():
        output = model(**inputs_of(processor, MIXED))
    assert type(output) is LlaveModelOutput
    assert output.embeddings.shape == (5, model.config.hidden_size)
    assert output.embeddings.dtype == torch.float32
    torch.testing.assert_close(output.embeddings.norm(dim=1), torch.ones(5))
    assert output.last_hidden_state.shape[:2] == inputs_of(processor, MIXED)["input_ids"].shape


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_attended_token_is_pooled(tiny: Tiny, side: str) -> None:
    model, processor = tiny
    inputs = inputs_of(processor, MIXED, padding_side=side)
    with torch.no_grad():
        output = model(**inputs)
    for row, mask in enumerate(inputs["attention_mask"].tolist()):
        last = max(index for index, attended in enumerate(mask) if attended)
        hidden = output.last_hidden_state[row, last]
        torch.testing.assert_close(output.embeddings[row], hidden / hidden.norm())


def test_pool_under_any_mask() -> None:
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    model = object.__new__(LlaveModel)
    torch.nn.Module.__init__(model)
    model.config = LlaveConfig(normalize=False)
    for mask, expected in (
        ([[1, 1, 0], [0, 0, 1]], [[2.0, 3.0], [10.0, 11.0]]),
        ([[1, 1, 1], [1, 0, 0]], [[4, 5], [6, 7]]),
    ):
        assert model.pool(hidden, torch.tensor(mask)).tolist() == expected


def test_without_normalisation_the_hidden_state_itself(tiny: Tiny) -> None:
    model, processor = tiny
    raw = LlaveModel(LlaveConfig(model.config.backbone_config, normalize=False), backbone=model.backbone).eval()
    inputs = inputs_of(processor, MIXED)
    embeddings = embed(raw, inputs)
    assert (embeddings.norm(dim=1) - 1).abs().min() > 1e-3
    torch.testing.assert_close(torch.nn.functional.normalize(embeddings, dim=1), embed(model, inputs))


# ------------------------------------------------------------------------------------------------ batch invariance

sizes = st.tuples(st.integers(2, 120), st.integers(2, 120))
modes = st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "P+transparency"])


@st.composite
def an_image(draw: st.DrawFn) -> Any:
    mode = draw(modes)
    image = picture(*draw(sizes), seed=draw(st.integers(0, 9)), mode="L" if mode == "I;16" else mode.split("+")[0])
    if mode == "I;16":
        image = image.convert("I").convert("I;16")
    if mode == "P+transparency":
        image.info["transparency"] = 3
    return image


@st.composite
def a_sample(draw: st.DrawFn) -> Sample:
    text = draw(st.text(st.sampled_from("abc \n雪<image>|"), max_size=30))
    images = draw(st.lists(an_image(), max_size=3))
    video = draw(st.none() | st.lists(an_image(), min_size=1, max_size=4))
    return text, images, video


@given(
    st.lists(a_sample(), min_size=2, max_size=6), st.randoms(use_true_random=False), st.sampled_from(["left", "right"])
)
@settings(max_examples=40)
def test_an_embedding_does_not_depend_on_its_batch(tiny: Tiny, samples: list[Sample], random: Any, side: str) -> None:
    model, processor = tiny
    alone = torch.cat([embed(model, inputs_of(processor, [sample])) for sample in samples])
    order = random.sample(range(len(samples)), len(samples))
    together = embed(model, inputs_of(processor, [samples[index] for index in order], padding_side=side))
    torch.testing.assert_close(together, alone[order], atol=1e-6, rtol=0)


def test_order_of_images_matters(tiny: Tiny) -> None:
    model, processor = tiny
    one, two = pictures([(40, 30), (30, 40)])
    vectors = embed(model, inputs_of(processor, [("", [one, two], None), ("", [two, one], None)]))
    assert (vectors[0] - vectors[1]).abs().max() > 1e-5


def test_micro_batches_are_separate_forwards_in_order(tiny: Tiny) -> None:
    model, processor = tiny
    parts = [inputs_of(processor, MIXED[:2]), inputs_of(processor, MIXED[2:3]), inputs_of(processor, MIXED[3:])]
    with torch.no_grad():
        output = model(micro_batches=parts)
    assert output.last_hidden_state is None
    assert torch.equal(output.embeddings, torch.cat([embed(model, part) for part in parts]))


def test_a_tuple_on_request(tiny: Tiny) -> None:
    model, processor = tiny
    inputs = inputs_of(processor, MIXED[:1])
    with torch.no_grad():
        embeddings, hidden = model(**inputs, return_dict=False)
    assert torch.equal(embeddings, embed(model, inputs))
    assert hidden.ndim == 3


# -------------------------------------------------------------------------------------------------------- errors


def test_wrong_inputs_are_refused(tiny: Tiny) -> None:
    model, processor = tiny
    image, video = inputs_of(processor, MIXED[1:2]), inputs_of(processor, MIXED[3:4])
    text = inputs_of(processor, MIXED[:1])
    without = {name: value for name, value in image.items() if not name.startswith(("pixel", "image"))}
    for inputs, kind, error in (
        ({}, ValueError, "no input_ids"),
        ({"micro_batches": [text], **text}, ValueError, "both micro_batches and other inputs"),
        ({**text, "token_type_ids": text["input_ids"]}, TypeError, "does not know: token_type_ids"),
        (without, ValueError, r"hold \d+ image tokens but the images give 0 features"),
        (
            {**image, "input_ids": image["input_ids"][:, 40:], "attention_mask": None},
            ValueError,
            "load both from the same",
        ),
        (
            {**text, **{k: v for k, v in image.items() if "image" in k or "pixel" in k}},
            ValueError,
            "hold 0 image tokens",
        ),
        ({k: v for k, v in image.items() if k != "image_sizes"}, ValueError, "pixel_values without image_sizes"),
        ({k: v for k, v in video.items() if k != "video_num_frames"}, ValueError, "without video_num_frames"),
    ):
        with pytest.raises(kind, match=error):
            model(**inputs)


def test_a_processor_with_other_newlines_is_noticed(tiny: Tiny) -> None:
    model, _ = tiny
    _, other = tiny_model(processor={"video_newline": "grid"})
    with pytest.raises(ValueError, match=r"model and processor disagree on .* newlines"):
        model(**inputs_of(other, MIXED[3:4]))


# ------------------------------------------------------------------------------------------------------- training


def _gradients(model: LlaveModel, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    target = torch.linspace(-1, 1, model.config.hidden_size)
    (model(**inputs).embeddings @ target).pow(2).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("side", ["left", "right"])
def test_gradients_reach_every_used_parameter(side: str) -> None:
    model, processor = tiny_model()
    gradients = _gradients(model.train(), inputs_of(processor, MIXED, padding_side=side))
    without = {name for name, _ in model.named_parameters()} - set(gradients)
    assert without == {f"backbone.vision_tower.post_layernorm.{kind}" for kind in ("weight", "bias")}
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0 or name.endswith("k_proj.bias"), name


def test_micro_batches_give_the_gradients_of_one_batch() -> None:
    model, processor = tiny_model()
    whole = _gradients(model, inputs_of(processor, MIXED))
    parts = _gradients(model, {"micro_batches": [inputs_of(processor, MIXED[:2]), inputs_of(processor, MIXED[2:])]})
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-5, rtol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model, processor = tiny_model()
    model.train()
    inputs = inputs_of(processor, MIXED)
    plain = _gradients(model, inputs)
    checkpoint_activations(model)
    calls: list[int] = []
    for layer in model.backbone.language_model.layers:
        layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
    checkpointed = _gradients(model, inputs)
    assert len(calls) == 2 * len(model.backbone.language_model.layers)  # once forward, once again backward
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_bfloat16_works_and_returns_float32() -> None:
    model, processor = tiny_model()
    inputs = inputs_of(processor, MIXED)
    exact = embed(model, inputs)
    rounded = embed(model.to(torch.bfloat16), inputs)
    assert rounded.dtype == torch.float32
    assert (exact * rounded).sum(1).min() > 0.99


def test_autocast_works(tiny: Tiny) -> None:
    model, processor = tiny
    inputs = inputs_of(processor, MIXED)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = embed(model, inputs)
    assert rounded.dtype == torch.float32
    assert (embed(model, inputs) * rounded).sum(1).min() > 0.99


# ---------------------------------------------------------------------------------------------- saving and opening


@pytest.mark.parametrize("kind", ["base", "ForConditionalGeneration"])
def test_a_plain_backbone_becomes_an_embedding_model(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    model, processor = tiny
    if kind == "base":
        model.backbone.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [LlavaOnevisionModel.__name__]
    else:
        source = LlavaOnevisionForConditionalGeneration(model.config.backbone_config)
        source.model.load_state_dict(model.backbone.state_dict())
        source.save_pretrained(tmp_path)
    for opened in (
        LlaveModel.from_backbone(tmp_path, video_newline="one_token"),
        LlaveModel.from_pretrained(tmp_path),
    ):
        state = opened.state_dict()
        assert not [name for name in state if "lm_head" in name]
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        inputs = inputs_of(processor, MIXED)
        assert torch.equal(embed(opened.eval(), inputs), embed(model, inputs))
        for part in (opened.backbone, opened.backbone.language_model, opened.backbone.vision_tower):
            assert part.config._attn_implementation == "sdpa"
    assert LlaveModel.from_backbone(tmp_path, normalize=False).config.normalize is False


def test_a_saved_model_opens_with_the_same_weights(tiny: Tiny, tmp_path: Path) -> None:
    model, _ = tiny
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    for opened in (AutoModel.from_pretrained(tmp_path), LlaveModel.from_pretrained(tmp_path)):
        assert type(opened) is LlaveModel
        assert not opened.training
        assert all(torch.equal(value, opened.state_dict()[name]) for name, value in model.state_dict().items())


def test_dtype_and_attention_reach_the_backbone(tiny: Tiny, tmp_path: Path) -> None:
    model, _ = tiny
    model.save_pretrained(tmp_path)
    opened = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert {value.dtype for value in opened.parameters()} == {torch.bfloat16}
    assert opened.backbone.language_model.config._attn_implementation == "eager"
    opened.save_pretrained(tmp_path / "half")
    assert AutoModel.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_an_unsupported_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    for opened in (LlaveModel.from_backbone, LlaveModel.from_pretrained):
        with pytest.raises(ValueError, match=r"is a 'bert' model, which is no backbone.*use one of llava_onevision"):
            opened(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "weights.pkl"])
@pytest.mark.parametrize("plain", [False, True], ids=["llave", "backbone"])
def test_pickled_weights_are_refused(tiny: Tiny, tmp_path: Path, name: str, plain: bool) -> None:
    model = tiny[0].backbone if plain else tiny[0]
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / name)
    openers = [LlaveModel.from_pretrained, *([LlaveModel.from_backbone] if plain else [AutoModel.from_pretrained])]
    for opener in openers:
        with pytest.raises(ValueError, match=rf"only as pickles \({name}\).*convert them to model\.safetensors"):
            opener(tmp_path)
        with pytest.raises(ValueError, match="only as pickles"):
            opener(tmp_path, use_safetensors=False)


def test_a_pickle_beside_safetensors_is_not_read(tiny: Tiny, tmp_path: Path) -> None:
    tiny[0].save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert AutoModel.from_pretrained(tmp_path, use_safetensors=False) is not None


def test_a_folder_without_weights_says_so(tiny: Tiny, tmp_path: Path) -> None:
    tiny[0].save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(tmp_path)


def test_autocast_around_forward_ends_with_it(tiny: tuple[LlaveModel, LlaveProcessor]) -> None:
    """accelerate wraps forward in one autocast object; entered twice, it would stay on."""
    model, processor = tiny
    made = dict(processor(text=["a dog"]))
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)  # type: ignore[method-assign]
    try:
        model(micro_batches=[made, made])
        assert not torch.is_autocast_enabled("cpu")
    finally:
        del model.forward
        torch.set_autocast_enabled("cpu", False)
