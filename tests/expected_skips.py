"""`pytest --fail-on-skip`: a test that is skipped for a reason that is not expected fails. CI and make run so."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Generator
from importlib.metadata import version
from typing import Any

import pytest
import torch
from packaging.version import Version

# What a reason contains, whether it may come up here, and why that is all right.
EXPECTED = (
    ("needs a CUDA device", not torch.cuda.is_available(), "these have the mark gpu and run where there is one"),
    ("could not import 'mteb'", sys.version_info < (3, 11), "mteb has no release for Python 3.10"),
    ("Pillow 13", Version(version("pillow")) < Version("13"), "gradio 6.31 keeps Pillow below 13"),
    ("torch 2.12", Version(torch.__version__) < Version("2.12"), "the lowest supported torch is 2.11"),
    ("needs bitsandbytes", platform.system() != "Linux", "bitsandbytes has no wheel for every system"),
    ("no Chromium", bool(os.environ.get("NO_BROWSER")), "who runs the tests said that there can be none"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fail-on-skip", action="store_true", help="fail what is skipped for no expected reason")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return _judged(report, item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _judged(report, collector.config)


def _judged(report: Any, config: pytest.Config) -> Any:
    """A skip's report, or that of a failure instead."""
    if not config.getoption("--fail-on-skip") or not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(part in reason and here for part, here, _ in EXPECTED):
        report.outcome = "failed"
        report.longrepr = f"{reason}\nSkipped for a reason that tests/expected_skips.py does not expect here."
    return report
