"""Each backbone becomes an embedding model whose inputs are those of transformers' own processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import KINDS, TIMED, save_backbone
from helpers import picture, pictures, write_video
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.checkpoints.initialisation import init_from_backbone
from llave_hf.model.backbones_llave import BACKBONES
from llave_hf.training.tuning.parts import freeze_parts, part_parameters

QWEN = [kind for kind in KINDS if kind != "llava_onevision"]


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A backbone folder, the embedding model that `init` made of it, opened."""
    root = tmp_path_factory.mktemp(request.param)
    backbone = save_backbone(root / "backbone", request.param)
    line = init_from_backbone(backbone, root / "model")
    model, processor = AutoModel.from_pretrained(root / "model"), AutoProcessor.from_pretrained(root / "model")
    return {
        "kind": request.param,
        "backbone": backbone,
        "folder": root / "model",
        "line": line,
        "model": model.eval(),
        "processor": processor,
    }


def samples() -> list[tuple[str, list[Any] | None, list[Any] | None]]:
    """(text, images, frames): every kind of input, sizes and lengths unequal."""
    return [
        ("a dog", None, None),
        ("What is in the image?", [picture(40, 30)], None),
        ("", [picture(60, 20, seed=1), picture(20, 50, seed=2)], None),
        ("clip", None, pictures([(32, 24)] * 3)),
        ("", None, pictures([(24, 32)] * 4)),
        ("x", [picture(10, 10, seed=3)], pictures([(20, 20)])),
        ("one two three four five " * 4, None, None),
    ]


def embed(opened: dict[str, Any], rows: list[Any], **options: Any) -> torch.Tensor:
    texts, images, videos = (list(column) for column in zip(*rows, strict=True))
    with torch.no_grad():
        made = opened["processor"](text=texts, images=images, videos=videos, **options)
        return opened["model"](**made).embeddings


def test_init_makes_a_folder_of_the_backbones_kind(opened: dict[str, Any]) -> None:
    assert isinstance(opened["model"], LlaveModel)
    assert isinstance(opened["processor"], LlaveProcessor)
    assert opened["model"].config.backbone_config.model_type == opened["kind"] == opened["processor"].backbone
    assert f"{opened['kind']}, " in opened["line"]
    assert (opened["folder"] / "fingerprint.json").exists()
    with pytest.raises(ValueError, match="is not empty"):
        init_from_backbone(opened["backbone"], opened["folder"])


def test_the_weights_are_the_backbones(opened: dict[str, Any]) -> None:
    backbone = AutoModel.from_pretrained(opened["backbone"])
    found = opened["model"].backbone.state_dict()
    assert found.keys() == backbone.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in backbone.state_dict().items())
    direct = LlaveModel.from_pretrained(opened["backbone"])
    assert all(torch.equal(found[name], value) for name, value in direct.backbone.state_dict().items())


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_vector_does_not_depend_on_its_batch(opened: dict[str, Any], side: str) -> None:
    alone = torch.cat([embed(opened, [row]) for row in samples()])
    together = embed(opened, samples(), padding_side=side)
    assert float((together - alone).abs().max()) <= 1e-6
    assert torch.allclose(alone.norm(dim=1), torch.ones(len(alone)), atol=1e-6)
    assert float((alone @ alone.T - torch.eye(len(alone))).max()) < 0.999  # seven inputs, seven vectors


def test_pictures_and_their_order_count(opened: dict[str, Any]) -> None:
    first, second = picture(40, 30, seed=5), picture(40, 30, seed=6)
    rows = [("", [first], None), ("", [second], None), ("", [first, second], None), ("", [second, first], None)]
    vectors = embed(opened, rows)
    distances = torch.cdist(vectors, vectors) + 10 * torch.eye(4)
    assert float(distances.min()) > 1e-4


def test_sentence_transformers_gives_the_same_vectors(opened: dict[str, Any]) -> None:
    transformer = SentenceTransformer(str(opened["folder"]), device="cpu")
    for text, images, frames in samples():
        entry = {
            key: value
            for key, value in {"text": text, "image": images, "video": frames}.items()
            if value not in (None, "")
        }
        encoded = transformer.encode([entry if set(entry) != {"text"} else text])
        assert np.abs(encoded - embed(opened, [(text, images, frames)]).numpy()).max() <= 1e-6


def test_a_video_file_carries_its_times(opened: dict[str, Any], tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", levels=range(0, 200, 10))  # two seconds
    made = opened["processor"](videos=[str(path)], num_frames=4)
    if opened["kind"] == "qwen2_5_vl":  # frames 0, 6, 12, 19 of 10 a second, in pairs
        assert made["second_per_grid_ts"].tolist() == pytest.approx([1.9 / 3 * 2])
    if opened["kind"] in TIMED:
        text = opened["processor"].tokenizer.decode(made["input_ids"][0])
        assert "<0.3 seconds>" in text
        assert f"<{(1.2 + 1.9) / 2:.1f} seconds>" in text  # of the second pair, frames 12 and 19 at 10 a second
    with torch.no_grad():
        assert opened["model"](**made).embeddings.isfinite().all()


def test_long_text_loses_its_end_and_nothing_else(opened: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    processor = opened["processor"]
    suffix = processor(text=["a"])["input_ids"][0, -7:].tolist()
    made = processor(text=["snow " * 200], images=[picture(40, 30)], max_length=180)
    assert made["input_ids"].shape == (1, 180)
    assert made["input_ids"][0, -7:].tolist() == suffix
    assert "tokens of its text were left out" in caplog.text


def test_parts_are_disjoint_and_whole(opened: dict[str, Any]) -> None:
    model = opened["model"]
    parts = [{id(p) for p in part_parameters(model, name)} for name in ("vision_tower", "projector", "language_model")]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(list(model.parameters()))


def test_frozen_parts_do_not_move(opened: dict[str, Any]) -> None:
    model = LlaveModel.from_pretrained(opened["folder"])
    freeze_parts(model, ["vision_tower"])
    made = opened["processor"](text=["a", "b"], images=[picture(40, 30), picture(30, 30, seed=1)])
    model(**made).embeddings[:, 0].sum().backward()
    assert all(parameter.grad is None for parameter in part_parameters(model, "vision_tower"))
    assert any(parameter.grad is not None for parameter in part_parameters(model, "projector"))


def test_every_backbone_is_tested() -> None:
    assert set(BACKBONES) == set(KINDS)


# ------------------------------------------------------------------------------- beside transformers' own processors


def stock_inputs(folder: Path, text: str, images: list[Any] | None, frames: list[Any] | None) -> dict[str, Any]:
    """What transformers' own processor makes of a user turn."""
    stock = AutoProcessor.from_pretrained(folder)
    media = [{"type": "image"} for _ in images or []] + ([{"type": "video"}] if frames else [])
    content = [*media, {"type": "text", "text": text}]
    prompt = stock.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    options: dict[str, Any] = {"images": images} if images else {}
    if frames:
        metadata = {"fps": 2.0, "frames_indices": list(range(len(frames))), "total_num_frames": len(frames)}
        options["videos"] = [np.stack([np.asarray(frame) for frame in frames])]
        options["videos_kwargs"] = {"do_sample_frames": False, "video_metadata": [metadata]}
    return stock(text=[prompt], return_tensors="pt", **options)


@pytest.mark.parametrize("kind", QWEN)
def test_qwen_inputs_equal_the_stock_processors(kind: str, tmp_path: Path) -> None:
    folder = save_backbone(tmp_path, kind)
    processor = LlaveProcessor.from_pretrained(folder)
    for text, images, frames in samples():
        if images and frames:  # LLaVE puts images before videos, a user of Qwen where he likes
            continue
        expected = stock_inputs(folder, text, images, frames)
        made = processor(text=[text], images=[images], videos=[frames])
        ids = expected["input_ids"][0].tolist()
        if kind in TIMED and frames:  # without the markers that transformers 5.23 puts around the whole video
            start, end = processor.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
            ids.remove(start)
            del ids[len(ids) - 1 - ids[::-1].index(end)]
        assert made["input_ids"][0, : len(ids)].tolist() == ids
        for name in ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"):
            assert (name in expected) == (name in made)
            assert name not in made or torch.equal(made[name], expected[name])
        if "second_per_grid_ts" in made:
            assert made["second_per_grid_ts"].tolist() == pytest.approx([1.0])  # two frames of 0.5 seconds


@pytest.mark.parametrize("kind", QWEN)
def test_qwen_vectors_are_the_stock_models_last_token(kind: str, tmp_path: Path) -> None:
    folder = save_backbone(tmp_path, kind)
    model, processor = LlaveModel.from_pretrained(folder).eval(), LlaveProcessor.from_pretrained(folder)
    stock = AutoModel.from_pretrained(folder).eval()
    made = processor(text=["What is it?"], images=[[picture(40, 30), picture(30, 60, seed=1)]])
    types = (made["input_ids"] == processor.image_token_id).int()
    with torch.no_grad():
        hidden = stock(**made, mm_token_type_ids=types).last_hidden_state[:, -1]
        found = model(**made).embeddings
    assert torch.allclose(found, torch.nn.functional.normalize(hidden, dim=-1), atol=1e-6)


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_model_that_is_no_backbone_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    for opener in (LlaveModel, LlaveProcessor):
        with pytest.raises(ValueError, match=r"is a 'bert' model.*llava_onevision, qwen2_vl, .*, qwen3_vl, qwen3_5"):
            opener.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", QWEN)
def test_missing_pixels_are_named(kind: str, tmp_path: Path) -> None:
    folder = save_backbone(tmp_path, kind)
    model, processor = LlaveModel.from_pretrained(folder), LlaveProcessor.from_pretrained(folder)
    made = dict(processor(images=[picture(40, 30)]))
    with pytest.raises(ValueError, match="pixel_values without image_grid_thw"):
        model(**{key: value for key, value in made.items() if key != "image_grid_thw"})
    with pytest.raises(ValueError, match="no pixels were given"):
        model(input_ids=made["input_ids"])
    with pytest.raises(TypeError, match="does not know: image_sizes"):
        model(**made, image_sizes=torch.tensor([[1, 1]]))


def test_a_patch_size_that_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path, "qwen2_vl")
    path = folder / "processor_config.json"
    path.write_text(path.read_text().replace('"patch_size": 4', '"patch_size": 8'))
    with pytest.raises(ValueError, match="patch_size 8 but its vision tower has 4"):
        LlaveProcessor.from_pretrained(folder)


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_trains_a_backbone(kind: str, tmp_path: Path) -> None:
    from helpers import write_recipe, write_training_data

    from llave_hf.training.recipe.recipe import load_recipe
    from llave_hf.training.run import train

    backbone = save_backbone(tmp_path / "backbone", kind)
    write_training_data(tmp_path)
    changes = {"model": str(backbone), "from_scratch": None, "processor": {"max_length": 500}, "max_steps": 2}
    if kind == "llava_onevision":
        changes["processor"] = {"image_grid_pinpoints": [[28, 28], [56, 28]], "video_newline": "grid"}
    train(load_recipe(write_recipe(tmp_path, save_steps=2, **changes)))
    before = LlaveModel.from_pretrained(backbone).state_dict()
    model, processor = AutoModel.from_pretrained(tmp_path / "out"), AutoProcessor.from_pretrained(tmp_path / "out")
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert any("language_model" in name for name in moved)
    assert any("visual" in name or "vision_tower" in name for name in moved)
    if kind == "llava_onevision":
        assert model.config.video_newline == "grid"
        assert model.config.backbone_config.image_grid_pinpoints == [[28, 28], [28, 56]]
    else:
        assert processor.max_length == 500
    vectors = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(["a", {"image": picture(50, 20)}])
    assert np.isfinite(vectors).all()
