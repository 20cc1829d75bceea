from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers import draw_nothing


@pytest.fixture(scope="module", autouse=True)
def blank_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """A third of a short training goes into the pictures of its card, which few of these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        if "telemetry" not in request.path.parts:
            draw_nothing(patch)
        yield
