"""The step `shrink`: a smaller member of the teacher's family that inherits the weights that matter most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from foundry_ray.compression import steps
from foundry_ray.config import Section
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import Given
from foundry_ray.types import Scalar

if TYPE_CHECKING:
    from torch import nn


class ShrinkParams(Section):
    """The size of the student in its family's numbers."""

    width: int = Field(ge=2, le=1024, description="Channels of the first stage.")
    depth: int = Field(ge=1, le=32, description="Blocks per stage.")


@steps.register("shrink")
class Shrink:
    """See the module's docstring; the family does the work."""

    kind = "shrink"

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """See `Compressor.check`."""
        return steps.checked(ShrinkParams, params, kind=self.kind)

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, given: Given) -> nn.Module:
        """See `Compressor.apply`. Raises RecipeInfeasible for a model of no family, or a size above the teacher's."""
        from foundry_ray import models

        family = getattr(model, "family", None)
        if not isinstance(family, str):
            got = type(model).__name__
            raise RecipeInfeasible(
                f"shrink: {got} belongs to no model family.", hint="leave `width` and `depth` out of the space.", reason="no family"
            )
        return models.get(family).shrink(model, given.schema, self.check(params))
