"""Opening published checkpoints as they come: sharded, in half precision, tied, without vision weights, broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import ROOT, TOWER, changed, published
from helpers import picture
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoProcessor, SiglipVisionConfig, SiglipVisionModel

from llave_hf import LlaveConfig, LlaveModel, LlaveProcessor
from llave_hf.checkpoints.llava_qwen.configuration import LlavaQwenConfig, grids, to_llave_config
from llave_hf.checkpoints.llava_qwen.vision_towers import KNOWN_TOWERS, VisionTower

SMALL = ROOT / "tiny_6x6"


def embed(model: LlaveModel, processor: LlaveProcessor) -> torch.Tensor:
    with torch.no_grad():
        return model(**processor(text=["a dog", "What?"], images=[None, picture(90, 60)])).embeddings


def test_every_class_opens_the_folder() -> None:
    model, processor = published("tiny_2x2")
    assert type(model) is LlaveModel
    assert type(processor) is LlaveProcessor
    assert type(model.config) is LlaveConfig
    assert isinstance(AutoConfig.from_pretrained(ROOT / "tiny_2x2"), LlavaQwenConfig)
    direct = LlaveModel.from_pretrained(ROOT / "tiny_2x2"), LlaveProcessor.from_pretrained(ROOT / "tiny_2x2")
    assert torch.equal(embed(*direct), embed(model, processor))


def test_what_the_folder_leaves_out_is_supplied() -> None:
    _, processor = published("tiny_2x2")
    assert (processor.image_token_id, processor.video_token_id) == (512, 513)  # the tokenizer ends at 511
    assert (processor.image_mean, processor.image_std) == ([0.5] * 3, [0.5] * 3)
    assert processor.max_length == 4096
    assert processor.video_newline == "grid"
    chosen = AutoProcessor.from_pretrained(ROOT / "tiny_2x2", image_tiling="anyres_single", max_length=99)
    assert (chosen.image_tiling, chosen.max_length) == ("anyres_single", 99)


def test_saving_gives_the_native_layout(tmp_path: Path) -> None:
    model, processor = published("tiny_2x2")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llave"
    again = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert torch.equal(embed(*again), embed(model, processor))
    assert torch.allclose(
        torch.from_numpy(SentenceTransformer(str(tmp_path), device="cpu").encode(["a dog"])),
        embed(model, processor)[:1],
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_stay_as_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(dtype) for name, tensor in tensors.items()}

    def declare(fields: dict[str, Any]) -> None:
        fields["torch_dtype"] = str(dtype).removeprefix("torch.")

    folder = changed(tmp_path, config=declare, weights=halve)
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.dtype == dtype
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(model.backbone.image_newline, stored["model.image_newline"])
    assert torch.equal(model.backbone.language_model.norm.weight, stored["model.norm.weight"])
    vectors = embed(model, processor)
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-6)
    assert float((vectors - embed(*published("tiny_2x2"))).abs().max()) < 0.05
    full = AutoModel.from_pretrained(folder, dtype=torch.float32)
    assert full.dtype == torch.float32


def test_sharded_weights(tmp_path: Path) -> None:
    folder = changed(tmp_path, without=("model.safetensors",))
    tensors = load_file(ROOT / "tiny_2x2" / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, chosen in halves.items():
        save_file({name: tensors[name] for name in chosen}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, chosen in halves.items() for name in chosen}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    opened = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert torch.equal(embed(*opened), embed(*published("tiny_2x2")))


def test_a_tied_head_makes_no_difference(tmp_path: Path) -> None:
    def tie(fields: dict[str, Any]) -> None:
        fields["tie_word_embeddings"] = True

    def no_head(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in tensors.items() if not name.startswith("lm_head")}

    folder = changed(tmp_path, config=tie, weights=no_head)
    opened = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert torch.equal(embed(*opened), embed(*published("tiny_2x2")))


# ------------------------------------------------------------------------------------------------ the vision tower


def siglip(folder: Path, *, hidden_size: int = 48) -> Path:
    """A whole SigLIP tower, one layer more than the checkpoint's and with a head, whose first layers are its own."""
    model, _ = published("tiny_2x2")
    used = model.backbone.vision_tower
    fields = {**used.config.to_dict(), "num_hidden_layers": 4, "vision_use_head": True, "hidden_size": hidden_size}
    tower = SiglipVisionModel(SiglipVisionConfig(**fields))
    if hidden_size == used.config.hidden_size:
        tower.load_state_dict(used.state_dict(), strict=False)
    tower.save_pretrained(folder)
    return folder


def without_vision(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(TOWER)}


def test_a_checkpoint_without_vision_weights_takes_them_from_siglip(tmp_path: Path) -> None:
    tower = siglip(tmp_path / "siglip")
    folder = changed(tmp_path / "model", weights=without_vision)
    expected = embed(*published("tiny_2x2"))
    processor = AutoProcessor.from_pretrained(folder)
    assert torch.equal(embed(AutoModel.from_pretrained(folder, vision_tower=str(tower)), processor), expected)
    assert torch.equal(embed(LlaveModel.from_pretrained(folder, vision_tower=str(tower)), processor), expected)

    def name_it(fields: dict[str, Any]) -> None:
        fields["mm_vision_tower"] = str(tower)

    named = changed(tmp_path / "named", config=name_it, weights=without_vision)
    assert torch.equal(embed(AutoModel.from_pretrained(named), processor), expected)


def test_a_tower_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = changed(tmp_path, weights=without_vision)
    with pytest.raises(ValueError, match=r"no vision weights, and google/siglip-so400m-patch14-384 cannot be read"):
        AutoModel.from_pretrained(folder)


def test_a_tower_of_another_shape_is_refused(tmp_path: Path) -> None:
    tower = siglip(tmp_path / "siglip", hidden_size=64)
    folder = changed(tmp_path / "model", weights=without_vision)
    with pytest.raises((ValueError, RuntimeError), match="48"):
        AutoModel.from_pretrained(folder, vision_tower=str(tower))


def test_the_known_tower_is_siglip_without_its_last_layer() -> None:
    tower = KNOWN_TOWERS["google/siglip-so400m-patch14-384"]
    fields = {"hidden_size": 896, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 14}
    config = LlavaQwenConfig(**fields, num_key_value_heads=2, vocab_size=151936)
    made = to_llave_config(config, tower, 151646, 151647)
    vision = made.backbone_config.vision_config
    assert (vision.num_hidden_layers, vision.hidden_size, vision.image_size) == (26, 1152, 384)
    assert made.backbone_config.image_grid_pinpoints == [[384, 384], [768, 384], [384, 768], [768, 768]]
    assert made.video_newline == "one_token"
    assert config.defaulted().keys() == {
        "image_aspect_ratio",
        "image_grid_pinpoints",
        "mm_newline_position",
        "tokenizer_model_max_length",
    }


# ------------------------------------------------------------------------------------------------- what is refused

REFUSED = [
    ({"hidden_size": None}, "has no hidden_size"),
    ({"mm_projector_type": "linear"}, "mm_projector_type: 'linear'; llave_hf computes 'mlp2x_gelu' only"),
    ({"mm_spatial_pool_mode": "average"}, "mm_spatial_pool_mode: 'average'"),
    ({"image_aspect_ratio": "pad"}, "image_aspect_ratio: 'pad'"),
    ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type: 'flat'"),
    ({"mm_newline_position": "everywhere"}, "video_newline is 'everywhere'"),
    ({"image_grid_pinpoints": [[76, 77]]}, r"\[76, 77\] in image_grid_pinpoints"),
    ({"image_grid_pinpoints": "2x2"}, "image_grid_pinpoints: '2x2'"),
    ({"vocab_size": 513}, "no spare row for <image> and <video>"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_fields_that_cannot_be_followed(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = changed(tmp_path, config=lambda found: found.update(fields))
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(folder)


def test_an_unknown_tower_is_refused(tmp_path: Path) -> None:
    folder = changed(
        tmp_path,
        config=lambda found: found.update(mm_vision_tower="openai/clip-vit-large"),
        without=("vision_tower_geometry.json",),
    )
    for opener in (AutoModel, AutoProcessor):
        with pytest.raises(ValueError, match="'openai/clip-vit-large' in mm_vision_tower, whose shape is not known"):
            opener.from_pretrained(folder)


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("model.layers.1.mlp.down_proj.weight", None, r"lack backbone\.language_model\.layers\.1\.mlp\.down_proj"),
        ("model.image_newline", None, r"lack backbone\.image_newline"),
        (f"{TOWER}vision_tower.vision_model.post_layernorm.bias", None, r"lack backbone\.vision_tower\.post_layer"),
        (
            None,
            "model.layers.9.mlp.down_proj.weight",
            r"hold .*layers\.9\.mlp\.down_proj\.weight, which have no place",
        ),
    ],
)
def test_missing_and_surplus_weights(drop: str | None, add: str | None, message: str, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept = {name: tensor for name, tensor in tensors.items() if name != drop}
        return {**kept, **({add: torch.zeros(2, 2)} if add else {})}

    folder = changed(tmp_path, weights=change)
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(folder)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    folder = changed(tmp_path, without=("tokenizer*", "special_tokens_map.json"))
    with pytest.raises(ValueError, match="tokenizer"):
        AutoProcessor.from_pretrained(folder)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path, without=("model.safetensors",))
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only as pickles \(pytorch_model\.bin\)"):
        AutoModel.from_pretrained(folder)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="safetensors"):
        AutoModel.from_pretrained(changed(tmp_path, without=("model.safetensors",)))


def test_a_hub_id_without_a_network_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for opener in (AutoModel, AutoProcessor):
        with pytest.raises(OSError, match="couldn't connect"):
            opener.from_pretrained("zhibinlan/LLaVE-2B")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("(1x1),...,(2x2)", [[10, 10], [10, 20], [20, 10], [20, 20]]),
        ("(1x1),...,(1x3)", [[10, 10], [10, 20], [10, 30]]),
        ([[10, 30]], [[10, 30]]),
        (None, [[10, 10], [10, 20], [20, 10], [20, 20]]),
    ],
)
def test_grids(given: Any, expected: list[list[int]]) -> None:
    assert grids(LlavaQwenConfig(image_grid_pinpoints=given), 10) == expected


def test_a_tower_becomes_siglips_configuration() -> None:
    tower = VisionTower(48, 104, 3, 4, 76, 14, name="somewhere")
    config = SiglipVisionConfig(**{k: v for k, v in tower.to_config().items() if k != "model_type"})
    assert (config.num_hidden_layers, config.image_size, config.vision_use_head) == (3, 76, False)


def test_sentence_transformers_refuses_a_folder_without_its_files() -> None:
    transformer = SentenceTransformer(str(SMALL), device="cpu")
    with pytest.raises(ValueError, match=r"without its modules\.json .* `llave convert`"):
        transformer.encode(["a dog"])
