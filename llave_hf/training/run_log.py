"""What a run's log leaves out, because nobody can act on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers.utils.logging import set_tqdm_hook

SOON = 5.0  # seconds
LEFT_OUT = {
    # On import, also where nothing has four bits: that a faster kernel could be downloaded.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    # On import, also where DeepSpeed is installed and not used: that there is no GPU.
    "DeepSpeed": "Setting accelerator to CPU",
}


class _Without(logging.Filter):
    """Without the messages that start so."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self.start = start

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.start)


def shorten_log() -> None:
    """Leaves out lines of libraries; to be called before peft or DeepSpeed are imported.

    Weights that are read or written get a progress bar where that takes long, and on one rank of a machine.
    """
    for name, start in LEFT_OUT.items():
        logging.getLogger(name).addFilter(_Without(start))
    set_tqdm_hook(_slow_bar)


def _slow_bar(factory: Callable[..., Any], args: Sequence[Any], settings: Mapping[str, Any]) -> Any:
    elsewhere = {} if os.environ.get("LOCAL_RANK", "0") == "0" else {"disable": True}
    return factory(*args, **{"delay": SOON, **settings, **elsewhere})
