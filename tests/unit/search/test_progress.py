"""What is told of a study at its end; `test_outcome` has what is told while it runs."""

from __future__ import annotations

from foundry_ray.search.progress import Progress
from foundry_ray.testing.executors import SerialExecutor
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import SyntheticStudy
from foundry_ray.testing.stores import MemoryStore


def test_the_last_view_is_of_the_study_as_it_ended_however_soon_after_the_one_before() -> None:
    reporter, study = RecordingReporter(), SyntheticStudy(MemoryStore(), num_trials=4)
    study.coordinator.listen(Progress(study.coordinator, reporter=reporter, clock=study.clock))
    SerialExecutor(study.runner, clock=study.clock, num_slots=2, event_s=0.1).run(study.coordinator)
    last = reporter.views[-1]
    assert last.running == ()
    assert "running" not in last.num_by_state
    assert sum(last.num_by_state.values()) == 4
