"""The models that are merged, each with its weights by name; they lie in their files until they are asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from llave_hf.checkpoints.adapters import merged, open_base
from llave_hf.errors import UserError
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.runtime.places import find_file


@dataclass
class Parent:
    """One of the models.

    Attributes:
        name: As the user gave it.
        model: Just opened, its weights in their file; of an adapter, its base.
        processor: The model's.
        home: Whose settings it has: `name`, or an adapter's base.
        tensors: Its weights and saved buffers by name, tied ones once; what an adapter changes, in float32.
        dtypes: What each of them is kept in; of an adapter, by its base.
    """

    name: str
    model: LlaveModel
    processor: LlaveProcessor
    home: str
    tensors: dict[str, Tensor] = field(init=False)
    dtypes: dict[str, torch.dtype] = field(init=False)

    def __post_init__(self) -> None:
        if getattr(self.model.config, "quantization_config", None) is not None:
            raise UserError(
                f"{self.name} is quantised, and its weights cannot be mixed; name the model that it was made of."
            )
        self.model.eval()
        self.tensors = own_tensors(self.model)
        self.dtypes = {name: tensor.dtype for name, tensor in self.tensors.items()}

    @property
    def is_adapter(self) -> bool:
        return self.name != self.home

    @property
    def commit(self) -> str | None:
        """Of the Hub, where the model came from there."""
        return getattr(self.model.config, "_commit_hash", None)


def own_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters and saved buffers of a model, those that assigning to `.data` changes."""
    saved = model.state_dict().keys()
    return {
        **{name: tensor for name, tensor in model.named_parameters() if name in saved},
        **{name: tensor for name, tensor in model.named_buffers() if name in saved},
    }


def open_parent(name: str | os.PathLike[str], scratch: Path) -> Parent:
    """Opens a whole model, or an adapter together with its base.

    Args:
        name: A folder or Hub id that [`check_model`] has found.
        scratch: A folder for what an adapter changes, which is then read from there.

    Raises:
        UserError: It is no LLaVE model or quantised, or `peft` is not installed for an adapter.
    """
    if find_file(name, "config.json") is None and find_file(name, "adapter_config.json") is not None:
        return _open_adapter(os.fspath(name), scratch)
    model = AutoModel.from_pretrained(name)
    if not isinstance(model, LlaveModel):
        raise UserError(f"{name} is a {type(model).__name__}, no LLaVE model; `llave init` makes one of a backbone.")
    return Parent(os.fspath(name), model, AutoProcessor.from_pretrained(name), os.fspath(name))


def open_base_of(adapter: Parent) -> Parent:
    """What an adapter was trained on, at the revision that the adapter names."""
    home, model, processor = open_base(adapter.name)
    return Parent(home, model, processor, home)


def _open_adapter(name: str, scratch: Path) -> Parent:
    """Merged by peft, whatever its kind, since a product of mean factors is no mean of products."""
    home, model, processor = open_base(name)
    parent = Parent(name, model, processor, home)
    whole = own_tensors(merged(open_base(name)[1], name))
    changed = {
        key: tensor.detach().contiguous()
        for key, tensor in whole.items()
        if not torch.equal(tensor, parent.tensors[key].to(tensor.dtype))
    }
    file = scratch / f"{len(list(scratch.iterdir()))}.safetensors"
    save_file(changed, file)
    parent.tensors.update(load_file(file))
    return parent
