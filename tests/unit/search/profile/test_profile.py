from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from foundry_ray.config import PipelineConfig
from foundry_ray.errors import SearchSpaceError
from foundry_ray.search.profile import Circumstances, Tools, profile_space
from foundry_ray.search.profile.rehearsal import Pace
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import RecordedLatencyMeter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import ImageSchema, SpaceProfile

SCHEMA = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("dark", "light"))
SIZES = "{width: {choice: [4, 8]}, depth: {int: [1, 1]}, weight_bits: {choice: [8, 32]}}"
Profile = Callable[..., SpaceProfile]


class _Ticking(FakeClock):
    """A millisecond goes by whenever somebody looks: what is limited or timed is the same on every machine."""

    def monotonic_s(self) -> float:
        self.advance(0.001)
        return super().monotonic_s()


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    """Profiles a space below a teacher of width 16; latency is written down: a millisecond for each kilobyte."""

    def made(
        params: str,
        *,
        rows: tuple[int, int] | None = (64, 32),
        p50_ms: Callable[[bytes], float] = lambda onnx: len(onnx) / 1e3,
        measuring_s: float = 0.0,
        num_students: int = 24,
        **search: object,
    ) -> SpaceProfile:
        clock = _Ticking()

        def measured_ms(onnx: bytes) -> float:
            clock.advance(measuring_s)
            return p50_ms(onnx)

        (tmp_path / "mine.yaml").write_text(f"params: {params}")
        config = PipelineConfig.model_validate(
            {
                "name": "p",
                "data": {"source": "mnist_5k", "augment": ["shift"]},
                "teacher": {"model": {"width": 16, "depth": 1}},
                "search": {"space": str(tmp_path / "mine.yaml"), "budget": {"trials": 10}, **search},
                "student": {"batch_size": 16},
            }
        )
        meter = RecordedLatencyMeter(measured_ms)
        tools = Tools(meter=lambda budget_s: meter, scratch=MemoryStore(), clock=clock, reporter=RecordingReporter())
        return profile_space(config, SCHEMA, Circumstances(rows=rows, num_workers=2, price=3.0, num_students=num_students), tools)

    return made


def test_the_smallest_the_median_and_the_largest_student_are_measured_beside_the_teacher(profile: Profile) -> None:
    found = profile(SIZES)
    assert found.smallest.params["width"] == 4
    assert found.largest.params["width"] == 8
    models = (found.smallest, found.median, found.largest, found.teacher)
    assert sorted(model.num_params for model in models) == [model.num_params for model in models]
    assert found.smallest.num_macs < found.largest.num_macs < found.teacher.num_macs
    assert found.teacher.latency_p50_ms == found.teacher.size_bytes / 1e3
    assert found.num_sampled == 24


WIDE = "{width: {int: [2, 16]}, depth: {choice: [1]}, weight_bits: {choice: [8, 32]}, prune_ratio: {float: [0.0, 0.5]}}"


def test_the_ends_of_a_space_are_found_where_no_point_drawn_at_random_lies(profile: Profile) -> None:
    found = profile(WIDE, num_students=2)
    assert (found.smallest.params["width"], found.smallest.params["weight_bits"]) == (2, 8)
    assert (found.largest.params["width"], found.largest.params["weight_bits"]) == (16, 32)
    assert found.median.num_params not in (found.smallest.num_params, found.largest.num_params)


def test_the_ends_keep_relations_and_conditions(profile: Profile) -> None:
    params = (
        "{width: {int: [2, 16]}, depth: {choice: [1]}, weight_bits: {choice: [8, 32]}, prune_ratio: {float: [0.0, 0.5], when: {weight_bits: [8]}}}"
    )
    found = profile(f"{params}\nrelations: ['width >= 5', 'width <= 12']", num_students=2)
    for end in (found.smallest, found.largest):
        assert 5 <= int(end.params["width"]) <= 12
        assert ("prune_ratio" in end.params) == (end.params["weight_bits"] == 8)


def test_a_constraint_that_only_the_end_of_a_space_keeps_can_be_reached(profile: Profile) -> None:
    limit = f"num_params <= {profile(WIDE, num_students=2).smallest.num_params}"
    found = profile(WIDE, constraints=[limit], num_students=2)
    (reach,) = found.reaches
    assert (reach.share, reach.num_kept, reach.params["width"]) == ("some", 0, 2)
    assert found.num_feasible == 0
    assert any(f"hardly any student keeps {limit}" in said for said in found.warnings)


def test_students_that_there_was_no_time_to_measure_are_not_counted_as_fit(profile: Profile) -> None:
    found = profile(WIDE, constraints=["latency_p50_ms <= 0.001"], measuring_s=5.0)
    assert 0 < found.num_judged < found.num_sampled
    assert (found.num_feasible, found.effort.num_trained) == (0, 0.0)


def test_equal_students_are_counted_as_duplicates_and_equal_graphs_once(profile: Profile) -> None:
    found = profile(SIZES)
    assert (found.num_graphs, found.num_duplicates) == (4, 20)
    assert 3 < found.effort.num_trained < 4
    varied = profile("{width: {choice: [4, 8]}, depth: {int: [1, 1]}, lr: {float: [0.001, 0.01]}}")
    assert (varied.num_graphs, varied.num_duplicates) == (2, 0)


def test_each_constraint_says_how_many_students_keep_it(profile: Profile) -> None:
    texts = ["num_params <= 1e9", "num_params < 9000", "size_bytes <= 100", "latency_p50_ms >= 1", "accuracy >= 0.9"]
    found = profile(SIZES, constraints=texts)
    assert [one.share for one in found.reaches] == ["all", "some", "none", "all", "unknown"]
    size = found.reaches[2]
    assert (size.num_known, size.num_kept, size.nearest) == (24, 0, found.smallest.size_bytes)
    assert found.num_feasible == 0
    assert any(f"no student that was found keeps size_bytes <= 100: the nearest has {size.nearest:g}, with" in said for said in found.warnings)


def test_constraints_that_only_exclude_each_other_are_told(profile: Profile) -> None:
    small, large = profile(SIZES).smallest, profile(SIZES).largest
    found = profile(SIZES, constraints=[f"num_params <= {small.num_params}", f"num_macs >= {large.num_macs}"])
    assert [one.share for one in found.reaches] == ["some", "some"]
    assert "each constraint is kept by some of the sampled students, and none of them keeps all." in found.warnings


def test_an_epoch_is_timed_and_becomes_hours_and_cost(profile: Profile) -> None:
    effort = profile(SIZES).effort
    assert effort.epoch_s is not None
    assert effort.worker_hours is not None
    assert effort.worker_hours * 3600 == pytest.approx(effort.num_trained * effort.epochs_per_trial * effort.epoch_s + 10 * effort.prepare_s)
    assert (effort.hours, effort.cost) == (effort.worker_hours / 2, 3.0 * effort.worker_hours)


def test_an_epoch_takes_what_its_rows_take() -> None:
    assert Pace(trained_row_s=2e-3, judged_row_s=5e-4).epoch_s((1000, 200)) == pytest.approx(2.1)


def test_a_student_that_distils_is_timed_with_its_teachers_answers(profile: Profile) -> None:
    found = profile("{lr: {float: [0.001, 0.01]}, distil_alpha: {float: [0.3, 0.9]}, distil_temperature: {float: [1, 4]}}")
    assert found.effort.epoch_s is not None
    assert found.effort.epoch_s > 0


def test_hours_are_not_made_up_where_rows_are_not_known(profile: Profile) -> None:
    found = profile(SIZES, rows=None)
    assert found.effort.worker_hours is None
    assert any("foundry run --until data" in said for said in found.warnings)


def test_students_that_are_smaller_and_not_faster_are_told(profile: Profile) -> None:
    equally_slow = profile(SIZES, p50_ms=lambda onnx: 5.0)
    assert any("smaller than the teacher, and not faster" in said for said in equally_slow.warnings)
    assert not any("not faster" in said for said in profile(SIZES).warnings)


def test_relations_that_hardly_any_point_keeps_are_told(profile: Profile) -> None:
    found = profile("{lr: {float: [0.001, 0.01]}, weight_decay: {float: [0.0, 1.0]}}\nrelations: ['weight_decay < 0.02']")
    assert any("of the points of the space keep its relations" in said for said in found.warnings)


def test_a_space_of_which_nothing_can_be_built_is_refused(profile: Profile) -> None:
    with pytest.raises(SearchSpaceError, match=r"none of 24 students of the space can be built, .* wants 32 channels") as caught:
        profile("{width: {choice: [32]}, depth: {int: [1, 1]}}")
    assert caught.value.hint


def test_equal_pipelines_have_equal_students(profile: Profile) -> None:
    first, again = profile(SIZES), profile(SIZES)
    assert (first.median.params, first.median.size_bytes) == (again.median.params, again.median.size_bytes)
