"""Groups of hard rows: against a dense float64 definition, planted cliques, and what must not meet."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llave_hf.data.mining.candidates import Candidates, find_candidates, mutual_edges
from llave_hf.data.mining.grouping import Grouping, group_rows
from llave_hf.data.mining.nearest import nearest
from llave_hf.data.rows import groups as column_of_groups


def test_docstring_examples() -> None:
    outcome = doctest.testmod(column_of_groups)
    assert outcome.failed == 0 < outcome.attempted


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def task(seed: int, rows: int, queries: int, documents: int, labels: int | None = None) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    made = [np.concatenate([np.arange(kinds), rng.integers(0, kinds, rows - kinds)]) for kinds in (queries, documents)]
    query_of, document_of = (rng.permutation(numbers) for numbers in made)
    query_vectors = rng.standard_normal((queries, 6))
    document_vectors = rng.standard_normal((documents, 6))
    document_vectors[document_of] += query_vectors[query_of]
    return {
        "query_vectors": unit(query_vectors),
        "document_vectors": unit(document_vectors),
        "queries": query_of,
        "documents": document_of,
        "labels": None if labels is None else rng.integers(-1, labels, rows),
    }


def candidates(
    given_task: dict[str, Any], margin: float | None = 0.05, ranks: tuple[int, int] = (0, 20), floor: float = -np.inf
) -> Candidates:
    left, right, queries, documents = (
        given_task[name] for name in ("query_vectors", "document_vectors", "queries", "documents")
    )
    lowest = np.full(len(left), np.inf)
    np.minimum.at(lowest, queries, (left[queries] * right[documents]).sum(1))
    ceilings = np.full(len(left), np.inf) if margin is None else lowest - abs(lowest) * margin
    return find_candidates(
        *nearest(left, right, len(right)),
        queries,
        documents,
        num_documents=len(right),
        itself=np.full(len(left), -1),
        ceilings=ceilings,
        floor=floor,
        ranks=ranks,
        labels=given_task["labels"],
    )


def dense(given_task: dict[str, Any], margin: float | None, ranks: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Which rows' documents are hard negatives of which rows' queries, and which may answer them, a loop a pair."""
    left, right = given_task["query_vectors"], given_task["document_vectors"]
    queries, documents = given_task["queries"], given_task["documents"]
    cosines = left.astype(np.float64) @ right.astype(np.float64).T
    hard, answers = (np.zeros((len(left), len(right)), bool) for _ in range(2))
    for query in range(len(left)):
        own = set(documents[queries == query].tolist())
        lowest = min(cosines[query, list(own)])
        rank = 0
        for document in np.argsort(-cosines[query], kind="stable").tolist():
            if document in own:
                answers[query, document] = True
                continue
            rank += 1
            if rank > ranks[1]:
                continue
            near = rank <= ranks[0] or (
                margin is not None and cosines[query, document] > lowest - abs(lowest) * margin
            )
            answers[query, document], hard[query, document] = near, not near
    return hard[queries][:, documents], answers[queries][:, documents]


tasks = st.builds(
    task,
    seed=st.integers(0, 2**31),
    rows=st.integers(40, 90),
    queries=st.integers(30, 40),
    documents=st.sampled_from([3, 12, 40]),
    labels=st.sampled_from([None, 3, 30]),
)


@settings(max_examples=40, deadline=None)
@given(given_task=tasks, margin=st.sampled_from([None, 0.05]), ranks=st.sampled_from([(0, 10), (3, 12), (0, 90)]))
def test_edges_are_those_of_a_dense_definition(given_task: dict, margin: float | None, ranks: tuple[int, int]) -> None:
    found = candidates(given_task, margin, ranks)
    hard, answers = dense(given_task, margin, ranks)
    everyone = np.indices(hard.shape)
    assert np.array_equal(found.may_answer(found.queries[everyone[0]], found.documents[everyone[1]]), answers)
    mutual = hard & hard.T
    if found.labels is not None:
        mutual &= (found.labels[:, None] != found.labels) | (found.labels[:, None] < 0)
    assert np.array_equal(found.are_hard(*everyone), mutual)
    starts, others = mutual_edges(found)
    drawn = np.zeros_like(mutual)
    drawn[np.repeat(np.arange(len(found)), np.diff(starts)), others] = True
    assert np.array_equal(drawn, drawn.T)
    assert not (drawn & ~mutual).any()
    if len(np.unique(found.documents)) == len(found):
        assert np.array_equal(drawn, mutual)  # no document has more rows than are lifted


def check(found: Candidates, grouping: Grouping, size: int) -> None:
    rows = grouping.rows
    assert rows.shape[1] == size
    assert len(np.unique(rows)) == rows.size
    assert grouping.left == len(found) - rows.size
    for group in rows:
        one, other = (axis.ravel() for axis in np.meshgrid(group, group))
        apart = (found.queries[one] != found.queries[other]) & (found.documents[one] != found.documents[other])
        assert not found.may_answer(found.queries[one[apart]], found.documents[other[apart]]).any()


@settings(max_examples=20, deadline=None)
@given(
    given_task=tasks,
    size=st.sampled_from([2, 4, 8]),
    ranks=st.sampled_from([(0, 10), (5, 30)]),
    by=st.sampled_from(["mutual_ranks", "owner_queries"]),
)
def test_no_two_rows_of_a_group_may_answer_each_other(given_task: dict, size: int, ranks: tuple, by: str) -> None:
    """Neither along an edge nor through third rows; and no row stands in two groups."""
    found = candidates(given_task, ranks=ranks)
    grouping = group_rows(found, size, by, given_task["query_vectors"])
    check(found, grouping, size)
    again = group_rows(found, size, by, given_task["query_vectors"])
    assert np.array_equal(grouping.rows, again.rows)
    repeating = [
        any(len(np.unique(codes[group])) < size for codes in (found.queries, found.documents))
        for group in grouping.rows
    ]
    assert grouping.repeating >= sum(repeating)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [4, 8])
def test_planted_cliques_are_found(size: int, seed: int) -> None:
    """Rows of a clique are near each other, and far from all others."""
    rng = np.random.default_rng(seed)
    centres = np.eye(12)[np.repeat(np.arange(12), size)]
    order = rng.permutation(len(centres))
    documents = unit(centres + 0.02 * rng.standard_normal(centres.shape))[order]
    planted = {
        "query_vectors": unit(centres[order] + 0.02 * rng.standard_normal(centres.shape)),
        "document_vectors": documents,
        "queries": np.arange(len(order)),
        "documents": np.arange(len(order)),
        "labels": None,
    }
    found = candidates(planted, None, (0, size - 1))
    grouping = group_rows(found, size, "mutual_ranks", planted["query_vectors"])
    cliques = {frozenset(np.flatnonzero(order // size == number).tolist()) for number in range(12)}
    assert {frozenset(group) for group in grouping.rows.tolist()} == cliques
    assert (grouping.hard_share, grouping.left, grouping.repeating) == (1.0, 0, 0)
    assert grouping.random_share < 0.2


def test_order_of_rows_changes_no_edge() -> None:
    before = task(0, 60, 60, 60)
    order = np.random.default_rng(1).permutation(60)
    after = {**before, "queries": before["queries"][order], "documents": before["documents"][order]}
    edges = []
    for given_task, names in ((before, np.arange(60)), (after, order)):
        starts, others = mutual_edges(candidates(given_task))
        edges.append({(names[i], names[j]) for i in range(60) for j in others[starts[i] : starts[i + 1]].tolist()})
    assert edges[0] == edges[1] != set()


@pytest.mark.parametrize(("by", "times"), [("mutual_ranks", 10), ("owner_queries", 3)])
def test_groups_are_harder_than_chance(by: str, times: int) -> None:
    given_task = task(3, 400, 400, 400)
    found = candidates(given_task, ranks=(0, 30))
    grouping = group_rows(found, 8, by, given_task["query_vectors"])
    assert grouping.hard_share > times * grouping.random_share
    assert grouping.left <= 8


def test_two_labels_make_groups_that_repeat() -> None:
    given_task = task(0, 64, 64, 2)
    found = candidates(given_task, None)
    grouping = group_rows(found, 8, "mutual_ranks", given_task["query_vectors"])
    assert (len(grouping.rows), grouping.repeating, grouping.left) == (8, 8, 0)
    assert "8 groups of 8" in grouping.report()
    assert "8 groups hold a query, document or label twice" in grouping.report()


def owners_of(given_task: dict[str, Any], found: Candidates, size: int) -> list[list[int]]:
    """SaHa's steps on distinct queries and documents, in float64, with one look."""
    left = given_task["query_vectors"].astype(np.float64)
    free = set(range(len(found)))
    groups = []
    for anchor in range(len(found)):
        if anchor not in free:
            continue
        near = [row for row in (found.window[found.queries[anchor]]).tolist() if row >= 0]
        owners = [int(np.flatnonzero(found.documents == document)[0]) for document in near]
        owners = [row for row in owners if row in free][: 3 * (size - 1)]
        owners.sort(key=lambda row: left[found.queries[row]] @ left[found.queries[anchor]])
        group = [anchor]
        for row in owners:
            ends = np.array([*group, *[row] * len(group)]), np.array([*[row] * len(group), *group])
            if len(group) < size and not found.may_answer(found.queries[ends[0]], found.documents[ends[1]]).any():
                group.append(row)
        if len(group) == size:
            free -= set(group)
            groups.append(group)
    return groups


@pytest.mark.parametrize("seed", range(3))
def test_owners_are_those_of_a_plain_definition(seed: int) -> None:
    given_task = task(seed, 60, 60, 60)
    found = candidates(given_task, ranks=(0, 30))
    rows = group_rows(found, 4, "owner_queries", given_task["query_vectors"]).rows.tolist()
    expected = owners_of(given_task, found, 4)
    assert rows[: len(expected)] == expected
    assert len(expected) > 5


@pytest.mark.parametrize(("last", "told"), [(5, False), (100, True)])
def test_ranks_that_take_in_the_whole_task_are_told(last: int, told: bool) -> None:
    given_task = task(3, 64, 64, 64)
    grouping = group_rows(candidates(given_task, ranks=(0, last)), 8, "mutual_ranks", given_task["query_vectors"])
    assert (grouping.random_share > 0.5) == told
    assert ("rank_max takes in most of the task" in grouping.report()) == told
