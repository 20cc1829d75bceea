"""A training step in bfloat16, and encoding, beside sentence-transformers: same weights, same inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rows import FAILED, OK, Row, Setting, bounded, median_seconds
from sentence_transformers import SentenceTransformer
from step_data import TEXT, VISION, as_stock_input, open_data, save_model, write_data
from step_sides import DEFAULT, Limit, Ours, Side, Theirs
from step_times import StepTimes
from transformers import PrinterCallback

from llave_hf import LlaveSentenceTransformer

# Some 300 million parameters: a ViT-B of 196 patches, and half of the layers of a 0.5B language model.
LARGER_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
LARGER_TEXT = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 12,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "initializer_range": 0.033,
}
WORKLOAD = "images to texts"
WARM_UP = 2
LOSS_APART, COSINE = 0.02, 0.99  # what bfloat16 leaves of equality


def rows(setting: Setting) -> Iterator[Row]:
    pairs = 16 if setting.small else 256
    steps = WARM_UP + (2 if setting.small or setting.quick else 6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = write_data(folder / "data", pairs * steps + 64)
        shapes = (VISION, TEXT) if setting.small else (LARGER_VISION, LARGER_TEXT)
        save_model(folder / "model", texts, *shapes)
        yield from _steps(folder, setting, pairs, steps)
        yield from _encoding(folder, setting, count=24 if setting.small else 768)


def _steps(folder: Path, setting: Setting, pairs: int, steps: int) -> Iterator[Row]:
    data, on = open_data(folder / "data", WORKLOAD), {"device": setting.device, "bf16": True}
    ours = Ours(folder, data, True, pairs, steps, **on)
    sides: tuple[Side, Side] = ours, Theirs(folder, data, True, ours.batches(), steps, **on)
    for side in sides:
        _seconds(side, setting, DEFAULT)  # warms up: kernels are chosen by shape, and batches differ
    apart = abs(sides[0].first_loss() / sides[1].first_loss() - 1)
    yield bounded("first loss, relative to theirs", apart, LOSS_APART)
    for size in (DEFAULT.size, 4 * (DEFAULT.size or 0)):
        found = [_seconds(side, setting, Limit(size=size)) for side in sides]
        said = f"{pairs / found[0]:.1f} / {pairs / found[1]:.1f} pairs/s, {found[1] / found[0]:.2f} x"
        yield Row(f"step in bfloat16, frozen tower, {pairs} pairs, mini-batches of {size}: llave_hf / theirs", said)


def _seconds(side: Side, setting: Setting, limit: Limit) -> float:
    """Of a step, when it is warm."""
    side.set_limit(limit)
    times = StepTimes(setting.device, WARM_UP)
    side.trainer.remove_callback(PrinterCallback)
    side.trainer.add_callback(times)
    side.trainer.train()
    side.trainer.remove_callback(times)
    return times.median


def _encoding(folder: Path, setting: Setting, count: int) -> Iterator[Row]:
    data = open_data(folder / "data", WORKLOAD)
    pairs = [data[row] for row in range(count // 2)]
    inputs = [as_stock_input(sample) for pair in pairs for sample in (pair.query, pair.positive)]
    model, options = str(folder / "model"), {"dtype": torch.bfloat16}
    ours = LlaveSentenceTransformer(model, device=setting.device, model_kwargs=options)
    stock = SentenceTransformer(model, device=setting.device, model_kwargs=options)
    found, expected = ours.encode(inputs), stock.encode(inputs)
    least = float((found * expected).sum(1).min() if np.isfinite(found).all() else np.nan)
    yield Row("encode in bfloat16, least cosine", f"{least:.4f}", f"≥ {COSINE}", OK if least >= COSINE else FAILED)
    actions = [partial(ours.encode, inputs), partial(stock.encode, inputs)]
    taken = median_seconds(setting, actions, rounds=1 if setting.quick else 3)
    said = f"{count / taken[0]:.0f} / {count / taken[1]:.0f} inputs/s, {taken[1] / taken[0]:.2f} x"
    yield Row(f"encode in bfloat16, {count} texts and pictures: llave_hf / theirs", said)
