"""The version of llave_hf that is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("llave-hf")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0.0.0"
