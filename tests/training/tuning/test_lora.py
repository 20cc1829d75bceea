"""LoRA and QLoRA: what gets an adapter, what a run leaves, and that it goes on and caches to the bit."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import KINDS, save_backbone
from helpers import picture, tiny_model, write_recipe, write_training_data
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from step_helpers import furthest, make_pairs, run_steps, to_double, trainer_of, write_media
from transformers import AutoModel, AutoProcessor

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.cli import main
from llave_hf.doctor.findings import Patient
from llave_hf.doctor.model_checks import check_model
from llave_hf.doctor.tuned_sizes import tuned_sizes
from llave_hf.train import main as train_main
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.recipe.tuning import PARTS
from llave_hf.training.run import open_model, train
from llave_hf.training.trainer import LlaveTrainer
from llave_hf.training.tuning.lora import layer_pattern
from llave_hf.training.tuning.parts import count_parameters, part_parameters

peft = pytest.importorskip("peft")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media") / "root")


def embed(model: Any, processor: LlaveProcessor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**processor(text=["a dog", "x"], images=[None, picture()])).embeddings


LINEAR = {  # of both layers
    "llava_onevision": {"vision_tower": 12, "projector": 2, "language_model": 14},
    "qwen2_vl": {"vision_tower": 8, "projector": 2, "language_model": 14},
    "qwen2_5_vl": {"vision_tower": 10, "projector": 2, "language_model": 14},
    "qwen3_vl": {"vision_tower": 8, "projector": 4, "language_model": 14},
    "qwen3_5": {"vision_tower": 8, "projector": 2, "language_model": 15},  # five of linear attention, four of full
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_linear_layers_of_a_part_get_an_adapter_and_nothing_else(
    kind: str, part: str, root: Path, tmp_path: Path
) -> None:
    folder = save_backbone(tmp_path / "backbone", kind)
    model, processor = LlaveModel.from_pretrained(folder), LlaveProcessor.from_pretrained(folder)
    expected = [isinstance(module, torch.nn.Linear) for module in model.modules()]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = trainer_of(model, processor, root, lora={"r": 2, "parts": [part]}, learning_rate=1e-2)
    adapted = [name for name, _ in trainer.model.named_parameters() if "lora_A" in name]
    assert len(adapted) == LINEAR[kind][part]
    assert len(adapted) < sum(expected)
    trained = {id(p) for p in trainer.model.parameters() if p.requires_grad}
    assert trained >= {id(p) for name, p in trainer.model.named_parameters() if "lora_" in name}
    whole = {name for name, p in trainer.model.named_parameters() if p.requires_grad and "lora_" not in name}
    assert all("modules_to_save" in name for name in whole)
    assert bool(whole) == (part != "projector")
    optimizer = trainer.create_optimizer()
    for _ in range(2):
        run_steps(trainer, [make_pairs(root, 4)])
        optimizer.step()
    model = trainer.model.get_base_model()
    after = {re.sub(r"\.(base_layer|original_module)\b", "", name): p for name, p in model.named_parameters()}
    for name, value in before.items():
        held = [
            p for key, p in after.items() if key.replace(".base_layer", "").replace(".original_module", "") == name
        ]
        assert len(held) == 1, name
        assert torch.equal(held[0], value), name  # the base does not change by a bit


def test_named_layers_only_and_a_frozen_projector(root: Path) -> None:
    model, processor = tiny_model()
    model.config._commit_hash = "1234abcd"  # as of a model from the Hub
    settings = {"modules": ["q_proj", "v_proj"], "parts": ["vision_tower", "language_model"]}
    trainer = trainer_of(model, processor, root, lora=settings, freeze=["projector"])
    assert trainer.model.peft_config["default"].revision == "1234abcd"
    trained = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert all("q_proj.lora_" in name or "v_proj.lora_" in name for name in trained)
    assert len(trained) == 2 * 2 * 4
    with pytest.raises(ValueError, match="names qkv; the linear layers of language_model are down_proj, "):
        trainer_of(tiny_model()[0], processor, root, lora={"modules": ["qkv"]})


def test_a_pattern_names_each_place_once() -> None:
    assert layer_pattern(["a.layers.0.q", "a.layers.1.q", "a.mlp.0"]) == r"a\.layers\.\d+\.q|a\.mlp\.0"


def test_rates_by_part_under_an_adapter(root: Path) -> None:
    rates = {"projector": 1e-3, "language_model": 1e-4}
    trainer = trainer_of(*tiny_model(), root, lora={"r": 2}, learning_rates=rates, learning_rate=1e-5)
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    found = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert {"lora_" in name for name in found} == {True, False}
    assert all(rate == pytest.approx(1e-4 if "lora_" in name else 1e-3) for name, rate in found.items())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_caching_is_exact(root: Path, dropout: float) -> None:
    pairs, found = make_pairs(root, 6), []
    for caching in (False, True):
        model, processor = tiny_model()
        settings = {"mini_batch_size": 2, "gradient_caching": caching, "lora": {"r": 2, "dropout": dropout}}
        trainer = trainer_of(to_double(model), processor, root, **settings)
        trainer.model.double()
        torch.manual_seed(1)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        torch.manual_seed(0)
        found.append(run_steps(trainer, [pairs]))
    (losses, expected), (cached_losses, gradients) = found
    assert cached_losses == pytest.approx(losses, rel=1e-10)
    assert any("lora_A" in name for name in expected)
    assert any("modules_to_save" in name for name in expected)
    assert furthest(gradients, expected) < 1e-10


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data and recipe of a finished LoRA run with dropout, rates by part and gradient caching."""
    data = write_training_data(tmp_path_factory.mktemp("run"))
    recipe = write_recipe(
        data,
        lora={"r": 4, "alpha": 8, "dropout": 0.1},
        learning_rates={"projector": 1e-2},
        mini_batch_num_tokens=100,
        learning_rate=1e-2,
        max_steps=6,
        save_steps=3,
    )
    train(load_recipe(recipe))
    return data, recipe


def test_every_class_opens_the_finished_folder_and_its_adapter_gives_the_same_vectors(run: tuple[Path, Path]) -> None:
    out = run[0] / "out"
    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    vectors = embed(model, processor)
    assert not [name for name in model.state_dict() if "lora" in name or "modules_to_save" in name]
    base = AutoModel.from_pretrained(out / "initial")
    assert float((embed(base, processor) - vectors).abs().max()) > 1e-2
    for folder in (out, out / "adapter"):
        encoder = SentenceTransformer(str(folder), device="cpu")
        encoded = encoder.encode(["a dog", {"image": picture(), "text": "x"}])
        assert torch.allclose(torch.from_numpy(encoded), vectors, atol=1e-6)
    assert torch.allclose(embed(LlaveModel.from_pretrained(out / "adapter"), processor), vectors, atol=1e-6)
    wrapped = peft.PeftModel.from_pretrained(base, out / "adapter")
    assert torch.allclose(embed(wrapped, processor), vectors, atol=1e-6)
    for name in ("fingerprint.json", "README.md", "recipe.yaml", "training_args.json", "telemetry.json"):
        assert (out / name).exists()


def test_checkpoints_hold_adapters_only(run: tuple[Path, Path]) -> None:
    checkpoint = run[0] / "out" / "checkpoint-3"
    assert not (checkpoint / "model.safetensors").exists()
    saved = load_file(checkpoint / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert {"lora_A", "lora_B"} <= {name.split(".")[-2] for name in saved}
    settings = json.loads((checkpoint / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (4, 8, 0.1)
    assert settings["base_model_name_or_path"] == str(run[0] / "out" / "initial")


def test_resume_from_an_adapter_is_exact_to_the_bit(run: tuple[Path, Path], tmp_path: Path) -> None:
    data, recipe = run
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("checkpoint-3", "initial"):
        (broken / name).symlink_to(data / "out" / name)
    train_main([str(recipe), "--output_dir", str(broken), "--resume_from_checkpoint"])
    for name in ("adapter/adapter_model.safetensors", "model.safetensors"):
        expected, found = load_file(data / "out" / name), load_file(broken / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected), name
    halfway = load_file(data / "out" / "checkpoint-3" / "adapter_model.safetensors")
    end = load_file(broken / "adapter" / "adapter_model.safetensors")
    assert not any(torch.equal(halfway[key], end[key]) for key in end)


def test_merging_the_adapter_gives_the_finished_model(run: tuple[Path, Path], tmp_path: Path) -> None:
    out = run[0] / "out"
    main(["merge", str(out / "adapter"), str(tmp_path / "merged")])
    expected, found = load_file(out / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_plain_backbone_with_other_settings_of_its_processor(tmp_path: Path) -> None:
    data = write_training_data(tmp_path)
    backbone = save_backbone(tmp_path / "backbone", "llava_onevision")
    changes = {"model": str(backbone), "from_scratch": None, "processor": {"video_newline": "grid", "max_length": 256}}
    trainer = train(load_recipe(write_recipe(data, lora={"r": 2}, max_steps=2, learning_rate=1e-2, **changes)))
    out = data / "out"
    model = AutoModel.from_pretrained(out)
    assert type(model) is LlaveModel
    assert model.config.video_newline == "grid"
    processor = AutoProcessor.from_pretrained(out)
    assert torch.equal(embed(model, processor), embed(trainer.model, processor))
    main(["merge", str(out / "adapter"), str(tmp_path / "merged")])
    merged = AutoModel.from_pretrained(tmp_path / "merged")
    assert merged.config.video_newline == "grid"
    assert torch.equal(embed(merged, processor), embed(model, processor))


# QLoRA


@pytest.mark.slow
@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["llave", "qwen3_vl", "qwen3_5"])
def test_qlora_trains_under_four_bits_and_is_merged_into_the_whole_base(tmp_path: Path, kind: str) -> None:
    data = write_training_data(tmp_path)
    if kind == "llave":
        for part in tiny_model(processor={"image_tiling": "none"}):
            part.save_pretrained(tmp_path / "base")
    else:
        save_backbone(tmp_path / "base", kind)
    recipe = load_recipe(
        write_recipe(
            data,
            model=str(tmp_path / "base"),
            from_scratch=None,
            processor={},
            bf16=True,
            lora={"r": 4},
            quantization={"bits": 4, "type": "nf4", "double": True, "compute_dtype": "bfloat16"},
            learning_rate=1e-2,
            max_steps=4,
            save_steps=2,
        )
    )
    processor = LlaveProcessor.from_pretrained(tmp_path / "base")
    quantised = open_model(recipe.model, str(data), processor)
    packed = {name for name, p in quantised.named_parameters() if p.dtype == torch.uint8}
    linear = [name for name, module in quantised.named_modules() if isinstance(module, torch.nn.Linear)]
    assert packed == {f"{name}.weight" for name in linear if "language_model" in name}
    trainer = train(recipe)
    out = data / "out"
    model, base = AutoModel.from_pretrained(out), LlaveModel.from_pretrained(tmp_path / "base")
    assert model.dtype == base.dtype == torch.float32
    assert "quantization_config" not in (out / "config.json").read_text()
    moved = load_file(out / "checkpoint-2" / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in moved.items() if "lora_B" in name)
    wrapped = peft.PeftModel.from_pretrained(base, out / "adapter")
    assert torch.allclose(embed(model, processor), embed(wrapped, processor), atol=1e-5)
    assert torch.equal(embed(trainer.model, processor), embed(model, processor))
    towers = [part_parameters(found, "vision_tower") for found in (model, base)]
    assert all(torch.equal(*pair) for pair in zip(*towers, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"freeze": ["vision_tower"]},
        {"lora": {"r": 4}},
        {"lora": {"r": 4, "parts": ["vision_tower", "language_model"]}, "freeze": ["projector"]},
        pytest.param({"lora": {"r": 4}, "quantization": {"bits": 4}}, marks=needs_bitsandbytes),
    ],
    ids=["all", "whole", "lora", "lora on both", "qlora"],
)
@pytest.mark.parametrize("kind", ["llava_onevision", "qwen3_vl", "qwen3_5"])
def test_what_the_doctor_counts_is_what_is_there(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "backbone", kind)
    LlaveModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    changes = {"model": str(tmp_path / "half"), "from_scratch": None, "processor": {}, "bf16": True, **settings}
    recipe = load_recipe(write_recipe(tmp_path, **changes))
    processor = LlaveProcessor.from_pretrained(folder)
    trainer = LlaveTrainer(
        open_model(recipe.model, str(tmp_path), processor), recipe.training, processing_class=processor
    )
    estimated = tuned_sizes(recipe)
    trained, frozen = count_parameters(trainer.model)
    (found,) = check_model(Patient(recipe, None, fast=True, tflops=100.0, devices=1))
    said = re.search(r"; ([\d,]+) trained", found.text), re.search(r"([\d,]+) frozen$", found.text)
    assert [int(one[1].replace(",", "")) if one else 0 for one in said] == [trained, frozen]
    replaced = [m.original_module for m in trainer.model.modules() if hasattr(m, "original_module")]
    twice = {id(p) for module in replaced for p in module.parameters()}  # PEFT keeps the projector it started from
    there = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if id(p) not in twice)
    assert estimated.weights == pytest.approx(there, rel=0.1)


QUANTIZATION: dict[str, tuple[dict[str, Any], str]] = {
    "without lora": ({"quantization": {"bits": 4}, "bf16": True}, "which cannot be trained; add lora"),
    "without bf16": ({"quantization": {"bits": 4}, "lora": {}}, "quantization needs bf16: true"),
    "bits": ({"quantization": {"bits": 3}, "lora": {}, "bf16": True}, "quantization.bits is 3; choose 4"),
    "key": ({"quantization": {"bit": 4}, "lora": {}, "bf16": True}, "keys bit; it takes bits, type"),
    "dtype": ({"dtype": "half"}, "dtype is 'half'; choose auto, float32, bfloat16"),
}


@pytest.mark.parametrize("name", QUANTIZATION)
def test_quantization_that_cannot_work_is_named(name: str, tmp_path: Path) -> None:
    settings, message = QUANTIZATION[name]
    with pytest.raises(ValueError, match=message):
        load_recipe(write_recipe(tmp_path, **settings))


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    from llave_hf.errors import UserError
    from llave_hf.training.tuning import quantization

    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'llave-hf\[qlora\]'"):
        quantization.quantization_config({"bits": 4})
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'llave-hf\[peft\]'"):
        trainer_of(*tiny_model(), root, lora={"r": 2})
