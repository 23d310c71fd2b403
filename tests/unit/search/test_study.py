"""What a study refuses before Ray is asked for anything, and what it gives a trial."""

from __future__ import annotations

import pytest

from foundry_ray.config import SearchConfig, Settings, StudentConfig
from foundry_ray.errors import OutOfRange
from foundry_ray.search.environment import slot_bytes
from foundry_ray.search.study import StudyContext, run_study
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.samples import model
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import DatasetRef, ImageSchema, Preprocessing, SplitInfo

SCHEMA = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("a", "b"))
DATASET = DatasetRef(
    key="d",
    fingerprint="f" * 64,
    task="image_classification",
    splits={"train": SplitInfo(num_rows=50, num_bytes=1)},
    schema=SCHEMA,
    preprocessing=Preprocessing(mean=(0.0,), std=(1.0,)),
)


def test_a_batch_that_no_trial_could_fill_is_refused_before_the_study(
    memory_store: MemoryStore, settings: Settings, clock: FakeClock, reporter: RecordingReporter
) -> None:
    context = StudyContext(
        search=SearchConfig(),
        student=StudentConfig(batch_size=64),
        task="image_classification",
        augment=(),
        seed=0,
        dataset=DATASET,
        teacher=model("teacher"),
        store=memory_store,
        settings=settings,
    )
    with pytest.raises(OutOfRange, match=r"student\.batch_size is 64, but the training split has 50 rows") as caught:
        run_study(context, study_key="k" * 32, clock=clock, reporter=reporter, session=None)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    assert memory_store.objects == {}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([{"CPU": 4.0, "memory": 8e9}], 4_000_000_000),
        ([{"CPU": 4.0, "memory": 8e9}, {"CPU": 16.0, "memory": 16e9}], 2_000_000_000),
        ([{"CPU": 1.0, "memory": 1e9}, {"CPU": 16.0, "memory": 16e9}], 2_000_000_000),
        ([{"CPU": 4.0}], None),
        ([], None),
    ],
)
def test_a_trial_has_its_share_of_the_smallest_node_that_it_fits(nodes: list[dict[str, float]], expected: int | None) -> None:
    assert slot_bytes(nodes, 2.0) == expected
