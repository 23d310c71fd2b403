"""A store that holds one finished run."""

from __future__ import annotations

import pytest

from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stored_runs import store_run
from foundry_ray.testing.stores import MemoryStore


@pytest.fixture
def full(clock: FakeClock) -> MemoryStore:
    store = MemoryStore()
    store_run(store, clock=clock)
    return store
