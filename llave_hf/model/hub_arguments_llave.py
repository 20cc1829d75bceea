"""Arguments of `from_pretrained` that say where files come from. Self-contained: the file travels with a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def split_hub_arguments(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`(arguments of the Hub, the others)`; those that only transformers' Auto classes pass on are in neither."""
    hub = {key: value for key, value in kwargs.items() if key in HUB_ARGUMENTS}
    own = {
        key: value
        for key, value in kwargs.items()
        if key not in HUB_ARGUMENTS and key != "trust_remote_code" and not key.startswith("_")
    }
    return hub, own
