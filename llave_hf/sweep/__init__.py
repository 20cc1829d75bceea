"""Trains the variants of a recipe that a YAML file names, each with several seeds, and says how they differ."""

from .outcomes import record_into
from .plan import Group, Run, Sweep, Variant
from .reading import load_sweep
from .report import recorded_options, write_report
from .running import run_all

__all__ = [
    "Group",
    "Run",
    "Sweep",
    "Variant",
    "load_sweep",
    "record_into",
    "recorded_options",
    "run_all",
    "write_report",
]
