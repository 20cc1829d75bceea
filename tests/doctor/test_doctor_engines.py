"""`llave doctor` on several devices: what engines hold and exchange, against formulas of the published shapes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import write_recipe, write_training_data

from llave_hf.doctor import examine
from llave_hf.doctor.engine_sizes import (
    MAX_LIVE_PARAMETERS,
    REDUCE_BUCKET,
    held,
    largest_unit,
    parameter_traffic,
    vector_bytes,
)
from llave_hf.doctor.model_sizes import part_sizes
from llave_hf.training.recipe.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
# Qwen2-1.5B and 7B with SigLIP so400m: width, inner width, layers, heads, key-value heads, tokens.
SHAPES = {"2b": (1536, 8960, 28, 12, 2, 151_936), "7b": (3584, 18_944, 28, 28, 4, 152_064)}
TOWER = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
W = 64


def recipe_of(size: str, tmp_path: Path, **changes: Any) -> Recipe:
    """The shipped recipe of that size, its model by its shapes: nothing is downloaded."""
    width, inner, layers, heads, few, tokens = SHAPES[size]
    text = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": few,
    }
    fields = yaml.safe_load((ROOT / f"recipes/llave-{size}.yaml").read_text())
    fields |= {"model": None, "from_scratch": {"vocab_size": tokens, "vision_config": TOWER, "text_config": text}}
    fields |= {"tf32": False, "use_cpu": True, "eval_benchmark": None, "train_data": str(tmp_path), **changes}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields))
    return load_recipe(path)


def counted(size: str) -> tuple[int, int, int]:
    """Parameters of a layer of the language model, of what is trained, and of the frozen tower."""
    width, inner, layers, heads, few, tokens = SHAPES[size]
    narrow = width // heads * few
    layer = 2 * width**2 + width + 2 * (width * narrow + narrow) + 3 * width * inner + 2 * width
    language = tokens * width + layers * layer + width
    seen, deep, depth = 1152, 4304, 26
    tower_layer = 4 * (seen**2 + seen) + 2 * seen * deep + seen + deep + 4 * seen
    tower = 14 * 14 * 3 * seen + seen + (384 // 14) ** 2 * seen + depth * tower_layer + 2 * seen
    projector = seen * width + width + width**2 + width + width
    return layer, language + projector, tower


@pytest.mark.parametrize("size", SHAPES)
def test_engines_hold_what_the_formulas_say(size: str, tmp_path: Path) -> None:
    recipe = recipe_of(size, tmp_path)
    _, trained, frozen = counted(size)
    assert sum(part_sizes(recipe).values()) == trained + frozen
    opened = 4  # of a model from random weights
    assert held(recipe, "DDP", W).kept == trained * 16 + frozen * opened
    assert held(recipe, "FSDP2", W).kept == (trained * 16 + frozen * opened) / W
    assert held(recipe, "ZeRO-2", W).kept == (trained + frozen) * 2 + trained * 14 / W
    assert held(recipe, "ZeRO-3", W).kept == ((trained + frozen) * 2 + trained * 14) / W
    assert held(recipe, "ZeRO-2", W).passing == 1e9
    assert held(recipe, "ZeRO-3", W).passing == 3e9
    width, _, _, _, _, tokens = SHAPES[size]
    assert largest_unit(recipe) == width * tokens
    assert held(recipe, "FSDP2", W).passing == 4 * width * tokens


@pytest.mark.parametrize("size", SHAPES)
def test_a_step_exchanges_what_the_formulas_say(size: str, tmp_path: Path) -> None:
    recipe = recipe_of(size, tmp_path, mini_batch_num_tokens=8192)
    width = SHAPES[size][0]
    pairs = recipe.training.per_device_train_batch_size
    assert vector_bytes(recipe, W) == 2 * 63 * pairs * width * 4
    _, trained, frozen = counted(size)
    share = 63 / 64
    assert parameter_traffic(recipe, "DDP", W, 5) == pytest.approx(share * 8 * trained)
    # Five micro-batches, each forward twice and backward once, gathers all each time.
    assert parameter_traffic(recipe, "FSDP2", W, 5) == pytest.approx(
        share * (15 * 2 * (trained + frozen) + 5 * 4 * trained)
    )
    assert parameter_traffic(recipe, "ZeRO-3", W, 5) == pytest.approx(
        share * (15 * 2 * (trained + frozen) + 5 * 2 * trained)
    )
    assert parameter_traffic(recipe, "ZeRO-2", W, 5) == pytest.approx(share * 6 * 2 * trained)
    apart = recipe_of(size, tmp_path, gather_across_devices=False)
    assert vector_bytes(apart, W) == 0


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")
def test_deepspeeds_defaults_are_what_is_counted_with() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    defaults = DeepSpeedZeroConfig()
    assert (defaults.max_live_parameters, defaults.reduce_bucket_size) == (MAX_LIVE_PARAMETERS, REDUCE_BUCKET)


def said(root: Path, config: Path | None = None, **changes: Any) -> dict[str, str]:
    recipe = str(write_recipe(root, **changes))
    found = examine(recipe, tflops=1.0, devices=W, accelerate_config=None if config is None else str(config))
    texts: dict[str, str] = {}
    for finding in found:
        texts[finding.part] = texts.get(finding.part, "") + f"{finding.level}: {finding.text}\n"
    return texts


def test_the_report_on_64_devices(tmp_path: Path) -> None:
    texts = said(write_training_data(tmp_path), ROOT / "recipes/accelerate/fsdp2.yaml")
    assert "255 per query: 4 pairs x 64 device(s) - 1" in texts["negatives"]
    assert "MB of vectors a step" in texts["exchange"]
    assert "ok: FSDP2 does all that the recipe asks for" in texts["engine"]
    for engine in ("DDP", "FSDP2", "ZeRO-2", "ZeRO-3"):
        assert f"{engine} on 64 devices holds " in texts["engine"]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("fsdp2", {"muon_learning_rate": 0.01}, "muon_learning_rate needs whole matrices on every rank, which FSDP2"),
        ("zero3", {"learn_temperature": True}, "learn_temperature needs an optimizer .*, which DeepSpeed ZeRO-3"),
        ("fsdp2", {"optim": "sgd"}, "optim sgd has no state"),
        ("fsdp2", {"batch_groups": True, "mine_every": 1}, "mine_every encodes with a whole model .*, which FSDP2"),
        ("zero3", {"hardness_source": "ema"}, "hardness_source ema averages float32 weights"),
        ("zero3", {"master_weights": "bfloat16"}, "master_weights has no effect under DeepSpeed"),
        ("zero3-unsaved", {}, "ZeRO-3 would end without a model"),
        ("fsdp2-older", {}, "set fsdp_version: 2"),
        ("fsdp2-offloaded", {}, "fsdp_offload_params pins memory for a GPU"),
    ],
)
def test_what_an_engine_cannot_do_is_told(tmp_path: Path, name: str, changes: dict[str, Any], message: str) -> None:
    import re

    shipped, _, change = name.partition("-")
    fields = yaml.safe_load((ROOT / f"recipes/accelerate/{shipped}.yaml").read_text())
    if change == "unsaved":
        fields["deepspeed_config"]["zero3_save_16bit_model"] = False
    elif change:
        fields["fsdp_config"] |= {"older": {"fsdp_version": 1}, "offloaded": {"fsdp_offload_params": True}}[change]
    config = tmp_path / "accelerate.yaml"
    config.write_text(yaml.safe_dump(fields))
    texts = said(write_training_data(tmp_path), config, **changes)
    assert re.search(f"PROBLEM: .*{message}", texts["engine"]), texts


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero3"])
def test_the_shipped_configurations_do_all_that_the_recipes_ask_for(name: str, tmp_path: Path) -> None:
    for size in SHAPES:
        from llave_hf.training.engines.choice import EngineChoice

        choice = EngineChoice.of_file(ROOT / f"recipes/accelerate/{name}.yaml")
        recipe = recipe_of(size, tmp_path)
        assert not list(choice.refusals(recipe.training, recipe.model.quantization, on_cpu=False))
