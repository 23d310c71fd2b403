"""Compressing a model from Python alone, with arrays: no pipeline, no Ray, no service.

    from foundry_ray.compression import compress
    artifact = compress(model, {"prune_ratio": 0.5, "distil_alpha": 0.7, "weight_bits": 8}, (images, labels), store="smaller")

Rows are held back from training, and every step is judged on them: the artifact says what each one saved and cost. Leaves to others: what a step does
(one file each), training (`training.loop`, unless `fit` is the caller's own), export and proof (`compress.publish_student`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from foundry_ray.compression.apply import aids, apply_recipe
from foundry_ray.compression.budget import Budgets
from foundry_ray.compression.compress import TrainedStudent, publish_student
from foundry_ray.compression.distil import Source, distillation, source_of
from foundry_ray.compression.distil_views import teacher_targets
from foundry_ray.compression.recipes import RESIZING, check_recipe, quantized_bits, recipe_from_params
from foundry_ray.compression.runtime import is_changed
from foundry_ray.compression.stages import Judge
from foundry_ray.compression.toolbox_data import Rows, rows_of
from foundry_ray.errors import ConfigError
from foundry_ray.protocols import ArtifactStore, Clock, Given, Reporter
from foundry_ray.types import CompressionRecipe, ModelArtifact, Scalar

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from foundry_ray.config import ExportConfig, TrainConfig
    from foundry_ray.data import Split
    from foundry_ray.training.job import Distil as Distillation
    from foundry_ray.training.loop import FitJob

_TEACHER_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """What a `fit` gets.

    Attributes:
        model: The student before its first step, to be trained in place or copied.
        job: On what, how, and with which teacher and aids; `training.loop.Loop` takes it as it is. A `fit` of another kind reads what it needs.
        device: Where.
        reporter: Told how it goes.
    """

    model: nn.Module
    job: FitJob
    device: str
    reporter: Reporter
    clock: Clock


Fit: TypeAlias = "Callable[[Fitting], nn.Module | TrainedStudent]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a model is compressed, beside what is asked for.

    Attributes:
        augment: Random changes of images, by name.
        views: How many of each row the teacher answers for beforehand.
        held_back_ratio: Share of the rows that judge, and are not trained on.
        calibration_rows: Training rows that set int8 ranges.
        seed: Of everything that is drawn.
        device: `cpu` or `cuda:<index>`; the first GPU where absent and there is one.
        export: What is published besides the served file, and what the model card says of licence, use and limits.
        latency_s: Time of the measurement that the model card states; 0 takes none.
        tokenizer: What made token ids of texts, as the JSON of the library `tokenizers` (`tokenizer.to_str()`). It travels with the model, which
            then answers to texts.
    """

    augment: tuple[str, ...] = ()
    views: int = 4
    held_back_ratio: float = 0.1
    calibration_rows: int = 256
    seed: int = 0
    device: str = ""
    export: ExportConfig | None = None
    latency_s: float = 1.0
    tokenizer: str = ""


def compress(
    model: nn.Module,
    recipe: CompressionRecipe | Mapping[str, Scalar],
    data: tuple[np.ndarray, np.ndarray] | Split | Given,
    teacher: nn.Module | Sequence[nn.Module] | None = None,
    fit: Fit | None = None,
    *,
    train: TrainConfig | None = None,
    options: Options | None = None,
    store: ArtifactStore | str | Path = "compressed",
    reporter: Reporter | None = None,
    clock: Clock | None = None,
) -> ModelArtifact:
    """Carry a recipe out on a model, train what comes of it, export it, prove the file, and publish it.

    Args:
        model: Takes raw pixels as floats or token ids, and gives one logit per class. It is left as it was; a copy of other floats than fp32 is
            made fp32.
        recipe: Steps; or plain names as in a search space (`prune_ratio`, `weight_bits`, `sparsify.pattern`, ...), among which may be those of
            training (`lr`, `epochs`, ...).
        data: Training rows: (x, y), where x is uint8 (N, C, H, W) or token ids (N, T) and y one class per row, below 0 where none is known.
        teacher: Who teaches, where the recipe distils; several are averaged. The model itself where absent.
        fit: Trains the student; `fit_here` where absent.
        train: How.
        options: The rest.
        store: Where the artifact goes: a store, its URI, or a local folder.
        reporter: Told how it goes; the terminal where absent.
        clock: The system's where absent.

    Returns:
        The published student: `notes` and the file `steps.json` tell of each step its parameters, MACs, bytes and accuracy on the rows held back.

    Raises:
        RecipeInfeasible: The recipe contradicts itself, the model or the data, with the reason.
        ConfigError: The data or the training are not as wanted.
        ParityFailed: The file does not answer as the model does.
    """
    from foundry_ray.clock import SystemClock
    from foundry_ray.evaluation import RuntimeLatencyMeter
    from foundry_ray.observability import ConsoleReporter

    options, clock, reporter = options or Options(), clock or SystemClock(), reporter or ConsoleReporter(clock=SystemClock())
    train, recipe = _asked(recipe, train)
    model = _trainable(model)
    rows = rows_of(data, model, held_back_ratio=options.held_back_ratio, seed=options.seed, tokenizer=options.tokenizer)
    place = _opened(store)
    teachers = [_in_fp32(one) for one in (teacher if isinstance(teacher, Sequence) else [model if teacher is None else teacher])]
    work = _Work(model=model, teachers=teachers, recipe=recipe, rows=rows, train=train, options=options, reporter=reporter, clock=clock)
    return publish_student(
        recipe,
        train=lambda: work.done(fit or fit_here),
        dataset=rows.published(place),
        calibration_NCHW=rows.calibration(options.calibration_rows),
        parents=(),
        store=place,
        clock=clock,
        reporter=reporter,
        export=options.export,
        meter=RuntimeLatencyMeter(store=place, threads=1, budget_s=options.latency_s, clock=clock) if options.latency_s else None,
    )


def fit_here(work: Fitting) -> TrainedStudent:
    """Train in this process, in plain torch, to the last epoch or until early stopping has had enough. Raises Diverged."""
    from foundry_ray.training.engine import TorchEngine
    from foundry_ray.training.loop import Loop

    engine = TorchEngine(work.model, work.job.train, device=work.device)
    loop = Loop(work.job, engine, reporter=work.reporter, clock=work.clock)
    while not loop.is_done:
        work.reporter.report(loop.epoch + 1, loop.run_epoch())
    return TrainedStudent(model=loop.eval_model().cpu(), curve=tuple(loop.curve))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One compression."""

    model: nn.Module
    teachers: Sequence[nn.Module]
    recipe: CompressionRecipe
    rows: Rows
    train: TrainConfig
    options: Options
    reporter: Reporter
    clock: Clock

    @property
    def given(self) -> Given:
        """What steps may look at: the rows that are trained on."""
        return self.rows.given(seed=self.options.seed)

    @property
    def device(self) -> str:
        """Where training happens."""
        import torch

        return self.options.device or ("cuda:0" if torch.cuda.is_available() else "cpu")

    def done(self, fit: Fit) -> TrainedStudent:
        """The trained student, with what each step came to."""
        calibration_N = self.rows.calibration(self.options.calibration_rows)
        judge = Judge(self.given, self.rows.held_back, calibration_N=calibration_N)
        judge.see("as given", self.model)
        student = self._applied(judge)
        recipe, notes = Budgets(self.model, self.given, calibration_N).settled(self.recipe, student)
        job = self._job(student, recipe)
        trained = fit(Fitting(model=student, job=job, device=self.device, reporter=self.reporter, clock=self.clock))
        trained = trained if isinstance(trained, TrainedStudent) else TrainedStudent(model=trained)
        judge.see("trained", trained.model)
        if quantized_bits(recipe) != 32:
            judge.see_shipped("quantize", trained.model, recipe)
        return TrainedStudent(
            model=trained.model.eval(), curve=trained.curve, val_metrics=judge.metrics, stages=judge.stages, recipe=recipe, notes=notes
        )

    def _applied(self, judge: Judge) -> nn.Module:
        """The student before its first step; each step that changes something is judged by itself."""
        from foundry_ray.models.layers import set_dropout

        family = str(getattr(self.model, "family", type(self.model).__name__))
        plain = copy.deepcopy(self.model).cpu()
        student = apply_recipe(plain, CompressionRecipe(), self.given, family=family)
        for number, step in enumerate(self.recipe.steps, 1):
            before = student
            student = apply_recipe(plain, CompressionRecipe(steps=self.recipe.steps[:number]), self.given, family=family)
            if not _is_equal(before, student):
                judge.see(step.kind, student)
            elif step.kind in RESIZING:
                self.reporter.warn(f"{step.kind} takes nothing out of this model: what it asks for rounds to nothing.")
        set_dropout(student, self.train.dropout)
        return student.train()

    def _job(self, student: nn.Module, recipe: CompressionRecipe) -> FitJob:
        from foundry_ray import tasks
        from foundry_ray.compression.simulate import simulate
        from foundry_ray.training.loop import FitJob, TensorSplit
        from foundry_ray.training.mixing import check_mixing

        source, rows, options = source_of(recipe.step("distil")), self.rows, self.options
        has_images = rows.schema.kind == "images"
        check_mixing(self.train, has_images=has_images, is_continuous=has_images, distils=source == "cached")
        calibration_N = rows.calibration(options.calibration_rows)
        return FitJob(
            train=self.train,
            task=tasks.get(rows.task),
            split_train=TensorSplit.of(rows.train),
            split_val=TensorSplit.of(rows.held_back),
            augment=options.augment,
            seed=options.seed,
            distil=self._distillation(source),
            eval_transform=(lambda model: simulate(model, calibration_N, recipe, given=self.given)) if is_changed(recipe) else None,
            aids=aids(recipe, self.given),
        )

    def _distillation(self, source: Source | None) -> Distillation | None:
        """The teachers' part in the loss: what they answer beforehand, or copies of them that answer in the step."""
        import torch

        step, options = self.recipe.step("distil"), self.options
        copies = [copy.deepcopy(one).to(self.device) for one in self.teachers] if source in ("cached", "online") else []
        if source != "cached":
            return distillation(step, teachers=copies)
        teacher = copies[0] if len(copies) == 1 else copies
        logits_VNC = teacher_targets(
            teacher,
            self.rows.train.inputs_N,
            augment=options.augment,
            views=options.views,
            seed=options.seed,
            batch_size=_TEACHER_ROWS,
            reporter=self.reporter,
        )
        return distillation(step, logits_VNC=torch.from_numpy(logits_VNC))


def _asked(recipe: CompressionRecipe | Mapping[str, Scalar], train: TrainConfig | None) -> tuple[TrainConfig, CompressionRecipe]:
    """How it is trained, and the checked recipe. Raises RecipeInfeasible, or ConfigError for what is neither the one's nor the other's."""
    from foundry_ray.config import TrainConfig, validate

    train = train or TrainConfig()
    if isinstance(recipe, CompressionRecipe):
        return train, check_recipe(recipe)
    hyperparams, checked = recipe_from_params(recipe)
    return validate(TrainConfig, {**train.model_dump(), **hyperparams}, where="compress"), checked


def _opened(store: ArtifactStore | str | Path) -> ArtifactStore:
    from foundry_ray.artifacts import open_store
    from foundry_ray.artifacts.local import LocalStore

    if isinstance(store, str) and "://" in store:
        return open_store(store)
    return LocalStore(Path(store).absolute()) if isinstance(store, str | Path) else store


def _trainable(model: nn.Module) -> nn.Module:
    """The model in fp32. Raises ConfigError where nothing of it would be trained, or it cannot be copied."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        message = f"compress got a {type(model).__name__} without a weight that is trained, wanted one or more."
        raise ConfigError(message, hint="`model.requires_grad_(True)` lets frozen weights be trained.")
    try:
        copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:  # of what a hook has computed, or of a part that holds a lock or a file
        message = f"compress got a {type(model).__name__} that cannot be copied: {' '.join(str(error).split())}"
        raise ConfigError(message, hint="the old `weight_norm` has a successor in `torch.nn.utils.parametrizations`.") from error
    return _in_fp32(model)


def _in_fp32(model: nn.Module) -> nn.Module:
    """The model itself, or a copy where some of its floats are others."""
    import torch

    tensors = (tensor for tensor in model.state_dict().values() if tensor.is_floating_point())
    return model if all(tensor.dtype == torch.float32 for tensor in tensors) else copy.deepcopy(model).float()


def _is_equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same tensors."""
    import torch

    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
