"""Greedy groups beside METIS, which B3 cuts the same graph with: how many edges stay inside."""

from __future__ import annotations

import numpy as np
import pymetis
import pytest
from test_grouping import candidates, task

from llave_hf.data.mining.candidates import mutual_edges
from llave_hf.data.mining.grouping import group_rows


@pytest.mark.parametrize("size", [4, 16])
def test_greedy_groups_keep_about_as_many_edges_as_metis(size: int) -> None:
    given_task = task(0, 960, 960, 960)
    found = candidates(given_task, None, (0, 40))
    starts, others = mutual_edges(found)
    _, parts = pymetis.part_graph(960 // size, pymetis.CSRAdjacency(starts.tolist(), others.tolist()))
    own = group_rows(found, size, "mutual_ranks", given_task["query_vectors"]).numbers(960)
    ends = np.repeat(np.arange(960), np.diff(starts)), others
    kept = {name: (of[ends[0]] == of[ends[1]]).mean() for name, of in (("metis", np.array(parts)), ("greedy", own))}
    at_random = (size - 1) / 959
    assert kept["metis"] > 5 * at_random
    assert kept["greedy"] > 0.9 * kept["metis"]
