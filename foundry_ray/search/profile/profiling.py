"""Puts a profile together: which students stand for a space, and what they say of its constraints and of the effort.

Leaves to others: building students (sampled), measuring them (bench), timing an epoch (rehearsal), playing the scheduler through (effort).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.config import PipelineConfig
from foundry_ray.search import constraints, points
from foundry_ray.search.constraints import LATENCIES
from foundry_ray.search.profile.effort import expected_distinct, over_budget, play, study_effort
from foundry_ray.search.profile.tools import Circumstances, Tools
from foundry_ray.search.schedulers import make_scheduler
from foundry_ray.search.space import load_space
from foundry_ray.types import ProfiledModel, Reach, Schema, SearchSpace, SpaceProfile, StudyEffort

if TYPE_CHECKING:
    from foundry_ray.search.profile.bench import Bench
    from foundry_ray.search.profile.sampled import Sample, Sampled
    from foundry_ray.search.trial import TrialContext

_BUILD_S = 12.0
_JUDGE_S = 12.0
_NUM_PHASES = 4
_FEW = 0.05
_COUNTS = "trim_vocabulary."


def profile_space(config: PipelineConfig, schema: Schema, around: Circumstances, tools: Tools) -> SpaceProfile:
    """Sample, count, export, measure, and time a few training steps: under a minute, where the models are small.

    Raises:
        SearchSpaceError: No sampled student can be built.
        ConfigError: The space or the teacher is wrong.
    """
    from foundry_ray.search.profile.rehearsal import as_in_a_trial, made_up
    from foundry_ray.search.profile.sampled import sample

    space = load_space(config.search.space, config.search)
    with as_in_a_trial(config.seed):
        tools.reporter.progress(0, _NUM_PHASES, "building students")
        context = made_up(config, schema, around)
        found = sample(context, space, num_wanted=around.num_students, limit_s=_BUILD_S, clock=tools.clock)
        facts = _measured(config, context, space, found, tools)
        tools.reporter.progress(_NUM_PHASES - 1, _NUM_PHASES, "timing training steps")
        epoch_s = _epoch_s(context, found.median, around, tools)
        tools.reporter.progress(_NUM_PHASES, _NUM_PHASES, "done")
    return _summed_up(config, facts, around, epoch_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What was found out about a space.

    Attributes:
        judged: Students drawn at random of whom all is known that can be before training.
        feasible: Those of them that keep every constraint on it.
    """

    space: SearchSpace
    found: Sample
    bench: Bench
    teacher: ProfiledModel
    smallest: ProfiledModel
    median: ProfiledModel
    largest: ProfiledModel
    reaches: tuple[Reach, ...]
    judged: Sequence[Sampled]
    feasible: Sequence[Sampled]


def _measured(config: PipelineConfig, context: TrialContext, space: SearchSpace, found: Sample, tools: Tools) -> _Facts:
    from foundry_ray.search.profile.bench import Bench

    tools.reporter.progress(1, _NUM_PHASES, "measuring latency")
    bench = Bench(context, tools.meter, budget_s=config.search.latency.budget_s, clock=tools.clock)
    teacher, smallest, largest, median = bench.teacher(), *map(bench.model, (found.smallest, found.largest, found.median))
    tools.reporter.progress(2, _NUM_PHASES, "checking constraints")
    limits = [constraints.parse(text, where=config.search.space) for text in space.constraints]
    bench.judge(found.students, limits, limit_s=_JUDGE_S)
    early = {one.metric for one in limits} - {"accuracy"}
    judged = [student for student in found.students if early <= bench.values(student).keys()]
    known, ends = ([(one.params, bench.values(one)) for one in some] for some in (found.students, (found.smallest, found.largest)))
    return _Facts(
        space=space,
        found=found,
        bench=bench,
        teacher=teacher,
        smallest=smallest,
        median=median,
        largest=largest,
        reaches=tuple(constraints.reach(one, known, ends=ends) for one in limits),
        judged=judged,
        feasible=[student for student in judged if not constraints.excesses(limits, bench.values(student))],
    )


def _summed_up(config: PipelineConfig, facts: _Facts, around: Circumstances, epoch_s: float | None) -> SpaceProfile:
    students, effort = facts.found.students, _effort(config, facts, around, epoch_s)
    return SpaceProfile(
        num_sampled=len(students),
        num_impossible=facts.found.num_impossible,
        num_duplicates=len(students) - len({student.identity for student in students}),
        num_graphs=len({student.graph for student in students}),
        num_judged=len(facts.judged),
        num_feasible=len(facts.feasible),
        teacher=facts.teacher,
        smallest=facts.smallest,
        median=facts.median,
        largest=facts.largest,
        reaches=facts.reaches,
        effort=effort,
        device=facts.bench.device,
        train_device=around.device,
        warnings=(*_of_sample(facts, around), *_of_constraints(facts), *_of_latency(facts), *_of_effort(effort, config, around)),
    )


def _epoch_s(context: TrialContext, student: Sampled, around: Circumstances, tools: Tools) -> float | None:
    from foundry_ray.search.profile.rehearsal import rehearse

    if around.rows is None:
        return None
    pace = rehearse(context, student, num_val_rows=around.rows[1], tools=tools, device=around.device)
    return None if pace is None else pace.epoch_s(around.rows)


def _effort(config: PipelineConfig, facts: _Facts, around: Circumstances, epoch_s: float | None) -> StudyEffort:
    search, students = config.search, facts.found.students
    played = play(
        make_scheduler(search.scheduler, facts.space, seed=config.seed),
        itertools.cycle(student.params for student in students),
        num_trials=search.budget.trials,
        num_objectives=len(facts.space.objectives),
        seed=config.seed,
    )
    identities = Counter(student.identity for student in facts.feasible)
    num_drawn = max(1, round(len(facts.judged) * (1 + facts.found.num_impossible / len(students))))
    return study_effort(
        played,
        num_trained=expected_distinct(list(identities.values()), num_drawn=num_drawn, num_trials=played.num_trials),
        epoch_s=epoch_s,
        prepare_s=facts.bench.prepare_s,
        num_workers=around.num_workers,
        price=around.price,
    )


def _of_sample(facts: _Facts, around: Circumstances) -> Iterator[str]:
    found, space = facts.found, facts.space
    if around.train is None and any(param.name.startswith(_COUNTS) for param in space.params):
        yield "what trim_vocabulary keeps was counted in made-up texts: `foundry run --until data` prepares the real ones."
    if found.is_short:
        num_drawn = len(found.students) + found.num_impossible
        yield f"{num_drawn} students stand for the space, wanted {found.num_wanted}: building one takes long, or few points keep the relations."
    if space.relations:
        ratio = sum(1 for _ in points.drawn(space, seed=0)) / points.NUM_DRAWS
        if ratio < _FEW:
            yield f"{ratio:.2%} of the points of the space keep its relations: narrow the ranges, so that fewer proposals are in vain."


def _of_constraints(facts: _Facts) -> Iterator[str]:
    missed = [one for one in facts.reaches if one.share == "none"]
    seldom = [one.constraint for one in facts.reaches if one.share == "some" and not one.num_kept]
    for one in missed:
        params = ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in one.params.items())
        yield f"no student that was found keeps {one.constraint}: the nearest has {one.nearest:g}, with {params}."
    for text in seldom:
        yield f"hardly any student keeps {text}: narrow the ranges, so that fewer trials are in vain."
    if not missed and not seldom and facts.judged and not facts.feasible:
        yield "each constraint is kept by some of the sampled students, and none of them keeps all."


def _of_latency(facts: _Facts) -> Iterator[str]:
    from foundry_ray.search.trial.screening import dominance

    taken = facts.bench.taken
    num_noisy = sum(result.is_noisy for result in taken)
    if num_noisy:
        yield f"{num_noisy} of {len(taken)} latencies are noisy: this machine is busy with something else."
    shown = (facts.smallest, facts.median, facts.largest)
    is_wanted = any(objective.metric in LATENCIES for objective in facts.space.objectives)
    if is_wanted and all(dominance(one.values, facts.teacher.values) for one in shown):
        yield "the smallest, the median and the largest student are smaller than the teacher, and not faster: such trials are not trained."


def _of_effort(effort: StudyEffort, config: PipelineConfig, around: Circumstances) -> Iterator[str]:
    if around.rows is None:
        yield "hours are not known: data.split names shares of a data set that is not prepared yet; `foundry run --until data` prepares it."
    elif effort.epoch_s is None:
        yield "hours are not known: the median student diverges on random data."
    yield from over_budget(effort, config.search.budget)
