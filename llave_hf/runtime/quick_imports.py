"""Imports without a look for garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """For the imports that a program begins with: Python does not look for garbage among what they make.

    All of it stays, a million objects of torch and transformers, and the looking took a fifth of a start. Nor are they
    looked through later.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
