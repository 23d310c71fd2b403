"""The step `distil`: the student learns from a teacher as well as from the labels.

| kind | what is learnt from |
|---|---|
| logits | the teacher's softened probabilities (Hinton et al., arXiv 1503.02531) |
| features | those, and the teacher's layers, through a linear map that exists in training alone (FitNets, arXiv 1412.6550) |
| attention | those, and where the teacher's layers look (arXiv 1612.03928) |
| self | the student's own average (mean teacher, arXiv 1703.01780); or a teacher of its own size, from fresh weights (born again, arXiv 1805.04770) |
| none-of-labels | the teacher's probabilities alone: no label is looked at, also where there are some |

The answers are cached: each training row is seen in V fixed views, whose logits are computed once per study, so that a trial never runs the teacher.
Or the teacher is online: it answers in the step, to augmentation that no view covers, or to mixed rows; layers are compared only so. All of it is
loss: it acts together with pruning, masks and simulated int8. Rows without a label (below 0) learn from the teacher alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field, model_validator

from foundry_ray.compression import steps
from foundry_ray.compression.recipes import RESIZING
from foundry_ray.config import Section
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import Given
from foundry_ray.types import CompressionRecipe, Json, Scalar, Step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from foundry_ray.training.job import Distil as Distillation

Source = Literal["cached", "online", "average"]
_OF_LAYERS = ("features", "attention")
_BETA = 1.0


class DistilParams(Section):
    """How strongly, how softly, and in what the teacher is followed."""

    alpha: float = Field(
        ge=0, le=1, description="Share of the loss that comes from the teacher's answers; the rest comes from the labels. 1 for none-of-labels."
    )
    temperature: float = Field(4.0, gt=0, le=100, description="Divisor of both sides' logits; larger values teach more of the wrong classes' order.")
    kind: Literal["logits", "features", "attention", "self", "none-of-labels"] = Field("logits", description="What is learnt from.")
    source: Source | None = Field(
        None, description="Answers that were cached, a teacher in the step, or the student's own average; by kind where absent."
    )
    beta: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Weight of the layers' distance, which is added to the loss; 1 where absent. Hints count in mean squares of the teacher's layer.",
    )
    init: Literal["teacher", "scratch"] = Field("teacher", description="Weights that the student begins with: the teacher's, or fresh ones.")

    @model_validator(mode="before")
    @classmethod
    def _all_of_the_loss(cls, values: Mapping[str, Json]) -> Mapping[str, Json]:
        return {"alpha": 1.0, **values} if values.get("kind") == "none-of-labels" else values

    @property
    def resolved_source(self) -> Source:
        """Where the answers come from."""
        by_kind: Mapping[str, Source] = {"features": "online", "attention": "online", "self": "average"}
        return self.source or by_kind.get(self.kind, "cached")


@steps.register("distil")
class Distil:
    """See the module's docstring."""

    kind = "distil"

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """See `Compressor.check`; what is as it would be anyway is left out, so that equal steps hash equal."""
        wanted = _parsed(steps.checked(DistilParams, params, kind=self.kind))
        reason, hint = _contradiction(wanted)
        if reason:
            raise _refused(reason, hint)
        found: dict[str, Scalar] = {"alpha": wanted.alpha, "temperature": wanted.temperature}
        if wanted.kind != "logits":
            found["kind"] = wanted.kind
        if wanted.resolved_source != DistilParams(alpha=wanted.alpha, kind=wanted.kind).resolved_source:
            found["source"] = wanted.resolved_source
        if wanted.kind in _OF_LAYERS:
            found["beta"] = wanted.beta or _BETA
        if wanted.init != "teacher":
            found["init"] = wanted.init
        return found

    def check_beside(self, params: Mapping[str, Scalar], recipe: CompressionRecipe) -> None:
        """See `LooksAtRecipe`."""
        wanted = _parsed(params)
        resizing = [step.kind for step in recipe.steps if step.kind in RESIZING]
        if wanted.kind == "self" and wanted.resolved_source != "average" and resizing:
            reason = f"a student that is born again has its teacher's size, and {' and '.join(resizing)} makes it another's"
            raise _refused(reason, "set `distil.kind: logits`, or `distil.source: average`.")
        mask = recipe.step("sparsify")
        if wanted.init == "scratch" and mask is not None and mask.params["schedule"] == "one_shot":
            reason = "fresh weights say nothing of which ones matter, and sparsify chooses among them before the first step"
            raise _refused(reason, "set `sparsify.schedule: gradual`, or `distil.init: teacher`.")

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, given: Given) -> nn.Module:
        """The model as it is, or with fresh weights; training does the rest. Raises RecipeInfeasible where no fresh weights can be had."""
        if _parsed(params).init == "teacher":
            return model
        from foundry_ray.compression.distil_fresh import fresh

        return fresh(model, seed=given.seed)


def source_of(step: Step | None) -> Source | None:
    """Where a recipe's answers come from; None where it asks for none."""
    return _parsed(step.params).resolved_source if step is not None else None


def distillation(step: Step | None, *, logits_VNC: Tensor | None = None, teachers: Sequence[nn.Module] = ()) -> Distillation | None:
    """The teacher's part in the loss of a training, where the recipe gives it one.

    Args:
        step: The recipe's `distil`, checked.
        logits_VNC: Where answers are cached: `teacher_targets`.
        teachers: Where they are not: who answers; taken to the student's device.

    Raises:
        RecipeInfeasible: The layers of several teachers are to be compared.
    """
    from foundry_ray.training.feed import DistilTargets
    from foundry_ray.training.job import OnlineTeacher, OwnAverage, Transfer

    if step is None:
        return None
    wanted = _parsed(step.params)
    uses_labels = wanted.kind != "none-of-labels"
    if wanted.resolved_source == "average":
        return OwnAverage(alpha=wanted.alpha, temperature=wanted.temperature)
    if wanted.resolved_source == "cached":
        assert logits_VNC is not None, "whoever makes a student that learns from cached answers has them"
        return DistilTargets(logits_VNC=logits_VNC, alpha=wanted.alpha, temperature=wanted.temperature, uses_labels=uses_labels)
    transfer = cast("Transfer", wanted.kind) if wanted.kind in _OF_LAYERS else None
    if transfer and len(teachers) != 1:
        raise _refused(f"the layers of {len(teachers)} teachers cannot be compared with the student's, wanted one", "set `distil.kind: logits`.")
    return OnlineTeacher(
        models=tuple(teachers),
        alpha=wanted.alpha,
        temperature=wanted.temperature,
        uses_labels=uses_labels,
        transfer=transfer,
        beta=wanted.beta or _BETA if transfer else 0.0,
    )


def _parsed(params: Mapping[str, Scalar]) -> DistilParams:
    return DistilParams.model_validate(dict(params))


def _contradiction(wanted: DistilParams) -> tuple[str, str]:
    """What is wrong with these parameters together, and what to do; empty where nothing is."""
    source, kind = wanted.resolved_source, wanted.kind
    if kind in _OF_LAYERS and source != "online":
        return f"kind is {kind} and source is {source}: layers of all views are too large to keep, so the teacher is asked in the step", (
            "set `distil.source: online`, or leave it out."
        )
    if wanted.beta is not None and kind not in _OF_LAYERS:
        return f"beta is {wanted.beta:g} and kind is {kind}, which compares no layers", "set it `when` kind is features or attention alone."
    if source == "average" and kind != "self":
        return f"source is average and kind is {kind}; the student's own average answers where kind is self", "set `distil.kind: self`."
    if kind == "self" and source == "average" and wanted.init == "scratch" and wanted.alpha == 1:
        return "alpha is 1, kind is self and init is scratch: nobody in it has seen a label", "lower `distil.alpha`."
    if kind == "self" and source != "average" and wanted.init == "teacher":
        return "a teacher of equal size teaches nothing to a student that begins with its weights", "set `distil.init: scratch`."
    if kind == "none-of-labels" and wanted.alpha != 1:
        return f"alpha is {wanted.alpha:g} and kind is none-of-labels, wanted 1: nothing of the loss comes from labels", "set `distil.alpha: 1`."
    return "", ""


def _refused(reason: str, hint: str) -> RecipeInfeasible:
    return RecipeInfeasible(f"recipe step distil: {reason}.", hint=hint, recipe="distil", reason=reason)
