"""Listings of servers that page, that repeat themselves, and that keep no order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from foundry_ray.artifacts.s3 import client as s3_client
from foundry_ray.artifacts.s3.capabilities import Capabilities, memory_of
from foundry_ray.artifacts.s3.client import Endpoint
from foundry_ray.artifacts.s3.listing import pages
from foundry_ray.artifacts.s3.store import S3Store
from foundry_ray.errors import StoreError

_SECTION = Endpoint(url="http://listing.invalid", access_key="a", secret_key="b", region="us-east-1")


class Listing:
    """A server's listing, page by page; `asked` are the pages that were asked for."""

    def __init__(self, *contents: Sequence[str], repeats: bool = False, is_tokenless: bool = False) -> None:
        self.contents = contents
        self.asked: list[int] = []
        self._repeats = repeats
        self._is_tokenless = is_tokenless

    def list_objects_v2(self, *, ContinuationToken: str = "0", **_: object) -> Mapping[str, object]:
        number = 0 if self._repeats else int(ContinuationToken)
        self.asked.append(number)
        entries = [{"Key": key, "Size": 1, "LastModified": datetime.now(UTC)} for key in self.contents[number]]
        token = {} if self._is_tokenless else {"NextContinuationToken": str(int(ContinuationToken) + 1)}
        return {"Contents": entries, "IsTruncated": True, **token} if number + 1 < len(self.contents) else {"Contents": entries}


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[S3Store, Listing]]:
    """A store whose server is believed to list in order, and does so for a page only."""
    server = Listing(["a", "c"], ["d", "b"])
    monkeypatch.setattr(s3_client, "_make_client", lambda _: server)
    store = S3Store(uri="s3://b", bucket="b", prefix="", connect=lambda: _SECTION, hint="")
    found = Capabilities(lists_in_key_order=True)
    store.learn(found, memory_of(tmp_path, endpoint="x").write(found, uri="s3://b", probed_at_s=0.0))
    yield store, server
    s3_client._clients.clear()


def _keys(found: Iterable[Sequence[Mapping[str, str]]]) -> list[str]:
    return [entry["Key"] for page in found for entry in page]


def test_all_pages_are_read_and_only_when_they_are_wanted() -> None:
    server = Listing(["a", "b"], [], ["c"])
    found = pages(server, bucket="b", prefix="", uri="s3://b")
    next(found)
    assert server.asked == [0]
    assert (_keys(found), server.asked) == (["c"], [0, 1, 2])


@pytest.mark.parametrize("server", [Listing(["a"], ["b"], repeats=True), Listing(["a"], ["b"], is_tokenless=True)], ids=["repeats", "no token"])
def test_a_server_that_does_not_go_on_is_an_error_and_no_loop(server: Listing) -> None:
    with pytest.raises(StoreError, match=r"s3://b lists runs/ without end.*Hint: use a server that honours continuation-token"):
        list(pages(server, bucket="b", prefix="runs/", uri="s3://b"))
    assert len(server.asked) <= 2


def test_a_page_in_order_is_given_before_the_next_is_asked_for(opened: tuple[S3Store, Listing]) -> None:
    store, server = opened
    listing = store.list("")
    assert ([next(listing).key, next(listing).key], server.asked) == (["a", "c"], [0])


def test_order_that_is_lost_on_the_way_is_an_error_and_later_listings_are_sorted(opened: tuple[S3Store, Listing], tmp_path: Path) -> None:
    store, _ = opened
    with pytest.raises(StoreError, match=r"in key order at first, and then out of it\. Hint: repeat the command"):
        list(store.list(""))
    assert [info.key for info in store.list("")] == ["a", "b", "c", "d"]
    [known, _] = memory_of(tmp_path, endpoint="x").read(1.0) or (None, None)
    assert known == Capabilities(lists_in_key_order=False)


def test_disorder_in_the_first_page_is_sorted_at_once(opened: tuple[S3Store, Listing]) -> None:
    store, server = opened
    server.contents = (["c", "b"], ["a"])
    assert [info.key for info in store.list("")] == ["a", "b", "c"]
