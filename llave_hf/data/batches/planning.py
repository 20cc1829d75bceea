"""Which samples of a step share a micro-batch: like beside like, so that little is padded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

KINDS = ("text", "image", "video")

# A micro-batch costs something however small it is. Counted as this part of the token budget, a mix of texts and
# pictures is filled to 97 % and more without a micro-batch for every length of text.
OVERHEAD_OF_BUDGET = 64


def plan_micro_batches(
    kinds: Sequence[str],
    lengths: Sequence[int],
    *,
    mini_batch_size: int | None = None,
    mini_batch_num_tokens: int | None = None,
) -> list[list[int]]:
    """Groups samples by kind and, within a kind, by length.

    With a budget of tokens, the cut is the one with the fewest padded tokens, where each micro-batch counts 1/64 of
    the budget more; without, each kind is cut into parts of nearly equal number. Nothing is random.

    >>> plan_micro_batches(["text", "image", "text", "text"], [20, 900, 50, 21], mini_batch_num_tokens=1000)
    [[0, 3], [2], [1]]

    Args:
        kinds: Of each sample, of `KINDS`; the groups come in that order.
        lengths: Tokens of each sample, visual ones included.
        mini_batch_size: The most samples in a group; None: no limit.
        mini_batch_num_tokens: The most tokens in a group, padding included; a longer sample is a group of its own.
            None: no limit.

    Returns:
        Positions of the samples of each group.

    Raises:
        ValueError: A limit is not positive.
    """
    for name, limit in (("mini_batch_size", mini_batch_size), ("mini_batch_num_tokens", mini_batch_num_tokens)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} is {limit}; it must be at least 1, or None for no limit.")
    groups: list[list[int]] = []
    for kind in KINDS:
        members = [place for place, found in enumerate(kinds) if found == kind]
        members.sort(key=lambda place: lengths[place])  # stable: samples of equal length stay in their order
        if not members:
            continue
        most = mini_batch_size or len(members)
        if mini_batch_num_tokens is None:
            bounds = _equal_parts(len(members), most)
        else:
            bounds = _least_padding(np.array([lengths[place] for place in members]), most, mini_batch_num_tokens)
        groups += [members[start:end] for start, end in pairwise(bounds)]
    return groups


def token_fill(groups: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """Real tokens / tokens with padding, 0 to 1."""
    real = sum(lengths[place] for group in groups for place in group)
    return real / sum(len(group) * max(lengths[place] for place in group) for group in groups)


def _equal_parts(count: int, most: int) -> list[int]:
    """33 samples by at most 32 make 16 and 17, not 32 and 1."""
    parts = -(-count // most)
    return [part * count // parts for part in range(parts + 1)]


def _least_padding(lengths: np.ndarray, most: int, budget: int) -> list[int]:
    """Where to cut ascending lengths `(n,)`: shortest path over all places to cut."""
    overhead = max(1, budget // OVERHEAD_OF_BUDGET)
    cost = np.zeros(len(lengths) + 1, dtype=np.int64)
    cut = np.zeros(len(lengths) + 1, dtype=np.int64)
    for end, longest in enumerate(lengths, start=1):
        rows = max(1, min(most, end, int(budget // longest)))
        starts = np.arange(end - rows, end)
        costs = cost[starts] + (end - starts) * longest + overhead
        best = int(costs.argmin())
        cost[end], cut[end] = costs[best], starts[best]
    bounds = [len(lengths)]
    while bounds[-1]:
        bounds.append(int(cut[bounds[-1]]))
    return bounds[::-1]
