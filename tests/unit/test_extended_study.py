"""A study that goes on from what another one found, what it takes over, and how many trials it adds; and one that is read before it is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from foundry_ray import keys
from foundry_ray.config import LimitsConfig, PipelineConfig, Settings, validate
from foundry_ray.errors import ArtifactNotFound
from foundry_ray.pipeline import Pipeline
from foundry_ray.runlog import save_run
from foundry_ray.search import segments
from foundry_ray.search.extending import Changes, Extension
from foundry_ray.search.finished import output_of
from foundry_ray.search.transfer import identity_key
from foundry_ray.studies import extend_study, study_as_it_stands
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stored_runs import RUN_ID, identity_of, stage_key_of, store_run
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import ModelArtifact, RunRecord, StageStatus, canonical_bytes, to_json

STUDY = stage_key_of("study")
Extend = Callable[..., tuple[PipelineConfig, Extension]]


def _write_space(path: Path, low: float) -> str:
    path.write_text(f"params: {{lr: {{float: [{low}, 0.1], log: true}}}}")
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    search = {"space": _write_space(tmp_path / "space.yaml", 0.001), "budget": {"trials": 3}}
    return validate(PipelineConfig, {"name": "mnist", "data": {"source": "mnist_5k"}, "search": search}, where="test")


@pytest.fixture
def origin(store: MemoryStore, clock: FakeClock, config: PipelineConfig) -> RunRecord:
    """A finished run with the trials lr = 0.01, 0.02 and 0.03, whose study says what it is of."""
    record = store_run(store, clock=clock, config=to_json(config.model_dump(mode="json")))
    teacher = output_of(record, "teacher", ModelArtifact).artifact.sha256
    identity = replace(identity_of(), teacher=teacher, training=keys.training(config))
    store.put(identity_key(STUDY), canonical_bytes(to_json(identity)))
    return record


@pytest.fixture
def extend(origin: RunRecord, store: MemoryStore, clock: FakeClock, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Extend:
    """Extends the run; gives the configuration that was run, and what came of it."""

    def extend(changes: Changes, study_key: str = "b" * 32) -> tuple[PipelineConfig, Extension]:
        ran: list[PipelineConfig] = []

        def run(self: Pipeline, **options: object) -> RunRecord:
            ran.append(self.config)
            study = replace(origin.stage("search"), outputs={**origin.stage("search").outputs, "study_key": study_key})
            return replace(origin, run_id="larger", stages=(study,))

        monkeypatch.setattr(Pipeline, "run", run)
        context = SimpleNamespace(store=store, clock=clock, reporter=RecordingReporter(), limits=LimitsConfig(), settings=settings)
        extension = extend_study("latest", changes, context=context)
        return ran[0], extension

    return extend


def test_another_space_begins_with_the_trials_that_lie_in_it_and_adds_as_many_as_are_asked_for(extend: Extend, tmp_path: Path) -> None:
    config, _ = extend(Changes(space=_write_space(tmp_path / "narrow.yaml", 0.015), trials=5))
    assert config.search.extends == (STUDY,)
    assert config.search.budget.trials == 2 + 5


def test_where_no_number_is_said_it_adds_as_many_as_the_run_had(extend: Extend) -> None:
    config, _ = extend(Changes(objectives=("accuracy:max", "num_params:min")))
    assert config.search.extends == (STUDY,)
    assert config.search.budget.trials == 3 + 3


def test_a_number_of_all_trials_is_taken_as_it_is(extend: Extend) -> None:
    config, _ = extend(Changes(objectives=("accuracy:max",), overrides=("search.budget.trials=4",)))
    assert config.search.budget.trials == 4


def test_more_trials_alone_go_on_with_the_same_study(extend: Extend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "study", lambda config, dataset, teacher: (STUDY, ""))
    config, extension = extend(Changes(trials=5), STUDY)
    assert (config.search.extends, config.search.budget.trials) == ((), 3 + 5)
    assert (extension.study_key, extension.num_adopted) == (STUDY, 0)


def test_another_budget_alone_asks_for_no_more_trials(extend: Extend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "study", lambda config, dataset, teacher: (STUDY, ""))
    config, _ = extend(Changes(overrides=("search.budget.worker_hours=2",)), STUDY)
    assert (config.search.budget.worker_hours, config.search.budget.trials) == (2.0, 3)


def test_of_other_data_nothing_is_counted_as_taken_over(extend: Extend) -> None:
    config, _ = extend(Changes(trials=5, overrides=("data.split.val=0.2",)))
    assert config.search.extends == (STUDY,)
    assert config.search.budget.trials == 5


def test_what_was_taken_over_is_told_from_the_new_journal(extend: Extend, store: MemoryStore) -> None:
    events = [canonical_bytes({"kind": kind, "number": 0, "source": STUDY}) for kind in ("open", "adopt", "adopt", "ask")]
    store.put(f"studies/{'b' * 32}/journal/00000000", segments.segment(events, driver="d", number=0))
    _, extension = extend(Changes(objectives=("accuracy:max",)))
    assert (extension.extended, extension.num_before, extension.num_adopted, extension.record.run_id) == (STUDY, 3, 2, "larger")


def test_a_run_that_is_not_there_is_not_extended(extend: Extend, store: MemoryStore) -> None:
    store.delete(f"runs/{RUN_ID}/record.json")
    with pytest.raises(ArtifactNotFound, match="There is no run 'latest'"):
        extend(Changes(trials=1))


def _unfinished(record: RunRecord, store: MemoryStore, **changes: object) -> RunRecord:
    stages = (replace(one, **changes) if one.name == "search" else one for one in record.stages if one.name in ("data", "teacher", "search"))
    record = replace(record, stages=tuple(stages))
    save_run(store, record)
    return record


def test_a_study_that_is_not_over_is_read_from_its_journal(origin: RunRecord, store: MemoryStore, settings: Settings) -> None:
    record = _unfinished(origin, store, outputs=None, status=StageStatus.RUNNING, progress_key=STUDY)
    before = dict(store.objects)
    study = study_as_it_stands(record, SimpleNamespace(store=store, settings=settings))
    assert [trial.params["lr"] for trial in study.trials] == [0.01, 0.02, 0.03]
    assert (study.chosen, study.pareto_front, study.num_by_state) == (-1, (0, 1), {"complete": 3})
    assert store.objects == before


def test_a_study_that_is_over_is_its_result(origin: RunRecord, store: MemoryStore, settings: Settings) -> None:
    assert study_as_it_stands(origin, SimpleNamespace(store=store, settings=settings)).chosen == 0


def test_a_run_that_has_not_come_to_its_study_says_so(origin: RunRecord, store: MemoryStore, settings: Settings) -> None:
    record = _unfinished(origin, store, outputs=None, status=StageStatus.PENDING, progress_key="")
    with pytest.raises(ArtifactNotFound, match="has no finished study"):
        study_as_it_stands(record, SimpleNamespace(store=store, settings=settings))
