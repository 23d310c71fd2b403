"""Faults strike whom they were told to, do what their name says, and are the same for the same seed."""

from __future__ import annotations

import threading

import pytest

from foundry_ray.testing.exchanges import Answer, Dropped, Layer, Request
from foundry_ray.testing.faults import (
    Faults,
    close_mid_body,
    delay,
    drop_after,
    drop_before,
    flip_download,
    flip_upload,
    refuse,
    tear_upload,
    truncate,
)

PUT = Request(method="PUT", target="/bucket/a", body=b"0123")
GET = Request(method="GET", target="/bucket/a")


class _Server:
    """Answers everything with `0123`, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> Answer:
        self.asked.append(request)
        return Answer(status=200, body=b"0123")


def _struck(action: Layer, request: Request = GET) -> tuple[Answer | None, list[Request]]:
    server, faults = _Server(), Faults()
    faults.strike(action)
    try:
        return faults(request, server), server.asked
    except Dropped:
        return None, server.asked


def test_a_request_is_dropped_before_or_after_the_server_acted() -> None:
    assert _struck(drop_before, PUT) == (None, [])
    assert _struck(drop_after, PUT) == (None, [PUT])


def test_bodies_are_damaged_on_either_way() -> None:
    answer, asked = _struck(flip_upload, PUT)
    assert (answer, asked[0].body) == (Answer(status=200, body=b"0123"), b"0133")
    assert _struck(flip_download)[0] == Answer(status=200, body=b"0133")
    assert _struck(truncate)[0] == Answer(status=200, body=b"01")
    assert _struck(close_mid_body)[0] == Answer(status=200, body=b"0123", cut_at=2)


def test_a_torn_upload_promises_more_than_it_brings() -> None:
    (_, asked) = _struck(tear_upload, PUT)
    assert (asked[0].header("content-length"), asked[0].body, asked[0].is_torn) == ("4", b"01", True)


def test_a_refusal_reaches_no_server() -> None:
    answer, asked = _struck(refuse(503, "SlowDown"), PUT)
    assert answer is not None
    assert (answer.status, asked) == (503, [])


def test_a_delayed_request_waits_for_its_event() -> None:
    event = threading.Event()
    event.set()
    assert _struck(delay(event, at_most_s=60.0))[0] == Answer(status=200, body=b"0123")


def test_only_the_next_ones_of_the_named_operation_and_key_are_struck() -> None:
    faults, server = Faults(), _Server()
    faults.strike(refuse(500, "InternalError"), "GetObject", times=2, keys="a")
    others = [PUT, Request(method="GET", target="/bucket/b")]
    assert [faults(request, server).status for request in (*others, GET, GET, GET)] == [200, 200, 500, 500, 200]
    assert faults.num_struck == 2


def test_several_faults_strike_one_request() -> None:
    faults, server = Faults(), _Server()
    faults.strike(flip_upload)
    faults.strike(drop_after)
    with pytest.raises(Dropped):
        faults(PUT, server)
    assert server.asked[0].body == b"0133"


def test_the_same_seed_strikes_the_same_requests() -> None:
    def pattern(seed: int) -> list[int]:
        faults = Faults(seed)
        faults.strike(refuse(500, "InternalError"), share=0.3)
        return [faults(GET, _Server()).status for _ in range(50)]

    assert pattern(1) == pattern(1) != pattern(2)
    assert 5 < pattern(1).count(500) < 25


def test_an_outage_ends_and_leaves_other_faults() -> None:
    faults, server = Faults(), _Server()
    faults.strike(truncate)
    with faults.outage(), pytest.raises(Dropped):
        faults(GET, server)
    assert faults(GET, server).body == b"01"
    faults.heal()
    assert faults(GET, server).body == b"0123"
