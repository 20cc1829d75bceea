"""The vision towers that published configurations name, and where their weights come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import SiglipVisionModel
from transformers.utils import cached_file

from llave_hf.errors import UserError

GEOMETRY_FILE = "vision_tower_geometry.json"


@dataclass(frozen=True)
class VisionTower:
    """A SigLIP vision tower without its last layer, which the research code deletes.

    Args:
        num_hidden_layers: Layers that are left.
        name: The Hub id of the whole tower, for a checkpoint that carries no vision weights.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    name: str | None = None

    def to_config(self) -> dict[str, Any]:
        """Fields of transformers' `SiglipVisionConfig`."""
        fields = {key: value for key, value in vars(self).items() if key != "name"}
        return {"model_type": "siglip_vision_model", "vision_use_head": False, **fields}


# From the config.json of the named repositories; 27 layers, of which 26 are used.
KNOWN_TOWERS: Mapping[str, VisionTower] = {
    "google/siglip-so400m-patch14-384": VisionTower(1152, 4304, 26, 16, 384, 14),
}
_FIELDS = ("hidden_size", "intermediate_size", "num_attention_heads", "image_size", "patch_size")


def find_vision_tower(fields: Mapping[str, Any], source: str, hub: Mapping[str, Any]) -> VisionTower:
    """The geometry of a checkpoint's vision tower.

    From `tiny_vision_config` in config.json or `vision_tower_geometry.json` beside it (small checkpoints for tests
    have towers of their own), else from [`KNOWN_TOWERS`] by `mm_vision_tower`.

    Raises:
        UserError: It is named nowhere.
    """
    name = fields.get("mm_vision_tower")
    own, kept = fields.get("tiny_vision_config"), None
    if own is None and (file := _geometry_file(source, hub)) is not None:
        own = json.loads(Path(file).read_text(encoding="utf-8"))
        kept = own.get("num_hidden_layers_in_checkpoint")
    if own is not None:
        kept = own["num_hidden_layers"] - 1 if kept is None else kept
        return VisionTower(num_hidden_layers=kept, name=name, **{field: own[field] for field in _FIELDS})
    if name is None or name not in KNOWN_TOWERS:
        raise UserError(
            f"config.json of {source} names the vision tower {name!r} in mm_vision_tower, whose shape is not known "
            f"here; known: {', '.join(KNOWN_TOWERS)}. Put a {GEOMETRY_FILE} with {', '.join(_FIELDS)} and "
            "num_hidden_layers_in_checkpoint beside it."
        )
    return VisionTower(**{**vars(KNOWN_TOWERS[name]), "name": name})


def load_vision_weights(tower: VisionTower, source: str | None, dtype: torch.dtype, **hub: Any) -> SiglipVisionModel:
    """The tower's weights from a SigLIP repository or folder, the last layers left out.

    Args:
        tower: Its geometry.
        source: A folder or a Hub id; None takes the one that the configuration names.
        dtype: Of the weights.

    Raises:
        UserError: It cannot be read, or does not have the tower's shape.
    """
    source = source or tower.name
    if source is None:
        raise UserError("the checkpoint carries no vision weights and config.json names no mm_vision_tower; name one.")
    try:
        model, info = SiglipVisionModel.from_pretrained(
            source,
            num_hidden_layers=tower.num_hidden_layers,
            vision_use_head=False,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **hub,
        )
    except OSError as error:
        raise UserError(
            f"the checkpoint carries no vision weights, and {source} cannot be read ({_first_line(error)}); download "
            f"it (hf download {tower.name}) and name the folder: --vision-tower DIR."
        ) from error
    found = {field: getattr(model.config, field) for field in _FIELDS}
    expected = {field: getattr(tower, field) for field in _FIELDS}
    if found != expected or info["missing_keys"]:
        raise UserError(f"{source} is a vision tower with {found}; the checkpoint needs {expected}.")
    return model


def _geometry_file(source: str, hub: Mapping[str, Any]) -> str | None:
    return cached_file(
        source,
        GEOMETRY_FILE,
        **hub,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
