"""Keeps the features of a frozen vision tower from the first pass of gradient caching to the third.

Tried first on a micro-batch of each kind, see [`Proofs`].

The tower's layers are looked at, not the tower: what follows them (a projector, Qwen-VL's merger) may be trained and
runs in both passes. While a micro-batch is replayed, a layer whose output somebody reads gives what it gave before,
and every other layer does nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from llave_hf.encoding.proofs import Proofs
from llave_hf.model.backbones_llave import backbone_of
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.training.tuning.parts import part_parameters

from .trial import MicroBatch, embeddings_and_gradients, kind_of, random_numbers_kept

logger = logging.getLogger(__name__)

KEEPING = "Keeping the features of the frozen vision tower"

Outputs = dict[int, list[Any]]  # of a layer, by its number: what it gave, call by call


class TowerMemory:
    """Keeps what a tower's layers gave, within a budget.

    Args:
        layers: By number.
        read: The numbers of those whose output is read by anything but the next layer.
        max_bytes: Of all that is kept; micro-batches beyond it run through the tower twice.
    """

    def __init__(self, layers: Mapping[int, nn.Module], read: set[int], max_bytes: float) -> None:
        self.layers = layers
        self.read = read
        self.max_bytes = max_bytes
        self._kept: dict[int, Outputs] = {}
        self._sizes: dict[int, int] = {}

    @classmethod
    def none(cls) -> TowerMemory:
        """A memory that keeps nothing."""
        return cls({}, set(), 0)

    @classmethod
    def of(cls, model: LlaveModel, max_bytes: float) -> TowerMemory:
        """A memory for a model's tower; it keeps nothing where the tower is trained or draws random numbers."""
        config = model.config.backbone_config
        frozen = not any(parameter.requires_grad for parameter in part_parameters(model, "vision_tower"))
        if max_bytes <= 0 or not frozen or _draws_random_numbers(config.vision_config):
            return cls.none()
        (path,) = backbone_of(config.model_type).parts["vision_tower"]
        depth = getattr(config.vision_config, "depth", None) or config.vision_config.num_hidden_layers
        stacks = (
            module for module in model.backbone.get_submodule(path).modules() if isinstance(module, nn.ModuleList)
        )
        layers = next((stack for stack in stacks if len(stack) == depth), None)
        if layers is None:
            logger.warning("%s is left out: the tower holds no list of %d layers.", KEEPING, depth)
            return cls.none()
        return cls(dict(enumerate(layers)), _read_layers(config, depth), max_bytes)

    def suits(self, model: LlaveModel, micro_batch: MicroBatch) -> bool:
        """Whether kept features give the embeddings and gradients of a micro-batch, on the model's device."""
        if not self.layers or not kind_of(micro_batch):
            return True

        def replayed() -> list[torch.Tensor]:
            memory = TowerMemory(self.layers, self.read, max_bytes=float("inf"))
            with torch.no_grad(), random_numbers_kept(micro_batch), memory.recording(0):
                model(micro_batches=[micro_batch])
            with memory.replaying(0):
                return embeddings_and_gradients(model, micro_batch)

        return Proofs.of(model).holds(
            KEEPING, kind_of(micro_batch), plain=lambda: embeddings_and_gradients(model, micro_batch), short=replayed
        )

    @property
    def kept_bytes(self) -> int:
        return sum(self._sizes.values())

    @contextmanager
    def recording(self, number: int) -> Iterator[None]:
        """Keeps what the layers give within it as micro-batch `number`'s, if there is room."""
        outputs: Outputs = {index: [] for index in self.read}
        handles = [self.layers[index].register_forward_hook(_keep_in(outputs[index])) for index in self.read]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        size = sum(_num_bytes(output) for given in outputs.values() for output in given)
        if size and self.kept_bytes + size <= self.max_bytes:
            self._kept[number], self._sizes[number] = outputs, size

    def replaying(self, number: int) -> AbstractContextManager[None]:
        """Lets the layers give again within it what was kept as micro-batch `number`'s, which is then forgotten."""
        outputs = self._kept.pop(number, None)
        self._sizes.pop(number, None)
        return nullcontext() if outputs is None else self._stubbed(outputs)

    @contextmanager
    def _stubbed(self, outputs: Outputs) -> Iterator[None]:
        # An instance's own attribute goes before its class's forward; a wrapper may have put one there already.
        before = {index: vars(layer).get("forward") for index, layer in self.layers.items()}
        for index, layer in self.layers.items():
            layer.forward = _give_again(outputs[index]) if index in self.read else _pass_on
        try:
            yield
        finally:
            for index, layer in self.layers.items():
                del layer.forward
                if (forward := before[index]) is not None:
                    layer.forward = forward


def _read_layers(config: Any, depth: int) -> set[int]:
    """Layers whose output is read: LLaVA-OneVision's feature layers, Qwen-VL's last and those of its deep stack."""
    chosen = getattr(config, "vision_feature_layer", -1)
    places = [chosen] if isinstance(chosen, int) else list(chosen)
    deep = getattr(config.vision_config, "deepstack_visual_indexes", None) or ()
    # Place 0 is the input of the first layer; it is there without any memory.
    return {place % (depth + 1) - 1 for place in places if place % (depth + 1)} | set(deep)


def _draws_random_numbers(vision_config: Any) -> bool:
    """Dropout in the tower: without it in the third pass, the language model would draw other numbers."""
    names = ("attention_dropout", "hidden_dropout", "dropout", "drop_path_rate", "hidden_dropout_prob")
    return any(getattr(vision_config, name, 0) for name in names)


def _keep_in(given: list[Any]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        given.append(output)

    return hook


def _give_again(given: list[Any]) -> Callable[..., Any]:
    rest = iter(given)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return next(rest)

    return forward


def _pass_on(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return hidden_states


def _num_bytes(output: Any) -> int:
    tensors = output if isinstance(output, tuple) else (output,)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, torch.Tensor))
