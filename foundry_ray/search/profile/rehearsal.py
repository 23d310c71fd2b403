"""A study's surroundings made of random numbers, and how long an epoch takes in them: a real trial, for a few steps.

Shapes: N rows, V views, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from foundry_ray import models
from foundry_ray.config import PipelineConfig
from foundry_ray.data import Split
from foundry_ray.search.events import Event, Job
from foundry_ray.search.isolation import isolated
from foundry_ray.search.profile.sampled import Sampled
from foundry_ray.search.profile.tools import Circumstances, Tools
from foundry_ray.search.trial import TrialContext, TrialRunner
from foundry_ray.types import ImageSchema, Preprocessing, Schema

_CALIBRATION_ROWS = 16
_MACS = 2e10
"""Of the training, and of the judging, in one epoch of the rehearsal: a second or two of one core."""
_MACS_PER_TRAINED = 3  # forward, and twice as much backward
_MOST_STEPS = 8
_MOST_VAL_ROWS = 1000
_MOST_COUNTED_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds that one row takes one worker, in training and in judging."""

    trained_row_s: float
    judged_row_s: float

    def epoch_s(self, rows: tuple[int, int]) -> float:
        """Of an epoch over so many rows of train and val."""
        return rows[0] * self.trained_row_s + rows[1] * self.judged_row_s


@contextmanager
def as_in_a_trial(seed: int) -> Iterator[None]:
    """One thread, as a trial's process has it, which is also faster for models this small; the process is left as it was."""
    with isolated(seed):
        torch.set_num_threads(1)
        yield


def made_up(config: PipelineConfig, schema: Schema, around: Circumstances) -> TrialContext:
    """What the trials of this pipeline would share, with a teacher that was never trained, and a few rows of noise; of texts as many as there are."""
    middle = Preprocessing(mean=(127.5,) * schema.channels, std=(64.0,) * schema.channels) if isinstance(schema, ImageSchema) else None
    teacher = models.build(config.teacher.model, schema, middle, seed=config.seed)
    return TrialContext(
        train=around.train or _noise(schema, _num_rows(schema, around)),
        val=_noise(schema, 1),
        logits_VNC=None,
        teacher_description=models.describe(teacher),
        teacher_tensors=models.tensors_to_bytes(teacher.state_dict()),
        family=config.teacher.model.family,
        schema=schema,
        task=config.task,
        augment=config.data.augment,
        student=config.student,
        constraints=(),
        batch_size=config.search.latency.batch_size,
        seed=config.seed,
        prefix="rehearsal",
    )


def _num_rows(schema: Schema, around: Circumstances) -> int:
    """Rows that ranges are calibrated on, or that tokens are counted in."""
    counted = min(around.rows[0], _MOST_COUNTED_ROWS) if around.rows is not None else 0
    return _CALIBRATION_ROWS if isinstance(schema, ImageSchema) else max(_CALIBRATION_ROWS, counted)


def rehearse(context: TrialContext, student: Sampled, *, num_val_rows: int, tools: Tools, device: str) -> Pace | None:
    """Train two short epochs of a student and time the second, which starts warm; where a step is long, one of a single step.

    Args:
        context: As `made_up` gives it.
        student: Which one.
        num_val_rows: Of the data set.
        tools: The clock times the epochs; nothing is measured, and nothing is stored.
        device: `cpu` or `cuda:<index>`.

    Returns:
        None where the student diverges on noise.
    """
    batch_size = int(student.params.get("batch_size", context.student.batch_size))
    num_steps = _most(student.num_macs * _MACS_PER_TRAINED * batch_size, _MOST_STEPS)
    num_epochs, num_judged = 2 if num_steps > 1 else 1, min(num_val_rows, _most(student.num_macs, _MOST_VAL_ROWS))
    train = _some(context, num_steps * batch_size)
    distils = any(name.startswith("distil") for name in student.params)
    whole = replace(context, train=train, val=_noise(context.schema, num_judged), logits_VNC=_no_answers(train, context) if distils else None)
    known = {"num_params": float(student.num_params)}  # what is known of a student is not measured again
    job = Job(number=0, params=student.params, seed=context.seed, rung=0, from_epoch=0, to_epoch=num_epochs, known=known)
    runner = TrialRunner(whole, store=tools.scratch, meter=tools.meter(0.0), clock=tools.clock, reporter=tools.reporter, device=device)
    last = _epoch(runner(job), num_epochs)
    if last is None:
        return None
    samples_per_s = last.values["samples_per_s"]
    judged_s = last.values["epoch_s"] - len(train.labels_N) / samples_per_s
    return Pace(trained_row_s=1 / samples_per_s, judged_row_s=max(0.0, judged_s) / num_judged)


def _epoch(events: Iterator[Event], number: int) -> Event | None:
    """The event of this epoch; the checkpoint that would come after it is not asked for."""
    return next((event for event in events if event.kind == "epoch" and event.epoch == number), None)


def _most(macs: float, limit: int) -> int:
    """How many of something that takes so many MACs there is time for, at least one."""
    return max(1, min(limit, int(_MACS / max(macs, 1.0))))


def _some(context: TrialContext, num_rows: int) -> Split:
    """Rows to train on: noise, or of texts those that tokens were counted in, so that the student is the one that was built."""
    if isinstance(context.schema, ImageSchema):
        return _noise(context.schema, num_rows)
    rows = np.arange(num_rows) % len(context.train.labels_N)
    return Split(inputs_N=context.train.inputs_N[rows], labels_N=context.train.labels_N[rows])


def _noise(schema: Schema, num_rows: int) -> Split:
    generator = np.random.default_rng(num_rows)
    inputs_N: np.ndarray
    if isinstance(schema, ImageSchema):
        inputs_N = generator.integers(0, 256, (num_rows, *schema.shape), dtype=np.uint8)
    else:
        shares_V = 1 / np.arange(1, schema.vocab_size + 1)  # Zipf's law: some tokens are in every text, and some in none
        inputs_N = generator.choice(schema.vocab_size, size=(num_rows, *schema.shape), p=shares_V / shares_V.sum())
    return Split(inputs_N=inputs_N, labels_N=generator.integers(0, len(schema.classes), num_rows))


def _no_answers(train: Split, context: TrialContext) -> np.ndarray:
    """Logits (1, N, C) of a teacher that knows nothing, for a student that learns from one."""
    return np.zeros((1, len(train.labels_N), len(context.schema.classes)), dtype=np.float16)
