"""Students from parameters: the teacher is kept ready, and each recipe is carried out on a copy of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray import compression, models
from foundry_ray.compression.prune_params import PruneParams
from foundry_ray.compression.steps import SHIPPED
from foundry_ray.config import TrainConfig, validate
from foundry_ray.models.layers import set_dropout
from foundry_ray.search.trial.context import TrialContext
from foundry_ray.types import CompressionRecipe, Json, Scalar, canonical_sha256, to_json

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A student before its first step, how it is trained, and what was done to the teacher; `notes` say how that was settled."""

    model: nn.Module
    train: TrainConfig
    recipe: CompressionRecipe
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Of the model as it really is, with all that its training depends on: equal ones are the same trial.

        The weights that it begins with are a part of it: shrinking and pruning to equal shapes keep other channels.
        """
        train = self.train.model_dump(mode="json", exclude=None if self.train.adversarial else {"adversarial"})
        learning: dict[str, Json] = {
            **train,
            "distil": to_json(self.recipe.step("distil")),
            "seed": self.seed,
            "weights": hashlib.sha256(models.tensors_to_bytes(dict(self.model.named_parameters()))).hexdigest(),
        }
        mask = self.recipe.step("sparsify")
        learning |= {"sparsify": to_json(mask)} if mask else {}
        cut = self.recipe.step("prune")
        choice = PruneParams.model_validate(dict(cut.params)).choice if cut else {}
        learning |= {"prune": to_json(choice)} if choice else {}
        # What another package's steps do in training is not seen in the model.
        learning |= {step.kind: to_json(step) for step in self.recipe.steps if step.kind not in SHIPPED}
        return canonical_sha256({"model": compression.effective(self.model, self.recipe), "training": learning})


class Students:
    """Makes the students of one study."""

    def __init__(self, context: TrialContext) -> None:
        self._context = context
        self._teacher = teacher_of(context)
        self._budgets = compression.Budgets(self._teacher, context.given(context.seed), context.calibration)

    def make(self, params: Mapping[str, Scalar], seed: int) -> Student:
        """The student that these parameters stand for. Raises RecipeInfeasible, or OutOfRange for hyperparameters that no training takes."""
        context = self._context
        hyperparams, recipe = compression.recipe_from_params(params)
        shared = context.student.model_dump(include=set(TrainConfig.model_fields))
        train = validate(TrainConfig, {**shared, **hyperparams}, where="trial")
        model = compression.apply_recipe(self._teacher, recipe, context.given(seed), family=context.family)
        set_dropout(model, train.dropout)
        settled = self._budgets.settled(recipe, model)
        return Student(model=model, train=train, recipe=settled.recipe, seed=seed, notes=settled.notes)


def teacher_of(context: TrialContext) -> nn.Module:
    """The teacher of a study, in eval mode on the CPU."""
    teacher = models.rebuild(context.teacher_description)
    models.load_tensors(teacher, models.tensors_from_bytes(context.teacher_tensors))
    return teacher.eval()
