"""How many requests an operation costs does not depend on how many versions there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from foundry_ray import registry
from foundry_ray.config import SigningKeys
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stores import FailingStore, MemoryStore

from .conftest import NOTE, lineage, put_model, put_old_moves, put_report, put_version

KEYS = SigningKeys(signing=f"hmac:{'e5' * 32}")
Work = Callable[[ArtifactStore], object]


def _filled(num_versions: int) -> MemoryStore:
    """Every version with a report, the newest with tags, a signature and both aliases."""
    store = MemoryStore()
    for number in range(num_versions):
        put_version(store, str(number).encode(), lineage=lineage())
    registry.tag(store, "mnist", num_versions, {"stage": "prod"}, note=NOTE)
    entry = registry.resolve(store, "mnist")
    registry.sign_entry(store, entry, note=NOTE, keys=KEYS)
    return store


def _register_new(store: ArtifactStore) -> None:
    model = put_model(MemoryStore(), b"new")
    registry.register(store, name="mnist", model=model, report_key="new", passed=True, run_id="r", clock=FakeClock(), keys=KEYS)


def _cost(store: ArtifactStore, work: Work) -> int:
    counted = FailingStore(store)
    work(counted)
    return len(counted.calls)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda store: registry.resolve(store, "mnist@champion"), 4),
        (lambda store: registry.resolve(store, "mnist:2"), 3),
        (lambda store: registry.show(store, "mnist@champion"), 6),
        (lambda store: registry.show(store, "mnist:2"), 6),
        (lambda store: registry.model_card(store, "mnist@champion", keys=KEYS), 9),
        (lambda store: registry.model_card(store, "mnist:2", keys=KEYS), 8),
        (lambda store: registry.promote(store, "mnist", 2, note=NOTE), 6),
        (lambda store: registry.tag(store, "mnist", 2, {"a": "b"}, note=NOTE), 3),
        (lambda store: _register_new(store), 22 + 1),
    ],
)
def test_the_cost_of_an_operation_is_as_the_package_says(work: Work, expected: int) -> None:
    costs = [_cost(_filled(num_versions), work) for num_versions in (3, 60)]
    assert costs == [expected, expected]


def test_resolving_an_alias_costs_the_same_after_a_later_report() -> None:
    store = _filled(3)
    model = registry.resolve(store, "mnist:3").model
    registry.register(store, name="mnist", model=model, report_key=put_report(store, model, key="later"), passed=True, run_id="r", clock=FakeClock())
    assert registry.resolve(store, "mnist").report == "later"
    assert _cost(store, lambda counted: registry.resolve(counted, "mnist")) == 4


def test_what_format_1_wrote_costs_two_requests_more() -> None:
    store = _filled(3)
    put_old_moves(store, 1, 2, alias="old")
    assert _cost(store, lambda counted: registry.resolve(counted, "mnist@old")) == 6


def test_a_list_lists_once_and_reads_what_it_shows_once() -> None:
    counted = FailingStore(_filled(40))
    assert len(registry.versions(counted, "mnist")) == 40
    verbs = Counter(verb for verb, _ in counted.calls)
    assert verbs == {"list": 1, "get": 2 * 40 + 1 + 1}


def test_a_rollback_reads_each_move_once() -> None:
    assert _cost(_filled(10), lambda store: registry.rollback(store, "mnist", note=NOTE)) == 5 + 10


def test_models_that_no_index_knows_are_found_and_indexed() -> None:
    store = _filled(5)
    for key in [key for key in store.objects if key.startswith("registry/mnist/models/")]:
        del store.objects[key]
    assert put_version(store, b"0").version == 1
    assert len(list(store.list("registry/mnist/models/"))) == 5
