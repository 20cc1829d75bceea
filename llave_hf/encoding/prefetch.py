"""Prefetching: work done ahead in threads, in order and within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int, window: int
) -> Generator[Result, None, None]:
    """`map(function, items)`, at most `window` results ahead of whoever takes them.

    Args:
        function: Safe to call from several threads.
        items: Taken one by one as results are taken.
        num_workers: Threads; 0 calls `function` in the caller's own.
        window: Results that may be finished or under way, and not yet taken.

    Yields:
        The results in the order of `items`. Where `function` raises, so does the iterator at that place; what has
        not begun by then is cancelled, also when the iterator is closed early.
    """
    if num_workers == 0:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_workers, thread_name_prefix="llave-prefetch") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
