"""Results of a slow function in order, with the next ones already under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int
) -> Iterator[Result]:
    """function(item) of each, in order; up to `at_once` run at a time, in threads.

    No more results than that wait to be taken, so memory is bounded. What `function` raises
    comes where its result would have; no further one is begun then, nor when the taker stops.
    With `at_once` of 1 there are no threads.
    """
    if at_once == 1:
        yield from map(function, items)
        return
    left = iter(items)
    with ThreadPoolExecutor(at_once) as pool:
        running: deque[Future[Result]] = deque()
        try:
            running.extend(pool.submit(function, item) for item in islice(left, at_once))
            while running:
                result = running.popleft().result()
                running.extend(pool.submit(function, item) for item in islice(left, 1))
                yield result
        finally:
            for future in running:
                future.cancel()
