"""Keeps lines of libraries that nobody can act on out of a run's log."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers.utils.logging import set_tqdm_hook

from llave_hf.runtime.library_lines import leave_out_lines

SOON = 5.0  # seconds
# Say things of settings and data, which all ranks would say alike.
_OF_ALL_RANKS = (
    *("llave_hf.data.rows", "llave_hf.data.stored", "llave_hf.data.batches.global_batches"),
    *("llave_hf.training.recipe", "llave_hf.training.tuning"),
)


def shorten_log() -> None:
    """Leaves out lines of libraries, and on other ranks than the first what all would say alike.

    To be called before peft or DeepSpeed are imported. Weights that are read or written get a progress bar where that
    takes long, and on one rank of a machine.
    """
    leave_out_lines()
    if os.environ.get("RANK", "0") != "0":
        for name in _OF_ALL_RANKS:
            logging.getLogger(name).setLevel(logging.ERROR)
    set_tqdm_hook(_slow_bar)


def _slow_bar(factory: Callable[..., Any], args: Sequence[Any], settings: Mapping[str, Any]) -> Any:
    elsewhere = {} if os.environ.get("LOCAL_RANK", "0") == "0" else {"disable": True}
    return factory(*args, **{"delay": SOON, **settings, **elsewhere})
