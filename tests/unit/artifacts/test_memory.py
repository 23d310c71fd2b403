"""The shipped fake keeps the contract too, so that a test against it means something."""

from __future__ import annotations

import pytest

from foundry_ray.testing.store_contract import StoreContract
from foundry_ray.testing.stores import MemoryStore


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    @pytest.mark.skip(reason="the fake has nowhere to be found by another process")
    def test_a_pickled_copy_is_the_same_store(self) -> None: ...

    @pytest.mark.skip(reason="the fake keeps any key")
    def test_hostile_keys_are_refused(self) -> None: ...
