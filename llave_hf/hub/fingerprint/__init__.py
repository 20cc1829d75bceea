"""What a model makes of fixed inputs, written beside it and checked later, stage by stage (`llave verify`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llave_hf.runtime.lazy_names import lazy_names

if TYPE_CHECKING:
    from .fingerprint import write_fingerprint
else:
    __getattr__, __dir__ = lazy_names(__name__, {"write_fingerprint": "fingerprint"})

__all__ = ["write_fingerprint"]
