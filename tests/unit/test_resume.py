"""Going on with a run whose record another version wrote."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from foundry_ray.errors import UnknownKey
from foundry_ray.pipeline import resume
from foundry_ray.runlog import save_run
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import RunRecord


def test_a_record_with_a_key_that_is_gone_says_which(store: MemoryStore) -> None:
    config = {"name": "mnist", "data": {"source": "mnist_5k"}, "sevre": {}}
    save_run(store, RunRecord(run_id="mnist-20260101-000000-aaaa", pipeline="mnist", config=config, versions={}))
    with pytest.raises(UnknownKey, match=r"the record of run mnist-20260101-000000-aaaa: sevre is no key"):
        resume("latest", context=SimpleNamespace(store=store))  # type: ignore[arg-type]
