"""Bars with the time left, for what takes longer than a few seconds; quick work shows none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from tqdm.auto import tqdm

PATIENCE = 5.0  # seconds before a bar appears
_LOOKS = 0.5  # seconds between two looks at files that grow
_SHARES = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"  # of work that has no unit for people


def patient_bar(entries: Iterable[Any], what: str, **options: Any) -> Any:
    """tqdm over some entries that appears after [`PATIENCE`] only."""
    return tqdm(entries, desc=what, delay=PATIENCE, **options)


@contextlib.contextmanager
def writing_bar(folder: Path, expected: int, what: str) -> Iterator[None]:
    """Shows how much of a folder is written while the context lasts.

    Args:
        folder: What is being written; need not exist yet.
        expected: Bytes that it will have.
        what: Names the bar.
    """
    done = threading.Event()

    def watch() -> None:
        with tqdm(total=expected, desc=what, delay=PATIENCE, unit="B", unit_scale=True) as bar:
            while not done.wait(_LOOKS):
                bar.update(min(_size(folder), expected) - bar.n)
            bar.update(expected - bar.n)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):  # renamed between two looks
            total += path.stat().st_size
    return total


@contextlib.contextmanager
def forward_bar(model: nn.Module, inputs: Iterable[Mapping[str, Any]], what: str) -> Iterator[None]:
    """Shows how far a model has come with some inputs while the context lasts, layer by layer.

    Args:
        model: A [`LlaveModel`].
        inputs: All that it will be given: the processor's outputs.
        what: Names the bar.
    """
    stacks = _stacks(model)
    tower = _vision_stack(model, stacks)
    costs = {stack: sum(p.numel() for p in stack.parameters()) for stack in stacks}
    total = 0.0
    for given in inputs:
        total += sum(costs[s] for s in stacks if s is not tower) * given["input_ids"].numel()
        total += costs.get(tower, 0) * _patches(model, given) if tower is not None else 0
    with tqdm(total=total, desc=what, delay=PATIENCE, bar_format=_SHARES) as bar:

        def hook(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            done = sum(p.numel() for p in layer.parameters()) * (hidden.numel() // hidden.shape[-1])
            bar.update(min(done, total - bar.n))

        handles = [layer.register_forward_hook(hook, with_kwargs=True) for stack in stacks for layer in stack]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _stacks(model: nn.Module) -> list[nn.ModuleList]:
    """The lists of layers through which hidden states pass: of the language model and of the vision tower."""
    names = ("layers", "blocks")
    return [m for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and name.split(".")[-1] in names]


def _vision_stack(model: nn.Module, stacks: list[nn.ModuleList]) -> nn.ModuleList | None:
    language = set(map(id, model.backbone.language_model.modules()))  # type: ignore[union-attr]
    return next((stack for stack in stacks if id(stack) not in language), None)


def _patches(model: nn.Module, inputs: Mapping[str, Any]) -> float:
    config: Any = model.config
    vision = config.backbone_config.vision_config
    numbers = 3 * vision.patch_size**2 * getattr(vision, "temporal_patch_size", 1)  # of a patch
    return sum(inputs[name].numel() for name in inputs if name.startswith("pixel_values")) / numbers
