"""In which passes a student's batch goes through the memory of a slot."""

from __future__ import annotations

from foundry_ray import models
from foundry_ray.compression import refuse_many_workers, source_of
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.search import memory
from foundry_ray.search.trial.place import Place
from foundry_ray.search.trial.students import Student
from foundry_ray.search.trial.training import NO_ROOM
from foundry_ray.training.shape import Shape

_MB = 1e6


def shape_within(place: Place, student: Student, *, num_workers: int) -> Shape:
    """The largest passes that fit; all of a worker's share at once where nobody knows what they take, or what room there is.

    Raises:
        RecipeInfeasible: Not one row fits, or the workers cannot share the batch, or what a step does while the student trains.
    """
    refuse_many_workers(student.recipe, place.context.given(student.seed), num_workers=num_workers)
    batch_size = student.train.batch_size
    if batch_size % num_workers:
        message = f"a batch of {batch_size} rows, wanted a multiple of the {num_workers} workers of `search.trial.workers`."
        hint = f"set `student.batch_size`, or the space's, to multiples of {num_workers}."
        raise RecipeInfeasible(message, hint=hint, reason="batch and workers")
    whole = Shape(num_workers=num_workers, micro_batch_size=batch_size // num_workers, accumulation=1, zero_stage=0)
    if place.room_bytes is None:
        return whole
    taken = _taken(place, student)
    if taken is None:
        return whole
    shape = memory.fitting(taken, whole, place.room_bytes)
    if shape is None:
        wanted_mb, room_mb = memory.PROCESS_RATIO * taken.bytes_of(1) / _MB, place.room_bytes / _MB
        message = f"training takes about {wanted_mb:.1f} MB with 1 row in a pass, wanted at most the {room_mb:.1f} MB of its slot."
        raise RecipeInfeasible(message, hint=NO_ROOM, reason="too large")
    return shape


def _taken(place: Place, student: Student) -> memory.Footprint | None:
    """By the student, and by its teacher where that answers in the step; None where nobody knows."""
    shape, step = place.context.schema.shape, student.recipe.step("distil")
    taken = memory.footprint(student.model, student.train, shape, device=place.device)
    if taken is None or source_of(step) != "online":
        return taken
    teacher = models.rebuild(place.context.teacher_description)
    keeps = step is not None and step.params.get("kind") in ("features", "attention")
    return memory.beside(taken, teacher, student.train, shape, device=place.device, keeps=keeps)
