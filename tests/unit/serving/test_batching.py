"""Natural batching: what is queued goes together, nothing waits, an error reaches those whom it concerns."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from foundry_ray.serving.batching import Batcher


class _Model:
    """Doubles its input; holds the first pass until it is told to go on."""

    def __init__(self, *, is_held: bool = False) -> None:
        self.rows: list[int] = []
        self.may_go = threading.Event()
        self.has_begun = threading.Event()
        if not is_held:
            self.may_go.set()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.rows.append(len(images))
        self.has_begun.set()
        assert self.may_go.wait(10)
        if (images == 255).any():
            raise ValueError("a white image")
        return images.reshape(len(images), -1).astype(np.float32) * 2


def _image(value: int, rows: int = 1) -> np.ndarray:
    return np.full((rows, 1, 1, 1), value, np.uint8)


async def _queue_behind(model: _Model, batcher: Batcher, images: list[np.ndarray]) -> list[object]:
    first = asyncio.ensure_future(batcher.submit(_image(0)))
    while not model.has_begun.is_set():
        await asyncio.sleep(0)
    others = [asyncio.ensure_future(batcher.submit(image)) for image in images]
    await asyncio.sleep(0)
    model.may_go.set()
    return list(await asyncio.gather(first, *others, return_exceptions=True))


def test_a_lone_request_runs_at_once() -> None:
    model = _Model()
    logits = asyncio.run(Batcher(model, max_requests=8).submit(_image(3)))
    assert logits.tolist() == [[6.0]]
    assert model.rows == [1]


def test_what_queues_while_the_model_works_shares_the_next_pass() -> None:
    model = _Model(is_held=True)
    answers = asyncio.run(_queue_behind(model, Batcher(model, max_requests=8), [_image(1), _image(2, rows=2), _image(3)]))
    assert model.rows == [1, 4]
    assert [answer.ravel().tolist() for answer in answers if isinstance(answer, np.ndarray)] == [[0], [2], [4, 4], [6]]


def test_a_pass_takes_at_most_max_requests() -> None:
    model = _Model(is_held=True)
    asyncio.run(_queue_behind(model, Batcher(model, max_requests=2), [_image(value) for value in range(5)]))
    assert model.rows == [1, 2, 2, 1]


def test_an_error_reaches_the_requests_of_its_pass_only() -> None:
    model = _Model(is_held=True)
    answers = asyncio.run(_queue_behind(model, Batcher(model, max_requests=1), [_image(255), _image(4)]))
    assert isinstance(answers[1], ValueError)
    assert isinstance(answers[2], np.ndarray)
    assert answers[2].tolist() == [[8.0]]


def test_closing_answers_what_is_queued() -> None:
    async def close_early(model: _Model) -> np.ndarray:
        batcher = Batcher(model, max_requests=1)
        waiting = asyncio.ensure_future(batcher.submit(_image(5)))
        await asyncio.sleep(0)
        await batcher.close()
        return await waiting

    assert asyncio.run(close_early(_Model())).tolist() == [[10.0]]


def test_a_request_that_was_given_up_does_not_disturb_the_others() -> None:
    async def give_up(model: _Model) -> np.ndarray:
        batcher = Batcher(model, max_requests=8)
        first = asyncio.ensure_future(batcher.submit(_image(1)))
        while not model.has_begun.is_set():
            await asyncio.sleep(0)
        second = asyncio.ensure_future(batcher.submit(_image(2)))
        first.cancel()
        await asyncio.sleep(0)
        model.may_go.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert asyncio.run(give_up(_Model(is_held=True))).tolist() == [[4.0]]
