"""Work on many objects of a store at once, with the results in order and a bounded number of them under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

NUM_THREADS = 8  # a store answers in about 10 ms, so this many reads keep one core busy and one server calm
_WAITING_PER_THREAD = 4
A = TypeVar("A")
B = TypeVar("B")


def in_parallel(work: Callable[[A], B], items: Iterable[A], *, num_threads: int = NUM_THREADS) -> Iterator[B]:
    """`work` of each item, in the order of the items, which are taken as they are needed. The first error is raised, and what waits is dropped."""
    source = iter(items)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="housekeeping")
    try:
        waiting: deque[Future[B]] = deque(pool.submit(work, item) for item in islice(source, num_threads * _WAITING_PER_THREAD))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(source, 1))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
