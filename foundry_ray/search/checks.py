"""What is wrong with a search before anything starts: its space, its policy, and students that its teacher cannot have."""

from __future__ import annotations

import math
from collections.abc import Iterator

from foundry_ray.compression import recipe_from_params, refuse_many_workers, runtime_of, source_of
from foundry_ray.config import ModelConfig, PipelineConfig, SearchConfig, TrainConfig, validate
from foundry_ray.errors import ConfigError, OutOfRange, RecipeInfeasible, SearchSpaceError
from foundry_ray.inference import check_runtime
from foundry_ray.models.sizes import UNSIZED
from foundry_ray.plugins import IMPORT
from foundry_ray.protocols import Given
from foundry_ray.search import points
from foundry_ray.search.policy import parse_policy
from foundry_ray.search.samplers import check_sampler
from foundry_ray.search.schedulers import check_scheduler
from foundry_ray.search.space import load_space
from foundry_ray.types import Scalar, Schema, SearchSpace


def check_search(config: PipelineConfig) -> SearchSpace:
    """The space, where everything that the search section says can be done.

    Raises:
        UnknownKey: A key, a metric or a parameter that does not exist.
        SearchSpaceError: The space cannot be sampled.
        ConfigError: The policy cannot be read, or the sampler or the scheduler does not suit the space.
    """
    space = load_space(config.search.space, config.search)
    parse_policy(config.search.choose)
    check_sampler(config.search.sampler, space, config.search.scheduler.kind)
    check_scheduler(config.search.scheduler, space, trials=config.search.budget.trials)
    return space


def check_students(space: SearchSpace, config: PipelineConfig) -> None:
    """See that every student of a space can be made of the teacher and trained on its data, as far as the configuration tells.

    Raises:
        SearchSpaceError: A student is larger than the teacher, whose weights it inherits, or needs a batch of more rows than there are.
        OutOfRange: `student.batch_size` does.
    """
    where, probed = config.search.space, list(points.probes(space))
    if not config.teacher.model.family.startswith(IMPORT) and config.teacher.model.family not in UNSIZED:
        _check_sizes(probed, config.teacher.model, where=where)
    num_rows = int(config.data.split.train) if config.data.split.train >= 1 else None
    if num_rows is not None:
        _check_batches(probed, config.student.batch_size, num_rows, where=where)


def check_imported(space: SearchSpace, model: ModelConfig, *, where: str) -> None:
    """See that a space asks of a user's own model only what its factory can make again.

    Raises:
        SearchSpaceError: A recipe shrinks it, or replaces its layers.
    """
    if not model.family.startswith(IMPORT):
        return
    replaces = (("trim_vocabulary", "`trim_vocabulary.min_count`"), ("factorize", "`factorize.embedding_ratio` and `.linear_ratio`"))
    for kind, names in (("shrink", "`width` and `depth`"), *replaces):
        if any(step.kind == kind for point in points.probes(space) for step in recipe_from_params(point)[1].steps):
            message = (
                f"{where}: recipes {kind} the teacher, but teacher.model.family is {model.family}, whose factory knows no other; wanted no {kind}."
            )
            raise SearchSpaceError(
                message, hint=f"take {names} out of the space; `prune_ratio`, `weight_bits` and `distil_alpha` need no family.", param=kind
            )


def check_trials(space: SearchSpace, config: PipelineConfig, schema: Schema) -> None:
    """See that what a space asks of a training goes with the data, with the section `student`, and with the workers of a trial.

    Raises:
        OutOfRange: Token ids are to be mixed.
        RecipeInfeasible: The student's average teaches and there is none, or several workers would do what one process does.
    """
    from foundry_ray.training.mixing import check_mixing

    has_images, given = schema.kind == "images", Given(schema=schema, task=config.task)
    for point in points.probes(space):
        hyperparams, recipe = recipe_from_params(point)
        check_mixing(validate(TrainConfig, dict(hyperparams), where=config.search.space), has_images=has_images, is_continuous=has_images)
        refuse_many_workers(recipe, given, num_workers=config.search.trial.workers)
        if source_of(recipe.step("distil")) == "average" and not hyperparams.get("ema_decay", config.student.ema_decay):
            message = f"{config.search.space}: recipe step distil lets the student's average teach, and ema_decay is 0, wanted more."
            raise RecipeInfeasible(message, hint="set `student.ema_decay`, or take `distil.kind: self` out.", recipe="distil", reason="no average")


def check_runtimes(space: SearchSpace, *, where: str) -> None:
    """See that this machine, which measures, can run some student of a space. Raises ConfigError with the command that mends it."""
    refused: dict[str, str] = {}
    for choice in dict.fromkeys(runtime_of(recipe_from_params(point)[1]) for point in points.probes(space)):
        try:
            return check_runtime(choice.name, choice.precision)
        except ConfigError as error:
            refused[error.message] = error.hint
    raise ConfigError(f"{where}: no student can be measured here: {' '.join(refused)}", hint=" ".join(refused.values()))


def check_place(search: SearchConfig, *, num_cpus: int | None, num_gpus: int | None) -> None:
    """See that a trial fits foundry's own head, which has CPUs and GPUs and no other resources.

    Args:
        search: Of the pipeline.
        num_cpus: That it would have; None where that is not known before it is asked.
        num_gpus: As `num_cpus`.

    Raises:
        ConfigError: Latency is to be measured on a device that it never has.
        ResourcesUnavailable: Not one trial fits.
    """
    from foundry_ray.search.pool.slots import plan_slots

    if search.latency.device:
        message = f"search.latency.device is {search.latency.device!r}, but the local head has no such resource."
        raise ConfigError(message, hint="remove it, or name a cluster with such a node under `cluster`.")
    if num_cpus is not None:
        wanted_gpus = math.ceil(search.trial.gpus or 0) * search.trial.workers
        plan_slots({"CPU": float(num_cpus), "GPU": float(wanted_gpus if num_gpus is None else num_gpus)}, search.trial)


def _check_sizes(probed: list[dict[str, Scalar]], teacher: ModelConfig, *, where: str) -> None:
    for name, own in (("width", teacher.width), ("depth", teacher.depth)):
        largest = max(_shrunk_to(probed, name), default=0)
        if largest > own:
            message = (
                f"{where}: {name} goes up to {largest}, but the teacher's is {own}, wanted at most that: a student inherits the teacher's weights."
            )
            hint = f"lower `params.{name}` to {own} in the space, or set `teacher.model.{name}` to {largest}."
            raise SearchSpaceError(message, hint=hint, param=name)


def _shrunk_to(probed: list[dict[str, Scalar]], name: str) -> Iterator[int]:
    for point in probed:
        step = recipe_from_params(point)[1].step("shrink")
        if step is not None:
            yield int(step.params[name])


def _check_batches(probed: list[dict[str, Scalar]], batch_size: int, num_rows: int, *, where: str) -> None:
    searched = [int(point["batch_size"]) for point in probed if "batch_size" in point]
    if searched and max(searched) > num_rows:
        message = f"{where}: batch_size goes up to {max(searched)}, but the training split has {num_rows} rows, wanted at most that many."
        raise SearchSpaceError(message, hint=f"lower `params.batch_size` to {num_rows}, or raise `data.split.train`.", param="batch_size")
    if not searched and batch_size > num_rows:
        message = f"student.batch_size is {batch_size}, but the training split has {num_rows} rows, wanted at most that many."
        raise OutOfRange(message, hint=f"set `student.batch_size` to {num_rows} or less.", key="student.batch_size", value=batch_size)
