"""Files of tests that begin first, in this order: where workers share files, what begins last should not take long."""

from __future__ import annotations

import pytest

# Of the slow ones, those that take longest.
LONGEST = (
    *("test_engines.py", "test_ranks_step.py", "test_surviving_ranks.py", "test_surviving.py", "test_training.py"),
    *("test_sweep.py", "test_run_log.py", "test_import_orders.py", "test_embed_killed.py", "test_data_ranks.py"),
    *("test_evaluation_ranks.py", "test_push.py", "test_ray.py", "test_video_retrieval.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
