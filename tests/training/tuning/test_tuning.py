"""What is tuned and how: frozen parts, rates by part, checkpointed parts, precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import KINDS, save_backbone
from helpers import tiny_model, write_recipe, write_training_data
from safetensors.torch import load_file
from step_helpers import furthest, make_pairs, make_trainer, peak_of_kept_bytes, run_steps, trainer_of, write_media
from transformers import AutoModel

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.train import main
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.recipe.tuning import PARTS
from llave_hf.training.run import train
from llave_hf.training.step.lean_forward import LeanForward
from llave_hf.training.trainer import LlaveTrainer
from llave_hf.training.tuning.parts import part_modules, part_parameters
from llave_hf.training.tuning.precision import LOST_SHARE


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media") / "root")


def take_steps(trainer: LlaveTrainer, pairs: list[Any], count: int = 3) -> None:
    """Optimizer steps without Trainer's loop, under autocast where the arguments ask for it."""
    optimizer = trainer.create_optimizer()
    model = trainer.accelerator.prepare_model(trainer.model)
    for _ in range(count):
        run_steps(trainer, [pairs], model=model)
        optimizer.step()


@pytest.mark.parametrize("muon", [None, 0.01], ids=["adamw", "muon"])
@pytest.mark.parametrize("frozen", PARTS)
@pytest.mark.parametrize("kind", ["llava_onevision", "qwen3_vl", "qwen3_5"])
def test_a_frozen_part_does_not_change_by_a_bit_and_the_others_do(
    root: Path, tmp_path: Path, kind: str, frozen: str, muon: float | None
) -> None:
    folder = save_backbone(tmp_path / "backbone", kind)
    model, processor = LlaveModel.from_pretrained(folder), LlaveProcessor.from_pretrained(folder)
    settings = {"freeze": [frozen], "weight_decay": 0.1, "learning_rate": 1e-2, "muon_learning_rate": muon}
    trainer = trainer_of(model, processor, root, **settings)
    before = {part: [p.detach().clone() for p in part_parameters(model, part)] for part in PARTS}
    take_steps(trainer, make_pairs(root, 4))
    for part in PARTS:
        same = [torch.equal(*pair) for pair in zip(before[part], part_parameters(model, part), strict=True)]
        assert all(same) if part == frozen else sum(same) < len(same) / 2, part


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_belongs_to_one_part(kind: str, tmp_path: Path) -> None:
    model = LlaveModel.from_pretrained(save_backbone(tmp_path / "backbone", kind))
    found = [id(parameter) for part in PARTS for parameter in part_parameters(model, part)]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())
    towers = part_modules(model, "vision_tower")
    assert not set(towers) & set(part_modules(model, "projector"))


def test_parts_are_found_under_wrappers(tmp_path: Path) -> None:
    """FSDP1 and torch.compile put a name of their own between a module's and its owner's."""
    model = LlaveModel.from_pretrained(save_backbone(tmp_path / "backbone", "qwen2_vl"))
    expected = {part: [id(p) for p in part_parameters(model, part)] for part in PARTS}
    for name in ("_fsdp_wrapped_module", "_orig_mod"):
        wrapper = torch.nn.Module()
        wrapper.add_module(name, model.backbone.visual)
        model.backbone.visual = wrapper
    assert any("visual._orig_mod._fsdp_wrapped_module.merger" in name for name, _ in model.named_parameters())
    assert {part: [id(p) for p in part_parameters(model, part)] for part in PARTS} == expected


def rates_of(trainer: LlaveTrainer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter, by name."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    found = [(names[id(p)], (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(found) == len(dict(found))
    return dict(found)


def test_parts_have_their_own_rates_and_the_same_decay(root: Path) -> None:
    settings = {"learning_rate": 1e-4, "weight_decay": 0.1}
    plain = rates_of(make_trainer(root, **settings))
    found = rates_of(make_trainer(root, learning_rates={"vision_tower": 1e-6, "projector": 3e-4}, **settings))
    assert found.keys() == plain.keys()
    rates = {"vision_tower": 1e-6, "multi_modal_projector": 3e-4, "image_newline": 3e-4, "language_model": 1e-4}
    for name, (rate, decay) in found.items():
        assert rate == pytest.approx(rates[name.split(".")[1]], rel=1e-12), name
        assert decay == plain[name][1]
    assert {decay for _, decay in found.values()} == {0.0, 0.1}


def test_beside_muon_a_parts_rate_scales_both(root: Path) -> None:
    settings = {"learning_rate": 1e-3, "muon_learning_rate": 0.01, "learning_rates": {"vision_tower": 1e-4}}
    trainer = make_trainer(root, **settings)
    found = {name: rate for name, (rate, _) in rates_of(trainer).items()}
    assert found["backbone.vision_tower.encoder.layers.0.mlp.fc1.weight"] == pytest.approx(1e-3)
    assert found["backbone.vision_tower.encoder.layers.0.mlp.fc1.bias"] == pytest.approx(1e-4)
    assert found["backbone.language_model.layers.0.mlp.up_proj.weight"] == 0.01
    trainer.create_scheduler(10)
    trainer.lr_scheduler.base_lrs = [0.0] * len(trainer.lr_scheduler.base_lrs)
    trainer.lr_scheduler.step()
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    run_steps(trainer, [make_pairs(root, 4)])
    trainer.optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())  # a scheduler reaches all


def flat_parts(trainer: LlaveTrainer) -> dict[str, torch.Tensor]:
    return {part: torch.cat([p.detach().flatten() for p in part_parameters(trainer.model, part)]) for part in PARTS}


def test_a_tenth_of_the_rate_is_a_tenth_of_the_step(root: Path) -> None:
    moved = []
    for rates in (None, {"vision_tower": 1e-4}):
        trainer = make_trainer(root, double=True, learning_rate=1e-3, learning_rates=rates)
        before = {
            part: torch.cat([p.detach().flatten() for p in part_parameters(trainer.model, part)]) for part in PARTS
        }
        take_steps(trainer, make_pairs(root, 4), 1)
        after = {
            part: torch.cat([p.detach().flatten() for p in part_parameters(trainer.model, part)]) for part in PARTS
        }
        moved.append({part: after[part] - before[part] for part in PARTS})
    torch.testing.assert_close(moved[1]["vision_tower"], moved[0]["vision_tower"] / 10, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(moved[1]["language_model"], moved[0]["language_model"])


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown part": ({"learning_rates": {"visual": 1e-5}}, "learning_rates names 'visual'; the parts are"),
    "frozen part": ({"learning_rates": {"projector": 1e-5}, "freeze": ["projector"]}, "projector a rate, but it is"),
    "under an adapter": ({"learning_rates": {"vision_tower": 1e-5}, "lora": {}}, "but it is frozen"),
    "no number": ({"learning_rates": {"projector": "fast"}}, "learning_rates.projector is 'fast'"),
    "checkpoint nothing": ({"checkpoint_parts": ["vision_tower"]}, "without gradient_checkpointing: true"),
    "checkpoint what": ({"checkpoint_parts": ["projector"], "gradient_checkpointing": True}, "checkpoint_parts is"),
    "reentrant": (
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        "use_reentrant: true loses gradients",
    ),
    "half": ({"master_weights": "float16"}, "master_weights is 'float16'; choose float32 or bfloat16"),
    "all frozen": ({"freeze": list(PARTS)}, "freeze names all parts"),
    "lora's key": ({"lora": {"rank": 8}}, "lora has the keys rank; it takes r, alpha"),
    "lora's r": ({"lora": {"r": 0}}, "lora.r is 0"),
    "lora's part": ({"lora": {"parts": ["visual"]}}, r"lora.parts is \['visual'\]"),
    "lora on frozen": (
        {"lora": {}, "freeze": ["language_model"]},
        "language_model stands in freeze and in lora.parts",
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_contradict_each_other_are_named(name: str, tmp_path: Path) -> None:
    settings, message = SETTINGS[name]
    with pytest.raises(ValueError, match=message):
        LlaveTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)


# Checkpointing


def enable_checkpointing(model: LlaveModel) -> None:
    """As Trainer does at the start of a run; transformers 5.23 renamed the method."""
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()


def checkpointed(root: Path, parts: list[str] | None, **changes: Any) -> LlaveTrainer:
    """A trainer as it is when its first step begins."""
    settings = {} if parts == [] else {"gradient_checkpointing": True, "checkpoint_parts": parts, "disable_tqdm": True}
    trainer = make_trainer(root, double=True, **settings, **changes)
    trainer.lean = LeanForward()  # which does more where nothing is checkpointed, and sums in another order
    if settings:
        enable_checkpointing(trainer.model)
    trainer.model.train()
    trainer.control = trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
    return trainer


def test_checkpointed_parts_hold_less_and_give_the_same_gradients(root: Path) -> None:
    pairs = make_pairs(root, 6)
    plain = checkpointed(root, [])
    losses, expected = run_steps(plain, [pairs])
    peaks = {(): peak_of_kept_bytes(plain, pairs)}
    for parts in (["vision_tower"], ["language_model"], None):
        trainer = checkpointed(root, parts)
        found = run_steps(trainer, [pairs])
        assert found[0] == losses
        assert found[1].keys() == expected.keys()
        assert furthest(found[1], expected) == 0
        peaks[tuple(parts or PARTS)] = peak_of_kept_bytes(trainer, pairs)
    tower, language, both = (peaks[()] - peaks[parts] for parts in (("vision_tower",), ("language_model",), PARTS))
    assert tower > 0.05 * peaks[()]  # the tower is small
    assert language > 0.5 * peaks[()]
    assert both == pytest.approx(tower + language, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_the_chosen_part_only_are_checkpointed(kind: str, root: Path, tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "backbone", kind)
    model, processor = LlaveModel.from_pretrained(folder), LlaveProcessor.from_pretrained(folder)
    settings = {"gradient_checkpointing": True, "checkpoint_parts": ["vision_tower"], "disable_tqdm": True}
    trainer = trainer_of(model, processor, root, **settings)
    enable_checkpointing(model)
    trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
    on = {name.split(".")[1] for name, module in model.named_modules() if getattr(module, "gradient_checkpointing", 0)}
    assert on == {"visual" if "qwen" in kind else "vision_tower"}


def test_a_frozen_tower_does_not_run_backwards_under_checkpointing(root: Path) -> None:
    trainer = checkpointed(root, None, freeze=["vision_tower"])
    runs: list[bool] = []
    layer = trainer.model.backbone.vision_tower.encoder.layers[0]
    layer.mlp.register_forward_hook(lambda module, args, output: runs.append(output.requires_grad))
    run_steps(trainer, [make_pairs(root, 4)])
    assert runs
    assert not any(runs)


# Precision


def save_in_bfloat16(folder: Path) -> Path:
    model, processor = tiny_model(processor={"image_tiling": "none"})
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def bfloat16_trainer(root: Path, tmp_path: Path, **changes: Any) -> LlaveTrainer:
    folder = save_in_bfloat16(tmp_path / "model")
    model, processor = LlaveModel.from_pretrained(folder), LlaveProcessor.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}  # as it is stored
    return trainer_of(model, processor, root, **changes)


def dtypes_of(trainer: LlaveTrainer) -> dict[str, set[torch.dtype]]:
    return {part: {p.dtype for p in part_parameters(trainer.model, part) if p.ndim > 1} for part in PARTS}


def test_trained_weights_are_float32_and_frozen_ones_stay(root: Path, tmp_path: Path) -> None:
    trainer = bfloat16_trainer(root, tmp_path, bf16=True, freeze=["vision_tower"])
    half, single = {torch.bfloat16}, {torch.float32}
    assert dtypes_of(trainer) == {"vision_tower": half, "projector": single, "language_model": single}
    norms = [m for m in trainer.model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert {m.weight.dtype for m in norms} == single
    without_autocast = bfloat16_trainer(root, tmp_path, freeze=["vision_tower"])
    assert set.union(*dtypes_of(without_autocast).values()) == single


def test_small_updates_are_kept_in_float32_and_lost_in_bfloat16(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("llave_hf.training.tuning.precision.logger.warning", said.append)
    moved = {}
    for master in ("float32", "bfloat16"):
        trainer = bfloat16_trainer(root, tmp_path, bf16=True, master_weights=master, learning_rate=1e-5)
        language_model = trainer.model.backbone.language_model
        norms = [p for name, p in language_model.named_parameters() if name.endswith("layernorm.weight")]
        assert all((p.detach() == 1).all() for p in norms)  # far above 1e-5 / LOST_SHARE
        take_steps(trainer, make_pairs(root, 4), 5)
        moved[master] = sum(int((p.detach() != 1).sum()) for p in norms) / sum(p.numel() for p in norms)
    assert moved["float32"] > 0.9
    assert moved["bfloat16"] == 0
    (warning,) = said
    assert "weights above 0.00512 do not move" in warning
    number = torch.tensor(1.99, dtype=torch.bfloat16)
    assert number + 0.99 * LOST_SHARE * number == number


def test_a_frozen_tower_in_bfloat16_gives_what_float32_gives_to_its_precision(root: Path, tmp_path: Path) -> None:
    """Not to the bit: under autocast, float32 weights keep sums of layers in float32."""
    pairs = make_pairs(root, 6, kinds=("image",))
    frozen = bfloat16_trainer(root, tmp_path, bf16=True, freeze=["vision_tower"])
    model = LlaveModel.from_pretrained(tmp_path / "model", dtype=torch.float32)
    whole = trainer_of(model, frozen.processing_class, root, bf16=True, freeze=["vision_tower"])
    vectors = []
    for trainer in (frozen, whole):
        batch = trainer.data_collator(pairs)
        with trainer.accelerator.autocast(), torch.no_grad():
            vectors.append(
                trainer.model.eval()(micro_batches=[*map(trainer.model_input, batch["micro_batches"])]).embeddings
            )
    cosines = (vectors[0] * vectors[1]).sum(-1)
    assert cosines.min() > 0.999
    assert not torch.equal(*vectors)


def test_the_finished_folder_has_the_dtype_that_was_opened_and_its_vectors_are_those_evaluated(
    tmp_path: Path,
) -> None:
    data = write_training_data(tmp_path)
    base = save_in_bfloat16(tmp_path / "base")
    settings = {"model": str(base), "from_scratch": None, "processor": {}, "bf16": True, "freeze": ["vision_tower"]}
    trainer = train(load_recipe(write_recipe(data, **settings, max_steps=3)))
    out = data / "out"
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModel.from_pretrained(out).dtype == torch.bfloat16
    kept = load_file(out / "checkpoint-3" / "model.safetensors")
    assert kept["backbone.vision_tower.embeddings.patch_embedding.weight"].dtype == torch.bfloat16
    assert kept["backbone.language_model.embed_tokens.weight"].dtype == torch.float32
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, kept[name].to(torch.bfloat16)), name
    whole = train(
        load_recipe(write_recipe(data, **settings, max_steps=1, dtype="float32", output_dir=str(data / "f")))
    )
    assert {parameter.dtype for parameter in whole.model.parameters()} == {torch.float32}
    assert json.loads((data / "f" / "config.json").read_text())["dtype"] == "float32"


def test_parts_rates_and_precision_resume_to_the_bit(tmp_path: Path) -> None:
    data = write_training_data(tmp_path)
    base = save_in_bfloat16(tmp_path / "base")
    recipe = write_recipe(
        data,
        model=str(base),
        from_scratch=None,
        processor={},
        bf16=True,
        freeze=["vision_tower"],
        learning_rates={"projector": 1e-2},
        gradient_checkpointing=True,
        checkpoint_parts=["language_model"],
        max_steps=6,
        save_steps=3,
    )
    train(load_recipe(recipe))
    (data / "broken").mkdir()
    (data / "out" / "checkpoint-3").rename(data / "broken" / "checkpoint-3")
    main([str(recipe), "--output_dir", str(data / "broken"), "--resume_from_checkpoint"])
    first, second = (load_file(data / run / "checkpoint-6/model.safetensors") for run in ("out", "broken"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("frozen", [[], ["vision_tower"], ["projector"], ["language_model"]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_two_dtypes_meet_in_every_backbone(root: Path, tmp_path: Path, kind: str, frozen: list[str]) -> None:
    folder = save_backbone(tmp_path / "backbone", kind)
    model = LlaveModel.from_pretrained(folder, dtype=torch.bfloat16)
    processor = LlaveProcessor.from_pretrained(folder)
    trainer = trainer_of(model, processor, root, bf16=True, freeze=frozen)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    take_steps(trainer, make_pairs(root, 4), 1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all(model.get_parameter(name).requires_grad for name in moved)
