from __future__ import annotations

import gc
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers import tiny_model
from hypothesis import settings

from llave_hf import LlaveModel, LlaveProcessor

RELEASES = (
    *("torch", "transformers", "sentence-transformers", "accelerate", "datasets"),
    *("peft", "bitsandbytes", "lancedb", "gradio", "mteb"),
)
pytest_plugins = ["expected_skips", "longest_first"]
gc.disable()  # test modules import all there is, and what they import stays
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)
# Times on a shared machine say nothing; a fixed seed makes a failure come back.
settings.register_profile("llave", deadline=None, derandomize=True)
settings.load_profile("llave")


def pytest_configure(config: pytest.Config) -> None:
    """Processes that tests start treat warnings as pytest does here."""
    paths = [str(Path(__file__).parent / "child_processes"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ["TEST_WARNING_FILTERS"] = "\n".join(config.getini("filterwarnings"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The releases that a result holds for, as README.md names those of the last full run."""
    named = (f"{name} {version(name)}" for name in RELEASES if find_spec(name.replace("-", "_")))
    terminalreporter.write_line(", ".join([f"Python {platform.python_version()}", *named]))


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """No test cuts the power, and a run waits for the disk a hundred times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def collecting_what_tests_make() -> Iterator[None]:
    """Trainer collects garbage after each run: it need not look through all that has been imported."""
    gc.freeze()
    gc.enable()
    yield


@pytest.fixture(scope="session")
def tiny() -> tuple[LlaveModel, LlaveProcessor]:
    """One tiny model for all tests that do not change it."""
    return tiny_model()
