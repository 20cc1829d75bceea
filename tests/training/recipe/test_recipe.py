"""Recipes: what they accept, and what they say about what they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import write_recipe, write_training_data
from transformers import TrainingArguments

from llave_hf.encoding.sentence_transformer import load_encoder
from llave_hf.errors import UserError
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.recipe import ModelArguments, known_keys, load_recipe
from llave_hf.training.run import model_source

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))
RECIPES = [path for path in RECIPES if path.name not in ("ablation.yaml", "hardness.yaml")]  # sweeps


def test_values_arrive_with_their_types(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    recipe = load_recipe(
        path, ["--learning_rate", "1e-5", "--hardness_strength=5", "--bf16", "--freeze", "[vision_tower]"]
    )
    assert recipe.training.learning_rate == 1e-5
    assert recipe.training.hardness_strength == 5
    assert recipe.training.bf16 is True
    assert recipe.training.freeze == ["vision_tower"]
    assert recipe.data.media_root == str(tmp_path)


def test_a_list_of_numbers_is_taken(tmp_path: Path) -> None:
    assert load_recipe(write_recipe(tmp_path), ["--matryoshka_dims", "[8, 16]"]).training.matryoshka_dims == [8, 16]


def test_a_key_inside_another_is_overridden_alone(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ["--from_scratch.text_config.hidden_size", "48"])
    assert recipe.model.from_scratch is not None
    assert recipe.model.from_scratch["text_config"]["hidden_size"] == 48
    assert recipe.model.from_scratch["text_config"]["num_hidden_layers"] == 2


@pytest.mark.parametrize("place", ["file", "command line"])
def test_a_key_that_does_not_exist_suggests_the_nearest(tmp_path: Path, place: str) -> None:
    if place == "file":
        path, overrides = write_recipe(tmp_path, hardnes_strength=5), []
    else:
        path, overrides = write_recipe(tmp_path), ["--hardnes_strength", "5"]
    with pytest.raises(
        ValueError, match=r"'hardnes_strength', which does not exist; did you mean 'hardness_strength'"
    ):
        load_recipe(path, overrides)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "some/model"}, "this one gives both"),
        ({"train_data": None}, "names no train_data"),
        ({"temperature": "warm"}, "temperature"),
        ({"matryoshka_dims": 8}, "matryoshka_dims the value 8; it takes a list of int"),
        ({"matryoshka_dims": [8, "x"]}, "it takes a list of int"),
        ({"train_subsets": "Caption"}, "train_subsets the value 'Caption'; it takes a list of str or null"),
        ({"lora": "yes"}, "lora the value 'yes'; it takes a mapping or null"),
        (
            {"processor": {"image_tilling": "none"}},
            "processor has the key 'image_tilling'.*did you mean 'image_tiling'",
        ),
        ({"from_scratch": {"vocabulary": 300}}, "from_scratch has the key 'vocabulary'"),
        ({"from_scratch": {"vision_config": {}, "text_config": {}}}, "from_scratch.vocab_size is None; give a whole"),
        ({"from_scratch": {"vocab_size": 300, "vision_config": 3}}, "from_scratch.vision_config is 3; give a mapping"),
        (
            {
                "from_scratch": {
                    "vocab_size": 300,
                    "vision_config": {},
                    "text_config": {"hidden_size": 20, "num_attention_heads": 4},
                }
            },
            "from_scratch.text_config has hidden_size 20 and num_attention_heads 4; .*a multiple of 8",
        ),
        ({"freeze": ["tower"]}, "freeze names tower"),
        ({"batch_tasks": "all"}, "batch_tasks is 'all'"),
        ({"remove_unused_columns": True}, "remove_unused_columns is True"),
        ({"freeze": ["vision_tower", "projector", "language_model"]}, "leaves nothing to train"),
        ({"mini_batch_size": 0}, "mini_batch_size is 0"),
        ({"mini_batch_num_tokens": -5}, "mini_batch_num_tokens is -5"),
        ({"mini_batch_num_tokens": "many"}, "mini_batch_num_tokens"),
        ({"gradient_caching": "sometimes"}, "gradient_caching is 'sometimes'; give true, false or auto"),
        ({"vision_memory_gb": -1}, "vision_memory_gb is -1"),
        ({"graph_memory_gb": -1.0}, "graph_memory_gb is -1"),
        ({"hardness_mode": "hard_negatives"}, "use_negatives is off: nothing would be weighted"),
        ({"mini_batch_size": 4, "optim": "galore_adamw_layerwise"}, "galore_adamw_layerwise changes weights within"),
        ({"mini_batch_size": 4, "ddp_static_graph": True}, "ddp_static_graph"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(write_recipe(tmp_path, **changes))


def test_a_missing_recipe_and_no_recipe_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.yaml does not exist"):
        load_recipe(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="holds a list"):
        load_recipe(tmp_path / "list.yaml")
    with pytest.raises(ValueError, match="stands where a --key was expected"):
        load_recipe(write_recipe(tmp_path), ["bf16"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = load_recipe(path, ["--use_cpu", "--tf32", "null"])
    assert set(recipe.raw) <= set(known_keys())


@pytest.mark.parametrize("size", ["0.5b", "2b", "7b"])
def test_shipped_recipes_hold_the_papers_values(size: str) -> None:
    path = next(path for path in RECIPES if path.stem == f"llave-{size}")
    training = load_recipe(path, ["--use_cpu", "--bf16", "false", "--tf32", "null"]).training
    assert training.temperature == 0.02
    assert training.hardness_strength == 9
    assert training.learning_rate == (5e-6 if size == "7b" else 1e-5)
    assert training.warmup_steps == 0.03
    assert training.weight_decay == 0
    assert training.num_train_epochs == 1
    assert training.freeze == ["vision_tower"]
    assert training.directions == ["query_to_doc", "doc_to_query"]


def test_training_data_of_the_tests_is_what_the_loaders_read(tmp_path: Path) -> None:
    from llave_hf.data.pairs import load_pairs

    root = write_training_data(tmp_path)
    assert [source.name for source in load_pairs(str(root / "train"), media_root=str(root)).sources] == [
        "Caption",
        "Question",
    ]


@pytest.mark.parametrize(
    ("changes", "caches"),
    [
        ({}, False),
        ({"mini_batch_size": 4}, True),
        ({"mini_batch_num_tokens": 4096}, True),
        ({"mini_batch_size": 4, "gradient_caching": False}, False),
        ({"gradient_caching": True}, True),
        ({"gradient_caching": "auto"}, False),
    ],
)
def test_gradient_caching_follows_the_limits_unless_it_is_given(
    tmp_path: Path, changes: dict[str, object], caches: bool
) -> None:
    assert load_recipe(write_recipe(tmp_path, **changes)).training.caches_gradients is caches
    overrides = [text for key, value in changes.items() for text in (f"--{key}", str(value).lower())]
    assert load_recipe(write_recipe(tmp_path), overrides).training.caches_gradients is caches


def test_a_model_that_is_nowhere_is_named_before_the_hub_is_asked() -> None:
    for opened in (
        lambda: load_encoder("/no/model"),
        lambda: model_source(ModelArguments(model="/no/model"), "out"),
    ):
        with pytest.raises(UserError, match=r"^There is no model folder /no/model: check the path"):
            opened()


@pytest.mark.parametrize("key", ["save_strategy", "eval_strategy", "logging_strategy"])
def test_no_is_a_word_where_a_word_is_meant(tmp_path: Path, key: str) -> None:
    recipe = write_recipe(tmp_path, disable_tqdm="off")
    recipe.write_text(recipe.read_text() + f"{key}: no\nbf16: off\ngradient_checkpointing: yes\n")
    loaded = load_recipe(recipe)
    assert getattr(loaded.training, key) == "no"
    assert loaded.training.bf16 is False
    assert loaded.training.gradient_checkpointing is True
    assert loaded.training.disable_tqdm is False
    overridden = load_recipe(recipe, [f"--{key}", "no", "--bf16", "no", "--gradient_checkpointing", "off"])
    assert getattr(overridden.training, key) == "no"
    assert overridden.training.gradient_checkpointing is False


def test_a_cpu_has_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks of a CPU get `cpu:0` and `cpu:1`, onto which torch opens no checkpoint."""
    arguments = LlaveTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    for found, expected in (("cpu:1", "cpu"), ("cuda:1", "cuda:1")):
        monkeypatch.setattr(TrainingArguments, "device", property(lambda self, name=found: torch.device(name)))
        assert arguments.device == torch.device(expected)
