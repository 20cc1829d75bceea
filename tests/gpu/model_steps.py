"""Steps of models in real shapes with random weights and pictures in real sizes: how much of the card's arithmetic
they use, and their memory beside what `llave doctor` estimates.

Model FLOPs are counted by `torch.utils.flop_counter` over forward and backward of each distinct sample by itself: no
padding, nothing shared, nothing run twice, a frozen tower forward alone. The step itself is the recipe's: gradient
caching, activation checkpointing, bfloat16, AdamW. Its time is from the batch being there to the weights being
changed.
"""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from card import peak_tflops
from helpers import picture
from rows import FAILED, OK, SKIPPED, Row, Setting
from step_times import StepTimes
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llave_hf.checkpoints.from_scratch import build_from_scratch
from llave_hf.data.batches.collator import LlaveCollator
from llave_hf.data.pairs import load_pairs
from llave_hf.doctor.estimates import memory
from llave_hf.training.recipe.recipe import Recipe, load_recipe
from llave_hf.training.trainer import LlaveTrainer

SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
QWEN2_0_5B = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
}
QWEN2_1_5B = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
}
SHAPES = {"0.5B": QWEN2_0_5B, "2B": QWEN2_1_5B}
TINY_TOWER = {**SIGLIP, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES = ((640, 480), (480, 640), (500, 375), (375, 500))  # of COCO's and Flickr's pictures
PROCESSOR = {"max_length": 4096, "image_grid_pinpoints": [[384, 384], [384, 768], [768, 384], [768, 768]]}
WARM_UP = 2
# Estimates are for planning: a run must not need much more, nor be told that it needs twice as much.
LEAST, MOST = 0.5, 1.2


def rows(setting: Setting) -> Iterator[Row]:
    for name, text in SHAPES.items():
        if name == "2B" and setting.quick:
            yield Row(f"{name}-shaped step", "left out by --quick", "", SKIPPED)
            continue
        with tempfile.TemporaryDirectory() as folder:
            yield from _rows_of(name, text, setting, Path(folder))
        gc.collect()
        if setting.on_gpu:
            torch.cuda.empty_cache()


def _rows_of(name: str, text: dict[str, Any], setting: Setting, root: Path) -> Iterator[Row]:
    pairs, steps = (2, 4) if setting.small else (32, WARM_UP + (3 if setting.quick else 6))
    recipe = _recipe(root, text, setting, pairs, steps)
    trainer = _trainer(recipe, setting)
    times = StepTimes(setting.device, WARM_UP)
    trainer.add_callback(times)
    batch = [trainer.train_dataset[row] for row in range(pairs)]
    lengths = _lengths(trainer, batch)
    weights, states, activations = memory(recipe, lengths)
    estimated = weights + states + activations
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    peak = torch.cuda.max_memory_allocated() if setting.on_gpu else None
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    tokens = int(lengths.sum())
    what = f"{name}-shaped step, {parameters / 1e9:.2f} B parameters, {pairs} pairs, {tokens:,} tokens"
    seconds = times.median
    yield Row(what, f"{seconds:.3f} s, {tokens / seconds:,.0f} tokens/s; {times.median_wait:.3f} s between steps")
    flops, card = model_flops(trainer, batch) / 1e12, peak_tflops(setting.device, setting.peak_tflops)
    said = f"{flops:.3g} Tflop, {flops / seconds:.3g} Tflop/s"
    said += f" of {card:g}: {flops / seconds / card:.1%}" if card else "; the device's peak is not known"
    yield Row(f"{name}-shaped step, model FLOPs", said, "", OK if card else SKIPPED)
    parts = {"weights": weights, "gradients and optimizer": states, "activations": activations}
    told = ", ".join(f"{part} {size / 1e9:.2f}" for part, size in parts.items())
    told = f"estimate {estimated / 1e9:.2f} GB ({told})"
    if peak is None:
        yield Row(f"{name}-shaped step, memory", f"{told}; a CPU does not count what is held", "", SKIPPED)
        return
    ratio = peak / estimated
    found = f"{peak / 1e9:.2f} GB at the most, {ratio:.2f} of the {told}"
    yield Row(f"{name}-shaped step, memory", found, f"{LEAST} to {MOST}", OK if LEAST <= ratio <= MOST else FAILED)


def _recipe(root: Path, text: dict[str, Any], setting: Setting, pairs: int, steps: int) -> Recipe:
    """The paper's settings, on pictures and captions of noise."""
    (root / "rows").mkdir()
    lines = []
    for row in range(pairs * (steps + 1)):
        picture(*SIZES[row % len(SIZES)], seed=row).save(root / f"{row}.jpg")
        caption = f"number {row}: " + "a caption of some twenty words that says what is to be seen " * (1 + row % 2)
        lines.append(
            {
                "qry": "<|image_1|>\nFind an image caption describing the given everyday image.\n",
                "qry_image_path": f"{row}.jpg",
                "pos_text": caption,
                "pos_image_path": "",
            }
        )
    (root / "rows" / "original.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    tower = {**SIGLIP, **(TINY_TOWER if setting.small else {})}
    language = {**text, **(TINY if setting.small else {}), "num_key_value_heads": 2}
    fields = {
        "output_dir": str(root / "out"),
        "from_scratch": {"vocab_size": language["vocab_size"], "vision_config": tower, "text_config": language},
        "processor": PROCESSOR,
        "train_data": str(root),
        "media_root": str(root),
        "use_cpu": not setting.on_gpu,
        "bf16": True,
        "tf32": True if setting.on_gpu else None,
        "gradient_checkpointing": True,
        "freeze": ["vision_tower"],
        "per_device_train_batch_size": pairs,
        "mini_batch_num_tokens": 16_384,
        "learning_rate": 1e-5,
        "max_steps": steps,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0 if setting.small else 8,
        "telemetry_every": 0,
    }
    path = root / "recipe.yaml"
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))  # JSON is YAML
    return load_recipe(path)


def _trainer(recipe: Recipe, setting: Setting) -> LlaveTrainer:
    fields = recipe.model.from_scratch or {}
    dataset = load_pairs(recipe.data.train_data, media_root=recipe.data.media_root, use_negatives=False)
    with torch.device(setting.device):  # random weights are made where they are used
        model, processor = build_from_scratch(
            [pair.positive.text for pair in map(dataset.__getitem__, range(8))],
            vocab_size=512,  # of the tokenizer; the embedding has the whole vocabulary
            vision_config=fields["vision_config"],
            text_config=fields["text_config"],
            processor=recipe.model.processor,
        )
    return LlaveTrainer(model, recipe.training, train_dataset=dataset, processing_class=processor)


def _lengths(trainer: LlaveTrainer, pairs: list[Any]) -> np.ndarray:
    """Tokens of the samples of some pairs: `(2 B,)`."""
    batch = trainer.data_collator(pairs)
    lengths = [int(length) for part in batch["micro_batches"] for length in part["attention_mask"].sum(1)]
    used = [*batch["query_index"].tolist(), *batch["document_index"].tolist()]
    return np.array([lengths[index] for index in used])


def model_flops(trainer: LlaveTrainer, pairs: list[Any]) -> float:
    """Of forward and backward of each distinct sample; samples of equal shape are counted once and multiplied."""
    model: nn.Module = trainer.accelerator.unwrap_model(trainer.model)
    model.gradient_checkpointing_disable()
    model.zero_grad()
    counted: dict[Any, float] = {}
    total = 0.0
    for micro_batch in LlaveCollator(trainer.processing_class, mini_batch_size=1)(pairs)["micro_batches"]:
        shapes = tuple((name, tuple(value.shape)) for name, value in micro_batch.items() if torch.is_tensor(value))
        if shapes not in counted:
            counted[shapes] = _flops_of(model, trainer.model_input(micro_batch), trainer.args.device.type)
        total += counted[shapes]
    return total


def _flops_of(model: nn.Module, micro_batch: dict[str, Any], device: str) -> float:
    # The counter knows the attention kernels of GPUs; a CPU's is taken apart into products that it knows.
    attention = sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()
    with FlopCounterMode(display=False) as counter, attention, torch.autocast(device, torch.bfloat16):
        model(micro_batches=[micro_batch]).embeddings.sum().backward()
    model.zero_grad()
    return float(counter.get_total_flops())
