"""How a run goes on: rows and tokens a second, the time left, and the share of it that went into waiting for media."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm.auto import tqdm

from llave_hf.encoding.meter import Meter

_SECONDS_OF_A_LOG = 30.0  # between two lines where nobody watches


class Progress:
    """A bar over the rows of a folder of vectors; of several processes only the first shows one.

    Args:
        total: Rows that are not embedded yet.
        meter: Of the model.
        shown: Whether there is a bar.
    """

    def __init__(self, total: int, meter: Meter, *, shown: bool) -> None:
        every = 0.5 if sys.stderr.isatty() else _SECONDS_OF_A_LOG
        self._bar = tqdm(total=total, desc="Embedding", unit="row", disable=not shown, mininterval=every)
        self._meter, self._started, self._processor = meter, time.monotonic(), time.process_time()
        self.rows = self.errors = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def add(self, rows: int, errors: int) -> None:
        """Rows that this process has embedded."""
        self.rows += rows
        self.errors += errors
        self._bar.set_postfix_str(self.rates(), refresh=False)
        self._bar.update(rows)

    def others(self, rows: int) -> None:
        """Rows that another process has embedded meanwhile."""
        self._bar.update(rows)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def processor_seconds(self) -> float:
        return time.process_time() - self._processor

    def rates(self) -> str:
        """Of this process."""
        seconds = max(self.seconds, 1e-9)
        return (
            f"{self.rows / seconds:,.0f} rows/s, {self._meter.tokens / seconds:,.0f} tokens/s, "
            f"{100 * self._meter.waited / seconds:.0f} % waiting for media"
        )
