"""Opens whole models within a run whose engine (ZeRO-3, FSDP) would spread them over ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from transformers.integrations import deepspeed


@contextmanager
def whole_models() -> Iterator[None]:
    """What is opened or built within is whole, and this process needs no other one for it.

    In a run under ZeRO-3 transformers spreads every model that it opens over all ranks, by exchanges in which one rank
    alone waits for ever; with FSDP's `cpu_ram_efficient_loading` it gives weights to the first rank only.
    """
    reference = deepspeed._hf_deepspeed_config_weak_ref
    config = None if reference is None else reference()
    deepspeed.unset_hf_deepspeed_config()
    try:
        with patch.dict(os.environ, FSDP_CPU_RAM_EFFICIENT_LOADING="false"):
            yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)
