"""Counts texts that are longer than a model takes, in place of a warning for each."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

_LOGGER = "llave_hf.model.processing_llave"
_WARNING = "is longer than max_length"  # of the processor, which says it of every such text


class CutTexts(logging.Filter):
    """While its context lasts, the processor's warnings of cut texts are counted and not shown."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._lock = threading.Lock()  # media are prepared in threads

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is to be shown."""
        if _WARNING not in record.getMessage():
            return True
        with self._lock:
            self.count += 1
        return False

    def __enter__(self) -> CutTexts:
        logging.getLogger(_LOGGER).addFilter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        logging.getLogger(_LOGGER).removeFilter(self)
