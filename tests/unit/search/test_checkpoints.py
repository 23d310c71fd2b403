from __future__ import annotations

from foundry_ray.config import SchedulerConfig
from foundry_ray.search.events import Event
from foundry_ray.testing.search import OBJECTIVES, TRIALS, SyntheticRunner, SyntheticStudy
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.types import Param, SearchSpace, TrialState

LR_ALONE = SearchSpace(params=(Param(name="lr", kind="float", low=5e-4, high=1e-2, log=True),), objectives=OBJECTIVES)


def _study(store: MemoryStore | None = None, **keys: object) -> tuple[MemoryStore, SyntheticStudy]:
    store = store if store is not None else MemoryStore()
    return store, SyntheticStudy(store, runner=SyntheticRunner(store=store), **keys)  # type: ignore[arg-type]


def _kept(store: MemoryStore) -> set[str]:
    return {key for key in store.objects if key.startswith(TRIALS)}


def test_of_each_trial_the_last_checkpoint_is_kept() -> None:
    store, study = _study()
    trials = study.run()
    assert _kept(store) == {trial.checkpoint for trial in trials if trial.checkpoint}
    assert any(trial.rung for trial in trials), "some trials went on, and had an earlier one"


def test_a_checkpoint_stays_until_the_next_one_is_durable() -> None:
    store = MemoryStore()
    failing = FailingStore(store)
    study = SyntheticStudy(failing, num_trials=1, runner=SyntheticRunner(store=store))
    job = study.coordinator.next_job()
    assert job is not None
    failing.fail("put", times=1000)
    for event in study.runner(job):
        study.coordinator.observe(event)
    assert len(_kept(store)) == 3
    failing.fail("put", times=0)
    study.coordinator.close()
    assert len(_kept(store)) == 1


def test_what_a_killed_driver_left_is_removed_when_the_study_is_opened_again() -> None:
    store, study = _study()
    study.run(budget=60)
    orphan = f"{TRIALS}/000003/000009-{'0' * 32}.safetensors"
    store.put(orphan, b"written, and never told of")
    _, again = _study(store, driver="driver-2")
    assert orphan not in store.objects
    assert {record.trial.checkpoint for record in again.state.records.values() if record.trial.checkpoint} <= _kept(store)


def test_a_failed_trial_needs_none() -> None:
    store, study = _study(num_trials=1, max_failures=0)
    job = study.coordinator.next_job()
    assert job is not None
    events = study.runner(job)
    while study.coordinator.observe(event := next(events)) and event.kind != "rung":
        pass
    study.coordinator.died(0, "signal 9")
    study.coordinator.close()
    assert not _kept(store)


def test_a_donor_keeps_its_checkpoints_until_every_member_has_passed() -> None:
    store, study = _study(space=LR_ALONE, scheduler=SchedulerConfig(kind="pbt", population=4, rungs=(1, 2, 3, 4)), num_trials=4, sampler="random")
    taken: list[str | None] = []

    def note(event: Event) -> None:
        if event.kind == "exploit":
            checkpoint = study.state.records[event.number].trial.checkpoint
            taken.append(checkpoint)
            assert checkpoint in store.objects

    study.coordinator.listen(note)
    trials = study.run()
    assert taken
    assert _kept(store) == {trial.checkpoint for trial in trials}


def test_a_population_that_extends_another_study_leaves_no_checkpoint_behind() -> None:
    """Trials that were taken over have no seat, so nobody waits for them to pass a rung."""
    store = MemoryStore()
    SyntheticStudy(store, study_key="earlier", space=LR_ALONE, num_trials=6, sampler="random").run()
    scheduler = SchedulerConfig(kind="pbt", population=4)
    _, study = _study(store, space=LR_ALONE, scheduler=scheduler, num_trials=10, sampler="random", extends=("earlier",))
    trials = study.run()
    assert any(trial.state is TrialState.WAITING for trial in trials[:6])
    assert _kept(store) == {trial.checkpoint for trial in trials[6:]}


def test_a_donor_that_failed_keeps_its_checkpoint_for_who_has_yet_to_take_it_over() -> None:
    store, study = _study(space=LR_ALONE, scheduler=SchedulerConfig(kind="pbt", population=2, quantile=0.5), num_trials=2, sampler="random", seed=1)
    for _ in range(2):
        job = study.coordinator.next_job()
        assert job is not None
        events = study.runner(job)
        while study.coordinator.observe(next(events)):
            pass
    donor = study.coordinator.next_job()
    assert donor is not None
    study.coordinator.observe(Event(kind="failed", number=donor.number, error="ValueError: bad"))
    taker = study.coordinator.next_job()
    assert taker is not None
    study.coordinator.close()
    assert (donor.number, study.state.records[taker.number].donors) == (0, (0,))
    assert taker.checkpoint in _kept(store)
    study = _study(store, space=LR_ALONE, scheduler=study.rules.scheduler, num_trials=2, sampler="random", seed=1, driver="driver-2")[1]
    assert taker.checkpoint in _kept(store)
    trials = study.run()
    assert _kept(store) == {trials[taker.number].checkpoint}
