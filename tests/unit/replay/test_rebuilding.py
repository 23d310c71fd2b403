"""What a replay starts from, what it warns of before it starts, and what it writes into the store that it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foundry_ray import keys
from foundry_ray.config import PipelineConfig, Settings, validate
from foundry_ray.context import Context
from foundry_ray.errors import StoreDenied
from foundry_ray.observability import ConsoleReporter
from foundry_ray.replay import find_original
from foundry_ray.replay.rebuilding import _changes, _log_opening, _other_hardware, _untrained
from foundry_ray.stages import library_versions
from foundry_ray.testing import samples
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import Lineage, ModelArtifact, TrialState

from .conftest import CONFIG, put_version

COMMIT = "c" * 40


class _ReadOnly(MemoryStore):
    is_shut = False

    def put(self, key: str, *args: object, **kwargs: object) -> None:
        if self.is_shut:
            raise StoreDenied(f"{key} cannot be written.", hint="ask for the right to.")
        super().put(key, *args, **kwargs)  # type: ignore[arg-type]


def _told(store: MemoryStore, lineage: Lineage) -> tuple[str, ...]:
    put_version(store, replace(lineage, versions=lineage.versions or library_versions()))
    return _changes(find_original(store, "mnist:1"))


@pytest.fixture
def scratch(settings: Settings) -> Context:
    return Context(settings=settings, clock=FakeClock(), reporter=ConsoleReporter(clock=FakeClock(), quiet=True))


@pytest.fixture
def frozen() -> ModelArtifact:
    student = samples.model()
    return replace(student, artifact=replace(student.artifact, sha256="ab" * 32))


def test_a_trial_forgets_what_it_learnt_and_keeps_what_it_is() -> None:
    trained = replace(samples.trial(2, 0.9, 0.1), checkpoint="studies/k/trials/000002/9.pt", rung=1, seed=7)
    trial = _untrained(trained)
    assert (trial.checkpoint, trial.curve, trial.values, trial.resource_used, trial.rung, trial.state) == (None, (), {}, 0, None, TrialState.WAITING)
    assert (trial.number, trial.params, trial.recipe, trial.seed) == (2, trained.params, trained.recipe, 7)


def test_nothing_is_told_where_nothing_changed(store: MemoryStore, lineage: Lineage) -> None:
    code = {"foundry_ray": "0.1.0", **keys.code(validate(PipelineConfig, CONFIG, where="the test"))}
    assert _told(store, replace(lineage, versions={}, code=code)) == ()


def test_another_library_is_named_with_both_versions(store: MemoryStore, lineage: Lineage) -> None:
    now = library_versions()["torch"]
    assert _told(store, replace(lineage, versions={**library_versions(), "torch": "1.0"})) == (
        f"library torch was 1.0 when the version was made, and is {now} now.",
    )


def test_a_plugin_that_changed_is_named_with_both_hashes(store: MemoryStore, lineage: Lineage) -> None:
    told = _told(store, replace(lineage, versions={}, code={"plugin task": "aa" * 32}))
    assert told == (f"code: plugin task was {'aa' * 32} when the version was made, and is absent now.",)


def test_another_commit_is_named_where_one_was_recorded(store: MemoryStore, lineage: Lineage) -> None:
    told = _told(store, replace(lineage, versions={}, code={"commit": COMMIT}))
    assert len(told) == 1
    assert f"code: commit was {COMMIT}" in told[0]


def test_another_processor_is_named_with_both() -> None:
    report = samples.report()
    latency = replace(report.student.latency[0], device="another")
    other = replace(report, student=replace(report.student, latency=(latency,)))
    assert _other_hardware(report, other) == ("the measuring device was cpu when the version was made, and is another now.",)
    assert _other_hardware(report, report) == ()


def test_the_opening_of_test_is_counted_where_the_original_counts(store: MemoryStore, scratch: Context, frozen: ModelArtifact) -> None:
    dataset = publish_bands(store)
    before = set(store.objects)
    _log_opening(dataset, frozen, store=store, context=scratch)
    assert set(store.objects) - before == {f"test_openings/{dataset.fingerprint}/{'ab' * 32}/000000.json"}


def test_a_store_that_cannot_be_written_is_a_warning(scratch: Context, frozen: ModelArtifact) -> None:
    store = _ReadOnly()
    dataset = publish_bands(store)
    store.is_shut = True
    _log_opening(dataset, frozen, store=store, context=scratch)
    assert "this opening of the test split is not counted" in scratch.reporter.warnings[0]
