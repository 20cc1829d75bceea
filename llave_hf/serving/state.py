"""What the parts of one running server share: its model once it is open, its limits, and whether it takes requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .answers import UNAVAILABLE, RequestError
from .batching import Batcher
from .inputs import Fetch, Input
from .limits import Limits
from .metrics import Metrics
from .served import ServedModel

_FIRST = ("a", "a dog", "a red circle on grass", "what is in the image?")  # enough for the shortcuts' trial


@dataclass
class ServerState:
    """One server.

    Attributes:
        name: By which clients call the model.
        limits: Of requests.
        key: The API key; None: everybody is served.
        fetch: Gets what lies at an address; None: addresses are refused.
    """

    name: str
    limits: Limits = field(default_factory=Limits)
    key: str | None = None
    fetch: Fetch | None = None
    metrics: Metrics = field(default_factory=Metrics)
    created: int = field(default_factory=lambda: int(time.time()))
    is_ending: bool = False
    failure: Exception | None = None  # why the model could not be opened
    _batcher: Batcher | None = None

    def open(self, opener: Callable[[], ServedModel]) -> None:
        """Opens the model and encodes a few texts; only then requests are taken."""
        model = opener()
        rows = model.prepare([Input(text) for text in _FIRST])
        for row in rows:
            if isinstance(row, Exception):
                raise row
        made = model.warm_up([row for row in rows if not isinstance(row, Exception)])
        if not torch.isfinite(made).all():
            raise ValueError(f"{self.name} gives vectors with numbers that are not finite; llave verify says more.")
        self._batcher = Batcher(model, self.limits, self.metrics)

    def open_in_background(self, opener: Callable[[], ServedModel], then: Callable[[], None]) -> threading.Thread:
        """`open` in a thread, and `then` whether or not it worked; an error is kept as `failure`."""

        def run() -> None:
            try:
                self.open(opener)
            except Exception as error:  # raised again in the main thread
                self.failure = error
            then()

        thread = threading.Thread(target=run, name="llave-open", daemon=True)
        thread.start()
        return thread

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self._batcher is not None and self._batcher.healthy and not self.is_ending

    @property
    def batcher(self) -> Batcher:
        """What encodes; raises [`RequestError`] (503) while the model is being opened."""
        if self._batcher is None:
            raise RequestError(
                "the model is being opened; ask again.",
                status=503,
                kind=UNAVAILABLE,
                code="not_ready",
                headers={"Retry-After": "5"},
            )
        return self._batcher

    def close(self) -> None:
        """Ends the threads."""
        if self._batcher is not None:
            self._batcher.close()
