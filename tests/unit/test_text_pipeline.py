"""A pipeline of texts, stage by stage and without Ray: from a table of texts to a student that answers about other texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from foundry_ray import data, keys, models
from foundry_ray.clock import SystemClock
from foundry_ray.compression import apply_recipe, cost, recipe_from_params
from foundry_ray.config import PipelineConfig, Settings
from foundry_ray.context import Context
from foundry_ray.errors import ConfigError
from foundry_ray.inference import predict_files
from foundry_ray.pipeline import Pipeline
from foundry_ray.planning import check_data, check_run, plan, profiled
from foundry_ray.protocols import ArtifactStore, Given
from foundry_ray.runlog import StageResult, commit_result
from foundry_ray.search.environment import shared_context
from foundry_ray.search.events import Job
from foundry_ray.search.targets import TargetSpec, teacher_logits, trial_seed
from foundry_ray.student import make_student
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.testing.trials import tiny_runner
from foundry_ray.types import SearchSpace, TokenSchema, Trial, to_json

PARAMS = {
    "lr": 0.01,
    "width": 8,
    "depth": 1,
    "trim_vocabulary.min_count": 2,
    "factorize.embedding_ratio": 0.5,
    "weight_bits": 8,
    "distil_alpha": 0.5,
}
SUBJECTS = {"ham": ("minutes", "meeting", "report", "review"), "spam": ("winner", "prize", "offer", "cash")}


class _Here(Context):
    """Without a cluster, and with a store in memory."""

    def __init__(self, store: ArtifactStore, settings: Settings) -> None:
        super().__init__(settings=settings, clock=SystemClock(), reporter=RecordingReporter(), cluster="local")
        self.__dict__["store"] = store


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for the second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def source(tmp_path: Path) -> str:
    rows = [
        {"label": label, "text": f"the {SUBJECTS[label][number % 4]} of {SUBJECTS[label][number // 4 % 4]} number {number} please"}
        for number in range(60)
        for label in SUBJECTS
    ]
    path = tmp_path / "mails.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def config_of(source: str, **more: object) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "name": "mails",
            "data": {"source": source, "split": {"train": 80, "val": 20, "test": 20}, "text": {"length": 8, "vocab_size": 150}},
            "task": "text_classification",
            "teacher": {
                "model": {"family": "transformer", "width": 16, "depth": 2, "params": {"heads": 2}},
                "train": {"epochs": 4, "batch_size": 16, "lr": 1e-2, "precision": "fp32"},
                "workers": 1,
                "use_gpu": False,
            },
            "search": {"space": "text", "scheduler": {"rungs": [1, 3]}, "latency": {"budget_s": 0.05}},
            "student": {"epochs": 3, "batch_size": 16, "precision": "fp32", "calibration_rows": 32, "target_views": 2},
            "gates": {"accuracy_drop_points": 100},
            **more,
        }
    )


def test_texts_go_from_a_table_to_a_judged_student_that_answers(source: str, settings: Settings, store: MemoryStore, tmp_path: Path) -> None:
    config, reporter = config_of(source), RecordingReporter()
    pipeline = Pipeline(config=config, context=_Here(store, settings))
    dataset = pipeline.prepare_data()
    teacher = pipeline.train_teacher(dataset, "t" * 64)
    assert teacher.val_metrics["accuracy"] > 0.9

    context = pipeline.study_context(dataset, teacher)
    spec = TargetSpec(dataset=dataset, teacher=teacher, augment=(), views=2, seed=trial_seed(config.seed))
    shared = shared_context(context, SearchSpace(params=()), teacher_logits(spec, store=store, reporter=reporter), prefix="trials")
    *_, last = tiny_runner(shared, store)(Job(number=0, params=PARAMS, seed=1, rung=0, from_epoch=0, to_epoch=1))
    assert (last.kind, last.epoch) == ("rung", 1), last.error

    trial = Trial(trial_id="0", number=0, params=PARAMS, recipe=recipe_from_params(PARAMS)[1], seed=1, checkpoint=last.checkpoint, rung=0)
    student = make_student(context, trial, stage_key="s" * 64, clock=SystemClock(), reporter=reporter)
    report = pipeline.evaluate(dataset, teacher, student)
    assert student.num_params < teacher.num_params
    assert student.size_bytes < teacher.size_bytes
    assert any("fresh process" in note for note in student.notes)
    assert report.student.metrics["accuracy"].value > 0.9

    (tmp_path / "new.txt").write_text("the prize of cash number 99 please\nthe review of minutes number 98 please\n")
    answers = [answer["class"] for answer in predict_files(store, student, tmp_path / "new.txt")]
    assert answers == ["spam", "ham"]
    rebuilt = models.load_model(store, student)
    assert rebuilt(torch.from_numpy(data.load_split(dataset, "val", store=store).inputs_N)).shape == (20, 2)


def test_a_pipeline_of_texts_plans_and_serving_it_is_refused_before_anything_starts(source: str, settings: Settings) -> None:
    config = config_of(source)
    schema = check_data(config, settings)
    assert schema == TokenSchema(length=8, vocab_size=150, has_labels=True, classes=("ham", "spam"), padding=0)
    check_run(config, schema, settings)
    with pytest.raises(ConfigError, match=r"serving got sequences of 8 token ids .*wanted images.*`serve.enabled: false`"):
        check_run(config_of(source, serve={"enabled": True}), schema, settings)


def test_a_profile_counts_the_tokens_of_a_data_set_that_is_prepared(source: str, settings: Settings, store: MemoryStore) -> None:
    space = {"space": "text", "scheduler": {"rungs": [1]}, "latency": {"budget_s": 0.01}, "budget": {"trials": 2}}
    model = {"family": "transformer", "width": 32, "depth": 2, "params": {"heads": 2}}
    teacher = {"model": model, "train": {"batch_size": 16}, "workers": 1, "use_gpu": False}
    config = config_of(source, search=space, teacher=teacher)
    before = profiled(plan(config, store=None, settings=settings), config, store=None, settings=settings).profile
    dataset = Pipeline(config=config, context=_Here(store, settings)).prepare_data()
    result = StageResult(outputs=to_json(dataset), run_id="r", created_at="", duration_s=0.0, versions={})
    commit_result(store, "data", keys.data(config, settings), result)
    after = profiled(plan(config, store=store, settings=settings), config, store=store, settings=settings).profile
    assert before is not None
    assert after is not None
    split = data.load_split(dataset, "train", store=store)
    given = Given(schema=dataset.schema, task=dataset.task, inputs_N=split.inputs_N, labels_N=split.labels_N, seed=config.seed)
    built = models.build(config.teacher.model, dataset.schema, None, seed=config.seed)
    student = apply_recipe(built, recipe_from_params(after.smallest.params)[1], given, family="transformer")
    assert after.smallest.num_params == cost(student, dataset.schema).num_params
    assert not any("made-up texts" in warning for warning in after.warnings)
    assert any("made-up texts: `foundry run --until data`" in warning for warning in before.warnings)


def test_images_have_no_use_for_a_task_of_texts(source: str, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="task image_classification got sequences of 8 token ids"):
        check_data(config_of(source, task="image_classification"), settings)
