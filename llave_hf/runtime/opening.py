"""Casts a model that was just opened to the dtype in which it is to compute, without a second whole copy.

Weights lie in the memory map of their file until they are used. They are widened one by one, and the map's pages given
back at once, so that the process never holds both whole copies.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import logging
import mmap
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from llave_hf import distributed

from .processor_dtypes import opening_dtype
from .progress import patient_bar

_MAPS = Path("/proc/self/maps")


def suit_processor(model: nn.Module, name: str, *, keep: bool = True) -> None:
    """Widens a model to float32 where the CPU that it is on does not multiply its type, and says so in one line.

    Args:
        model: Just opened, nothing of it changed since; also what holds one, such as a `SentenceTransformer`.
        name: What the line calls it.
        keep: Whether the line names the option by which a command computes in the type that is kept.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return
    kept, wanted = parameter.dtype, opening_dtype(parameter.dtype, parameter.device)
    if kept == wanted:
        return
    before = _gigabytes(model)
    cast(model, wanted)
    if distributed.rank() == 0:
        otherwise = f"; --dtype {_short(kept)} keeps it" if keep else ""
        sys.stderr.write(
            f"llave: {name} is {_short(kept)}, which this processor does not multiply by itself: opened in float32, "
            f"{_gigabytes(model):.1f} GB of memory instead of {before:.1f}{otherwise}\n"
        )


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts the floating-point parameters of a model that was just opened, in place and one at a time.

    Buffers stay as they are: rotary frequencies are float32 in every model.
    """
    maps = _file_maps()
    for parameter in patient_bar(list(model.parameters()), f"To {_short(dtype)}", unit="tensor"):
        if parameter.is_floating_point() and parameter.dtype != dtype:
            old, parameter.data = parameter.data, parameter.data.to(dtype)
            _give_back(old, maps)


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Keeps sentence-transformers from advising float32 for what is about to become float32."""
    logger = logging.getLogger("sentence_transformers.base.model")

    def keep(record: logging.LogRecord) -> bool:
        return "on CPU. Depending on your CPU" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def load_quietly() -> None:
    """No bar from the library that loads a model; for commands whose output somebody waits for."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def let_go(weights: nn.Module | Iterable[torch.Tensor]) -> None:
    """What of a model's weights, or of some of them, is a map of their file leaves memory until it is used again."""
    maps = _file_maps()
    for tensor in weights.parameters() if isinstance(weights, nn.Module) else weights:
        _give_back(tensor.data, maps)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gigabytes(model: nn.Module) -> float:
    return sum(parameter.nbytes for parameter in model.parameters()) / 1e9


class _FileMap(NamedTuple):
    """Addresses at which weights of a file are mapped into memory."""

    start: int
    end: int


def _file_maps() -> list[_FileMap]:
    """Maps of safetensors files, by address; none where the system does not tell (only Linux does)."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:  # 7f10…-7f20… rw-p 00000000 fe:00 123 /…/model.safetensors
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1].endswith("p") and fields[5].endswith(".safetensors"):
            start, _, end = fields[0].partition("-")
            found.append(_FileMap(int(start, 16), int(end, 16)))
    return sorted(found)


def _give_back(tensor: torch.Tensor, maps: list[_FileMap]) -> None:
    """Whole pages of a tensor in a file's map leave the process; whoever reads them again gets the file's bytes."""
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    place = bisect.bisect_right(maps, (start, sys.maxsize)) - 1
    if place < 0 or end > maps[place].end or tensor.device.type != "cpu":
        return
    page = mmap.PAGESIZE
    first, last = -(-start // page) * page, end // page * page
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
