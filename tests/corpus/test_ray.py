"""`LlaveEmbedder` in Ray Data: two actors, bytes and bad rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from corpus_helpers import BROKEN, expected
from tables import picture_bytes

from llave_hf import LlaveEmbedder

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="pip install 'llave-hf[ray]'")
ROOT = Path(__file__).parents[2]
ROWS, BAD = 24, (3, 17)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DEDUP_LOGS": "0"}
    for name, value in {**settings, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    import ray

    ray.init(
        num_cpus=2,
        object_store_memory=80 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    yield ray
    ray.shutdown()


def test_two_actors_embed_bytes_and_give_reasons_for_bad_rows(ray: Any, model: Path) -> None:
    contents = [BROKEN if row in BAD else picture_bytes(row) for row in range(ROWS)]
    table = pa.table({"id": list(range(ROWS)), "bytes": contents})
    rows = ray.data.from_arrow([table.slice(start, 4) for start in range(0, ROWS, 4)])
    made = rows.map_batches(
        LlaveEmbedder,
        fn_constructor_args=(str(model),),
        fn_constructor_kwargs={"input": {"image": "bytes"}, "columns": ["id"], "threads": 1},
        batch_format="pyarrow",
        batch_size=4,
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    found = {row["id"]: row for row in made.take_all()}
    assert sorted(found) == list(range(ROWS))
    assert [row for row in found if found[row]["embedding"] is None] == sorted(BAD, key=list(found).index)
    assert all("no readable picture" in found[row]["error"] for row in BAD)
    good = [row for row in range(ROWS) if row not in BAD]
    vectors = np.stack([np.asarray(found[row]["embedding"]) for row in good])
    assert np.abs(vectors - expected(model, [{"image": contents[row]} for row in good])).max() <= 1e-6
    assert all(found[row]["error"] is None for row in good)
