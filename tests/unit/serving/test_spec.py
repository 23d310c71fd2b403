from dataclasses import replace

import pytest

from foundry_ray.compression import check_recipe
from foundry_ray.config import ServeConfig, Settings, StoreConfig
from foundry_ray.serving.spec import spec_of
from foundry_ray.testing import samples
from foundry_ray.types import CompressionRecipe, RegistryEntry, Step

ENTRY = RegistryEntry(name="mnist", version=3, model=samples.model(), report="r", passed=True)


@pytest.mark.parametrize(("threads", "wanted"), [(None, 1), (4, 4)])
def test_a_replica_runs_with_the_threads_that_were_asked_for(settings: Settings, threads: int | None, wanted: int) -> None:
    assert spec_of(ENTRY, ServeConfig(threads=threads), store=StoreConfig(uri="s3://b/p"), settings=settings).threads == wanted


def test_threads_of_the_recipe_hold_where_nobody_asks_for_others(settings: Settings) -> None:
    recipe = check_recipe(CompressionRecipe(steps=(Step(kind="runtime", params={"name": "openvino", "threads": 3}),)))
    entry = replace(ENTRY, model=replace(ENTRY.model, recipe=recipe))
    specs = [spec_of(entry, ServeConfig(threads=threads), store=StoreConfig(uri="s3://b/p"), settings=settings) for threads in (None, 2)]
    assert [spec.threads for spec in specs] == [3, 2]


def test_a_spec_names_the_version_and_holds_no_credentials(settings: Settings) -> None:
    spec = spec_of(ENTRY, ServeConfig(), store=StoreConfig(uri="s3://b/p"), settings=settings)
    assert (spec.name, spec.version, spec.store.uri) == ("mnist", 3, "s3://b/p")
    assert not [name for name in type(spec).model_fields if "secret" in name or "key" in name]
