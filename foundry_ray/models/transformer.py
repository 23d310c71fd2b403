"""The family `transformer`: encoders over patches of an image or over tokens, whose norm stands before each branch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from foundry_ray.config import parse_params
from foundry_ray.errors import OutOfRange
from foundry_ray.models import inherit, register
from foundry_ray.models.encoder import Encoder, EncoderSpec, LayerSpec
from foundry_ray.models.fronts import Reads
from foundry_ray.models.sizes import Size, TransformerSize
from foundry_ray.models.smaller_encoder import smaller
from foundry_ray.types import Json, Scalar, Schema, from_json, to_json

_HIDDEN_RATIO = 4


@register("transformer")
class TransformerFamily:
    """Encoders sized by `width` (of the stream) and `depth` (layers), with `heads`, and for images the side of a `patch`."""

    name = "transformer"

    def build(self, schema: Schema, params: Mapping[str, Json]) -> nn.Module:
        """A freshly initialised encoder. Raises OutOfRange, or ConfigError for rows without a class."""
        size, reads = parse_params(TransformerSize, params, where="model family transformer"), Reads.of(schema, family=self.name)
        if size.width % size.heads:
            message = f"transformer: heads is {size.heads}, but must divide the width of {size.width}."
            raise OutOfRange(message, hint="set `teacher.model.params.heads`.", key="heads", value=size.heads)
        if not reads.is_tokens and (reads.height % size.patch or reads.width % size.patch):
            message = f"transformer: patch is {size.patch}, but must divide images of {reads.height} x {reads.width}."
            raise OutOfRange(message, hint="set `teacher.model.params.patch`.", key="patch", value=size.patch)
        layer = LayerSpec(heads=size.heads, head_dim=size.width // size.heads, hidden=_HIDDEN_RATIO * size.width)
        return Encoder(
            EncoderSpec(
                family=self.name,
                reads=reads,
                num_classes=len(schema.classes),
                width=size.width,
                layers=(layer,) * size.depth,
                patch=0 if reads.is_tokens else size.patch,
            )
        )

    def describe(self, model: nn.Module) -> Json:
        """Sizes of every layer as they are now."""
        assert isinstance(model, Encoder)
        return to_json(model.spec())

    def rebuild(self, description: Json) -> nn.Module:
        """The encoder of a description, with fresh weights. Raises ArtifactCorrupt."""
        spec = from_json(EncoderSpec, description, what=f"{self.name} architecture")
        spec.check()
        return Encoder(spec)

    def shrink(self, model: nn.Module, schema: Schema, params: Mapping[str, Scalar]) -> nn.Module:
        """A smaller encoder: see `smaller_encoder`. Raises RecipeInfeasible."""
        if not isinstance(model, Encoder):
            raise inherit.infeasible(f"the teacher is a {type(model).__name__}, wanted a {self.name}.")
        size = inherit.parsed(Size, params, family=self.name)
        return smaller(model, width=size.width, depth=size.depth)
