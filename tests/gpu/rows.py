"""What the sections of `check.py` are told, and what they report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: That was looked at.
        found: In words and figures.
        wanted: What it had to be; empty where it is only measured.
        verdict: `OK`, `FAILED`, or `SKIPPED`, with the reason in `found`.
    """

    what: str
    found: str
    wanted: str = ""
    verdict: str = OK


@dataclass(frozen=True)
class Setting:
    """How a section is to run.

    Attributes:
        device: `"cuda"` or `"cpu"`.
        small: Whether with tiny shapes.
        quick: Whether to leave out what takes long.
        peak_tflops: Dense teraflops a second of the device in bfloat16; None: by its name.
    """

    device: str
    small: bool
    quick: bool
    peak_tflops: float | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


def bounded(what: str, found: float, most: float, form: str = ".1e") -> Row:
    """A figure that must not be larger than `most`; one that is no number is."""
    return Row(what, f"{found:{form}}", f"≤ {most:{form}}", OK if found <= most else FAILED)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def median_seconds(setting: Setting, actions: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Of each action, run in turns after one turn to warm up."""
    taken: list[list[float]] = [[] for _ in actions]
    for turn in range(rounds + 1):
        for action, seconds in zip(actions, taken, strict=True):
            synchronize(setting.device)
            start = time.perf_counter()
            action()
            synchronize(setting.device)
            if turn:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in taken]
