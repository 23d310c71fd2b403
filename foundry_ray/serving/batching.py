"""Natural batching: while the model works, requests queue; when it is free, it takes what is there. Nobody ever waits for a window.

Decides: which queued requests share a forward pass. Leaves to others: what a forward pass is. One instance belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_Waiting = tuple["np.ndarray", "asyncio.Future[np.ndarray]"]


class Batcher:
    """Runs `run` in one thread of its own, so that the event loop keeps answering health checks.

    Args:
        run: images uint8 (N, C, H, W) -> logits float32 (N, K).
        max_requests: Most requests in one forward pass.
    """

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], *, max_requests: int) -> None:
        self._run = run
        self._max_requests = max_requests
        self._waiting: deque[_Waiting] = deque()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._is_busy = False
        self._work: asyncio.Task[None] | None = None

    async def submit(self, images_NCHW: np.ndarray) -> np.ndarray:
        """The logits of these images. Raises what `run` raised for the batch that held them."""
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append((images_NCHW, future))
        if not self._is_busy:
            self._is_busy = True
            self._work = asyncio.ensure_future(self._drain())
        return await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._one_pass()
        finally:
            self._is_busy = False

    async def _one_pass(self) -> None:
        import numpy as np

        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_requests))]
        images = [request for request, _ in taken]
        joined = images[0] if len(images) == 1 else np.concatenate(images)
        try:
            logits = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, joined)
        except Exception as error:  # the border between the model and its callers: each of them gets the error
            for _, future in taken:
                if not future.done():
                    future.set_exception(error)
            return
        _hand_out(logits, taken)

    async def close(self) -> None:
        """Answer what is queued, then end the thread. Nothing may be submitted afterwards."""
        if self._work is not None:
            await self._work
        self._executor.shutdown(wait=False)


def _hand_out(logits_NK: np.ndarray, taken: list[_Waiting]) -> None:
    start = 0
    for images, future in taken:
        end = start + len(images)
        if not future.done():  # the caller may have given up
            future.set_result(logits_NK[start:end])
        start = end
