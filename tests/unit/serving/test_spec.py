import pytest

from foundry_ray.config import ServeConfig, Settings
from foundry_ray.serving.spec import spec_of
from foundry_ray.testing import samples
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import RegistryEntry

ENTRY = RegistryEntry(name="mnist", version=3, model=samples.model(), report="r", passed=True)


@pytest.mark.parametrize(("threads", "wanted"), [(None, 1), (4, 4)])
def test_a_replica_runs_with_the_threads_that_were_asked_for(store: MemoryStore, settings: Settings, threads: int | None, wanted: int) -> None:
    assert spec_of(ENTRY, ServeConfig(threads=threads), store=store, settings=settings).threads == wanted


def test_a_spec_names_the_version_and_holds_no_credentials(store: MemoryStore, settings: Settings) -> None:
    spec = spec_of(ENTRY, ServeConfig(), store=store, settings=settings)
    assert (spec.name, spec.version, spec.store) == ("mnist", 3, "memory://")
    assert not [name for name in type(spec).model_fields if "secret" in name or "key" in name]
