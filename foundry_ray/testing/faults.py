"""Faults of a network and of a server, as a layer of a Proxy: which requests they strike, and what happens to those.

faults = Faults(seed=0)
faults.strike(drop_after, "PutObject", times=2)           # the next two: done, and the answer lost
faults.strike(refuse(503, "SlowDown"), share=0.1)         # a tenth of all requests
with faults.outage(): ...
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from foundry_ray.testing.exchanges import Answer, Dropped, Forward, Layer, Request, refusal


@dataclass(slots=True, kw_only=True)
class _Rule:
    action: Layer
    operations: tuple[str, ...]
    keys: str
    share: float
    left: int | None


class Faults:
    """A layer that strikes some requests and lets the others through. Several faults may strike one request."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self.num_struck = 0

    def strike(self, action: Layer, *operations: str, times: int | None = None, share: float = 1.0, keys: str = "") -> None:
        """Add a fault.

        Args:
            action: What happens.
            operations: Those that it strikes ("PutObject"); all where absent.
            times: How many requests it strikes at most; without end where absent.
            share: Of the requests that fit, in [0, 1].
            keys: A part of the key that a request must have.
        """
        with self._lock:
            self._rules.append(_Rule(action=action, operations=operations, keys=keys, share=share, left=times))

    def heal(self) -> None:
        """No faults from now on."""
        with self._lock:
            self._rules.clear()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Nobody is served inside."""
        rule = _Rule(action=drop_before, operations=(), keys="", share=1.0, left=None)
        with self._lock:
            self._rules.append(rule)
        try:
            yield
        finally:
            with self._lock:
                self._rules = [one for one in self._rules if one is not rule]

    def __call__(self, request: Request, forward: Forward) -> Answer:
        for action in self._striking(request):
            forward = partial(action, forward=forward)
        return forward(request)

    def _striking(self, request: Request) -> list[Callable[..., Answer]]:
        with self._lock:
            struck = [rule for rule in self._rules if self._is_struck(rule, request)]
            for rule in struck:
                rule.left = None if rule.left is None else rule.left - 1
            self.num_struck += bool(struck)
            return [rule.action for rule in struck]

    def _is_struck(self, rule: _Rule, request: Request) -> bool:
        fits = (not rule.operations or request.operation in rule.operations) and rule.keys in request.key
        return fits and rule.left != 0 and self._random.random() < rule.share


def drop_before(request: Request, forward: Forward) -> Answer:
    """The connection ends before the server hears of the request."""
    raise Dropped


def drop_after(request: Request, forward: Forward) -> Answer:
    """The server does as asked, and its answer is lost."""
    forward(request)
    raise Dropped


def tear_upload(request: Request, forward: Forward) -> Answer:
    """The server gets half of the request's body, and then the connection ends."""
    length = str(len(request.body))
    return forward(replace(request.having(content_length=length), body=request.body[: len(request.body) // 2], is_torn=True))


def flip_upload(request: Request, forward: Forward) -> Answer:
    """One bit of the request's body arrives inverted."""
    return forward(replace(request, body=_flipped(request.body)))


def flip_download(request: Request, forward: Forward) -> Answer:
    """One bit of the answer's body arrives inverted."""
    answer = forward(request)
    return replace(answer, body=_flipped(answer.body)) if answer.status < 300 else answer


def truncate(request: Request, forward: Forward) -> Answer:
    """The answer's body is half as long, and its headers say that this is all."""
    answer = forward(request)
    return replace(answer, body=answer.body[: len(answer.body) // 2]) if answer.status < 300 else answer


def close_mid_body(request: Request, forward: Forward) -> Answer:
    """The connection ends in the middle of the answer's body."""
    answer = forward(request)
    return replace(answer, cut_at=len(answer.body) // 2)


def refuse(status: int, code: str) -> Layer:
    """The server answers with an error and does nothing."""

    def act(request: Request, forward: Forward) -> Answer:
        return refusal(status, code)

    return act


def delay(until: threading.Event, *, at_most_s: float) -> Layer:
    """The request waits for an event, or as long as given."""

    def act(request: Request, forward: Forward) -> Answer:
        until.wait(at_most_s)
        return forward(request)

    return act


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
