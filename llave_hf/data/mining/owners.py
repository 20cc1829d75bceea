"""Groups of a query and the rows that own its nearest documents, as SaHa makes them (arXiv 2508.00955, its code)."""

from __future__ import annotations

from itertools import chain, islice

import numpy as np

from .growing import TRIED, Grower

_POOL = 3  # owners that are looked at for each place of a group
_ROWS_OF_DOCUMENT = 64  # of which the owner of a document is chosen


def grow_by_owners(grower: Grower, query_vectors: np.ndarray) -> None:
    """In the order of the rows: a free row, and of the free rows that own the nearest documents to its query those
    whose queries are farthest from it: they are the least likely to share its answer. With labels, which say that
    better, the nearest come first.

    Rows that find too few owners look again at the end, and are filled up with any rows.

    Args:
        grower: Is given the groups.
        query_vectors: `(Q, D)`, L2-normalised.
    """
    found = grower.found
    of_document, firsts = found.rows_of_documents()
    waiting: list[int] = []
    for last_look in (False, True):
        for place, anchor in enumerate(waiting if last_look else range(len(found))):
            if not grower.free[anchor]:
                continue
            owners = _owners(anchor, grower, query_vectors, of_document, firsts)
            group = grower.begin(anchor)
            if last_look:
                rest = (row for row in waiting[place:] if grower.free[row])
                full = bool(owners) and grower.fill(group, chain(owners, islice(rest, TRIED)))
            else:
                full = grower.fill(group, owners)
            if not full:
                grower.release(group)
                waiting += [] if last_look else [anchor]


def _owners(
    anchor: int, grower: Grower, query_vectors: np.ndarray, of_document: np.ndarray, firsts: np.ndarray
) -> list[int]:
    found, most = grower.found, _POOL * (grower.size - 1)
    query = query_vectors[found.queries[anchor]]
    owners: list[int] = []
    for document in found.window[found.queries[anchor]].tolist():
        if len(owners) == most:
            break
        if document < 0:
            continue
        rows = of_document[firsts[document] : firsts[document + 1]].tolist()
        free = [row for row in rows[:: max(len(rows) // _ROWS_OF_DOCUMENT, 1)] if grower.free[row]]
        if free:
            nearest = (query_vectors[found.queries[free]] @ query).argmax() if len(free) > 1 else 0
            owners.append(free[int(nearest)])
    if found.labels is None and owners:
        nearness = query_vectors[found.queries[owners]] @ query
        owners = [owners[place] for place in np.argsort(nearness, kind="stable").tolist()]
    return owners
