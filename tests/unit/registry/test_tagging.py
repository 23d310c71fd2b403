"""Tags are the user's own, and nobody's change is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from foundry_ray import registry
from foundry_ray.errors import ArtifactNotFound, ConfigError, OutOfRange
from foundry_ray.testing.stores import MemoryStore

from .conftest import NOTE, put_version


def test_tags_are_set_changed_and_removed(store: MemoryStore) -> None:
    put_version(store, b"one")
    assert registry.tag(store, "mnist", 1, {"stage": "dev", "owner": "ann"}, note=NOTE) == {"owner": "ann", "stage": "dev"}
    assert registry.tag(store, "mnist", 1, {"stage": "prod"}, remove=["owner"], note=NOTE) == {"stage": "prod"}
    assert registry.show(store, "mnist:1").tags == registry.versions(store, "mnist")[0].tags == {"stage": "prod"}
    assert len(list(store.list("registry/mnist/tags/00000001/"))) == 2


def test_a_change_that_changes_nothing_writes_nothing(store: MemoryStore) -> None:
    put_version(store, b"one")
    for _ in range(2):
        registry.tag(store, "mnist", 1, {"stage": "dev"}, note=NOTE)
    assert len(list(store.list("registry/mnist/tags/"))) == 1


def test_tags_of_many_at_once_are_all_kept(store: MemoryStore) -> None:
    put_version(store, b"one")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: registry.tag(store, "mnist", 1, {f"k{number}": "v"}, note=NOTE), range(24)))
    assert len(registry.show(store, "mnist:1").tags) == 24


@pytest.mark.parametrize(
    ("pairs", "kind", "message"),
    [
        (["stage"], ConfigError, "'stage' is no tag, wanted key=value"),
        (["=x"], OutOfRange, "'' is no key of a tag, wanted 1 to 63"),
        (["a b=x"], OutOfRange, "'a b' is no key of a tag"),
        ([f"{'k' * 64}=x"], OutOfRange, "is no key of a tag"),
        ([f"k={'v' * 251}"], OutOfRange, "the tag k has a value of 251 characters, wanted at most 250"),
        (["k=a\nb"], OutOfRange, "on one line"),
    ],
)
def test_a_wrong_tag_is_refused(pairs: list[str], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        registry.parse_tags(pairs)


def test_a_version_has_at_most_50_tags(store: MemoryStore) -> None:
    put_version(store, b"one")
    registry.tag(store, "mnist", 1, {f"k{number}": "v" for number in range(50)}, note=NOTE)
    with pytest.raises(OutOfRange, match=r"mnist:1 would have 51 tags, wanted at most 50\."):
        registry.tag(store, "mnist", 1, {"one": "more"}, note=NOTE)


def test_what_is_not_there_cannot_be_tagged_or_removed(store: MemoryStore) -> None:
    put_version(store, b"one")
    with pytest.raises(ArtifactNotFound, match="mnist has no version 2"):
        registry.tag(store, "mnist", 2, {"a": "b"}, note=NOTE)
    with pytest.raises(ConfigError, match=r"mnist:1 has no tag 'owner'; its tags: none\."):
        registry.tag(store, "mnist", 1, {}, remove=["owner"], note=NOTE)
