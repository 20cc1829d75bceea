"""Leaves out of what a command or a run prints those lines of libraries that nobody can act on."""

from __future__ import annotations

import logging
import warnings

LEFT_OUT = {
    # On import, also where nothing has four bits: that a faster kernel could be downloaded.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    # Before 0.48, likewise: that a CPU has no optimizer of eight bits.
    "bitsandbytes.cextension": "The 8-bit optimizer is not available",
    # On import, also where DeepSpeed is installed and not used: that there is no GPU.
    "DeepSpeed": "Setting accelerator to CPU",
    # Early 5.x, of each training: a configuration that no embedding depends on gets the tokenizer's marks.
    "transformers.trainer_utils": "The tokenizer has new PAD/BOS/EOS tokens",
}


DEPRECATED = (
    # In each step, of each rank: DeepSpeed 0.19 calls collectives by the names that they had before torch 2.14.
    r"`torch\.distributed\.\w+` is deprecated",
    # peft 0.21 asks a model by the name that this had before transformers 5.23.
    "`is_gradient_checkpointing` is deprecated",
)


class _Without(logging.Filter):
    """Without the messages that start so."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self.start = start

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.start)


def leave_out_lines() -> None:
    """To be called before these libraries are imported; imports nothing itself."""
    for name, start in LEFT_OUT.items():
        logging.getLogger(name).addFilter(_Without(start))
    for start in DEPRECATED:
        warnings.filterwarnings("ignore", start, FutureWarning)
