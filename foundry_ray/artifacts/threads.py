"""The same work on many objects of a store at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

NUM_THREADS = 8  # a request waits for the server most of its time; more than this many gain nothing on small machines
A = TypeVar("A")
B = TypeVar("B")


def in_threads(work: Callable[[A], B], items: Iterable[A], *, num_threads: int = NUM_THREADS) -> list[B]:
    """`work` of each item, in the order of the items. The first error is raised, and what has not begun is dropped. One thread: the caller's."""
    waiting = list(items)
    if num_threads == 1 or len(waiting) <= 1:
        return [work(item) for item in waiting]
    pool = ThreadPoolExecutor(min(num_threads, len(waiting)), thread_name_prefix="artifacts")
    try:
        return list(pool.map(work, waiting))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
