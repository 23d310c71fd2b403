import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from foundry_ray.errors import ConfigError
from foundry_ray.reporting import figures, lists, page, studies, tables, units
from foundry_ray.reporting.leaderboard import columns, leaderboard, why_ended
from foundry_ray.search.importance import importances_of
from foundry_ray.search.overview import overview
from foundry_ray.starting import pipeline_schema
from foundry_ray.testing import samples
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import GateResult, Objective, Plan, PlannedTraining, StudyResult


@pytest.fixture(scope="module")
def study() -> StudyResult:
    return samples.searched(40)


def _text(renderable: RenderableType, width: int = 120) -> str:
    console = Console(width=width, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(renderable)
    console.file.close()
    return console.export_text()


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (units.si_bytes(2_831_155), "2.7 MiB"),
        (units.si_count(698_000), "698 k"),
        (units.ratio(80, 10), "8.0x"),
        (units.ratio(1, 0), "-"),
        (units.duration(192), "3 min 12 s"),
        (units.duration(7500), "2 h 05 min"),
        (units.value("accuracy", 0.9712), "97.12 %"),
        (units.value("latency_p50_ms", 0.1), "0.100 ms"),
    ],
)
def test_numbers_read_as_people_write_them(shown: str, wanted: str) -> None:
    assert shown == wanted


def test_the_summary_holds_teacher_student_ratio_gate_and_endpoint() -> None:
    text = _text(tables.run_summary(samples.record()))
    for wanted in ("98.00 % [97.0, 99.0]", "-0.60 points", "11.7x less", "pass 0.6 points <= 3", "http://127.0.0.1:8000", "opened twice"):
        assert wanted in text


def test_a_failed_gate_says_that_the_champion_stays() -> None:
    text = _text(tables.run_summary(samples.record(passed=False)))
    assert "FAIL 0.6 points <= 0.5" in text
    assert "the champion stays" in text


def test_every_gate_is_shown_and_those_that_failed_are_named_with_value_and_limit() -> None:
    report = samples.report()
    gates = (
        *report.gates,
        GateResult(name="class_drop_points", value=4.25, relation="<=", limit=2.0, passed=False),
        GateResult(name="fgsm_8.min_accuracy", value=0.61, relation=">=", limit=0.5, passed=True),
    )
    text = " ".join(_text(tables.comparison_table(replace(report, gates=gates, passed=False))).split())
    assert "FAIL 4.25 <= 2" in text
    assert "pass 0.61 >= 0.5" in text
    assert "failed: class_drop_points is 4.25, wanted <= 2" in text
    assert "fgsm_8.min_accuracy is" not in text


def test_a_runtime_that_is_not_the_default_stands_beside_the_latency() -> None:
    report = samples.report()
    [ours] = report.student.latency
    student = replace(report.student, latency=(replace(ours, runtime="openvino 2026.4.1 bf16"),))
    assert "p50, batch 1 in onnxruntime and openvino" in _text(tables.comparison_table(replace(report, student=student)))
    assert "p50, batch 1 " in _text(tables.comparison_table(report))
    assert "onnxruntime" not in _text(tables.comparison_table(report))


def test_trials_show_the_winner_and_the_front() -> None:
    text = _text(tables.trials_table(samples.study(), samples.study().trials, ("lr",)))
    assert re.search(r">0 +complete", text)
    assert re.search(r"\*1 +complete", text)
    assert "2 complete, 1 stopped" in text


def test_trials_show_the_asked_parameters_and_name_the_others(study: StudyResult) -> None:
    text = _text(tables.trials_table(study, study.trials[:3], ("width",)), width=160)
    assert "width" in text.splitlines()[1]
    assert "not shown: lr, momentum, optimizer" in " ".join(text.split())


def test_each_trial_says_why_it_was_not_trained_to_the_end(study: StudyResult) -> None:
    assert [why_ended(study.trials[number]) for number in (0, 1, 4, 5, 7, 8)] == [
        "",
        "stopped after 1 epoch",
        "num_params is 102400, wanted <= 90000",
        "the loss is not finite",
        "the same as trial 6 after rounding, whose values these are",
        "no faster than the teacher: p50 is 1.2 ms, the teacher's 1.2 ms",
    ]


def test_a_narrow_screen_breaks_why_a_trial_ended_and_no_number(study: StudyResult) -> None:
    text = _text(tables.trials_table(study, study.trials[:6], ("momentum", "lr")), width=100)
    assert "accuracy  latency_p50      size  momentum" in text
    assert "num_params is 102400, wanted <= 90000" in " ".join(text.split())


def test_as_many_parameters_are_shown_as_a_line_has_room_for() -> None:
    names = ("depth", "distil_alpha", "distil_temperature", "width", "prune_ratio")
    trials = tuple(replace(samples.trial(number, 0.9, 0.1), params=dict.fromkeys(names, number)) for number in range(2))
    assert columns(trials, ()) == ("depth", "distil_alpha", "width")
    assert columns(trials, ("a_parameter_with_a_name_that_is_longer_than_all_room", "distil_temperature")) == ("distil_temperature",)


def test_the_columns_are_those_that_matter_else_those_that_differ() -> None:
    trials = (replace(samples.trial(0, 0.9, 0.1), params={"a": 1, "b": 2, "c": 3}), replace(samples.trial(1, 0.9, 0.1), params={"a": 1, "b": 3}))
    assert columns(trials, ("c", "gone")) == ("c",)
    assert columns(trials, ()) == ("b", "c")


def test_the_leaderboard_sorts_and_filters() -> None:
    study = samples.study()
    assert [trial.number for trial in leaderboard(study, sort="accuracy")] == [1, 0, 2]
    assert [trial.number for trial in leaderboard(study, sort="latency_p50_ms")] == [0, 1, 2]
    assert [trial.number for trial in leaderboard(study, only_front=True)] == [0, 1]
    with pytest.raises(ConfigError, match="--sort got 'speed', wanted one of number, accuracy"):
        leaderboard(study, sort="speed")


def test_a_study_at_one_look_says_what_it_cost_what_mattered_and_what_policies_choose(store: MemoryStore) -> None:
    found = overview(samples.searched_record(40), store)
    text = _text(studies.study_summary(found), width=160)
    for wanted in (
        "40 trials: ",
        "5 min 20 s of work in 6 min 40 s, which cost 0.25.".replace("5 min 20 s", units.duration(found.study.worker_seconds)),
        "No more trials were begun: all trials of the budget were begun (`search.budget.trials`).",
        "which parameters mattered",
        "fastest within 1.0 point of the teacher",
        "`foundry deploy mnist-20260101-000000-aaaa --policy POLICY` finishes and serves one.",
    ):
        assert wanted in text
    assert re.search(r"hypervolume over time(.*\n)+.* 40 +120 +0\.9756", text)


@pytest.mark.parametrize(("num_trials", "num_rows"), [(12, 8), (3, 3)])
def test_the_hypervolume_is_told_at_a_few_moments_each_once(store: MemoryStore, num_trials: int, num_rows: int) -> None:
    text = _text(studies.study_summary(overview(samples.searched_record(num_trials), store)), width=160)
    rows = re.findall(r"^ *(?:.* s|.* min \d+ s) +(\d+) +\d+ +0\.\d{4} *$", text, flags=re.MULTILINE)
    assert (len(rows), len(set(rows)), rows[-1]) == (num_rows, num_rows, str(num_trials))


def test_a_policy_that_no_trial_keeps_says_which_comes_nearest(store: MemoryStore) -> None:
    found = overview(samples.searched_record(40), store)
    missed = replace(found, alternatives=(replace(found.alternatives[0], warning="trial 3 comes nearest."),))
    assert re.search(r"most accurate.* !\n! trial 3 comes nearest\.", _text(studies.study_summary(missed), width=160))


def test_a_study_of_few_trials_says_that_nothing_can_be_said(store: MemoryStore) -> None:
    record = samples.record()
    assert "nothing can be said: 3 trials compare, wanted 10 or more" in _text(studies.importance_table(overview(record, store).importances))


def test_the_page_is_self_contained_and_escaped(store: MemoryStore, tmp_path: Path) -> None:
    html = page.write(store, samples.record(), tmp_path / "r.html").read_text()
    assert html.count("<svg") == 4
    assert not re.search(r"""(src|href)=["']https?:""", html)
    assert "<script" not in html
    assert "a &lt;warning&gt; &amp; more" in html
    assert store.get("runs/mnist-20260101-000000-aaaa/report.html") == html.encode()


def test_the_page_of_a_study_draws_what_the_work_gained_and_what_mattered(store: MemoryStore) -> None:
    record = samples.searched_record(40)
    html = page.render(record, importances_of(record, store))
    for wanted in (
        "accuracy and latency",
        "accuracy and size",
        "Hypervolume over the work",
        "Which parameters mattered",
        "Trials: validation accuracy",
    ):
        assert wanted in html
    assert "No more trials were begun: all trials of the budget were begun" in html
    assert "num_params is 102400, wanted &lt;= 90000" in html
    assert html.count("<svg") == 6


def test_the_page_shows_accuracy_against_the_costs_that_the_study_had() -> None:
    study = samples.searched(12)
    assert figures.costs(study) == ("latency_p50_ms", "size_bytes")
    small = replace(study, objectives=(Objective(metric="accuracy", mode="max"), Objective(metric="num_params", mode="min")))
    assert figures.costs(small) == ("num_params",)
    assert "accuracy and parameters" in figures.front(small, "num_params")


def test_the_page_of_an_unfinished_run_shows_what_there_is() -> None:
    html = page.render(replace(samples.record(), stages=()))
    assert "<svg" not in html
    assert "Stages" in html


def test_a_page_that_cannot_be_written_is_a_readable_error(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no/r\.html cannot be written: No such file or directory"):
        page.write(store, samples.record(), tmp_path / "no" / "r.html")


def test_the_schema_says_the_range_that_an_error_sends_to_it_for() -> None:
    text = _text(lists.schema_table(pipeline_schema()), width=400)
    assert re.search(r"search\.budget\.trials +integer >= 1, <= 1_000_000 ", text)
    assert re.search(r"search\.budget\.cost +number > 0 \| null ", text)
    assert re.search(r"teacher\.train\.momentum +number >= 0, < 1 ", text)


def test_a_plan_shows_each_key_whole_however_narrow_the_screen_is() -> None:
    config = {"search": {"budget": {"trials": 16, "wall_time_s": None, "price_per_worker_hour": 0.0, "min_gain_per_worker_hour": None}}}
    training = PlannedTraining(
        engine="torch",
        precision="fp32",
        batch_size=4,
        num_workers=1,
        min_workers=1,
        micro_batch_size=4,
        accumulation=1,
        zero_stage=None,
        steps_per_epoch=None,
        num_steps=None,
    )
    text = _text(lists.plan_table(Plan(pipeline="p", config=config, stages=(), training=training)), width=60)
    assert "min_gain_per_worker_hour: null" in " ".join(text.split())
