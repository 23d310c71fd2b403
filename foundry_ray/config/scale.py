"""`scale`: one dial for epochs, trials and rows, resolved into the numbers that it stands for. Stage keys see the numbers only."""

from __future__ import annotations

from foundry_ray.config.sections import BudgetConfig, PipelineConfig, SchedulerConfig, SplitConfig

_SMOKE_ROWS = {"train": 512, "val": 128, "test": 128}


def apply_scale(config: PipelineConfig) -> PipelineConfig:
    """Resolve `scale` into the numbers it stands for. Stage keys see the numbers only."""
    if config.scale == "smoke":
        return _smoke(config)
    if config.scale == "full":
        budget = config.search.budget.model_copy(update={"trials": 3 * config.search.budget.trials})
        return _resized(config, teacher_epochs=2 * config.teacher.train.epochs, student_epochs=2 * config.student.epochs, budget=budget)
    return config


def _smoke(config: PipelineConfig) -> PipelineConfig:
    split = config.data.split
    counts = {name: min(getattr(split, name), limit) for name, limit in _SMOKE_ROWS.items()}
    max_rows = min(split.max_rows or sum(_SMOKE_ROWS.values()), sum(_SMOKE_ROWS.values()))
    data = config.data.model_copy(update={"split": SplitConfig(**counts, max_rows=max_rows)})
    budget = config.search.budget.model_copy(update={"trials": min(4, config.search.budget.trials)})
    search = config.search.model_copy(update={"scheduler": _smoke_scheduler(config.search.scheduler, trials=budget.trials)})
    train = config.teacher.train.model_copy(update={"batch_size": min(32, config.teacher.train.batch_size)})
    teacher = config.teacher.model_copy(update={"train": train})
    student = config.student.model_copy(update={"batch_size": min(32, config.student.batch_size)})
    smaller = config.model_copy(update={"data": data, "search": search, "teacher": teacher, "student": student})
    return _resized(smaller, teacher_epochs=min(2, config.teacher.train.epochs), student_epochs=min(2, config.student.epochs), budget=budget)


def _smoke_scheduler(config: SchedulerConfig, *, trials: int) -> SchedulerConfig:
    """One rung, or two where trials are compared at the first, and a population that the trials suffice for."""
    rungs = tuple(rung for rung in config.rungs if rung <= 2) or (1,)
    if config.kind in ("hyperband", "median", "pbt") and len(config.rungs) > 1:
        rungs = (1, 2)
    return config.model_copy(update={"rungs": rungs, "population": min(config.population, trials)})


def _resized(config: PipelineConfig, *, teacher_epochs: int, student_epochs: int, budget: BudgetConfig) -> PipelineConfig:
    train = config.teacher.train.model_copy(update={"epochs": teacher_epochs})
    return config.model_copy(
        update={
            "teacher": config.teacher.model_copy(update={"train": train}),
            "student": config.student.model_copy(update={"epochs": student_epochs}),
            "search": config.search.model_copy(update={"budget": budget}),
        }
    )
