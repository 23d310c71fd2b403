"""One class per image."""

from __future__ import annotations

from foundry_ray.schemas import images_only
from foundry_ray.tasks import register
from foundry_ray.tasks.classification import Classification
from foundry_ray.types import Schema


@register("image_classification")
class ImageClassification(Classification):
    """Choose one of C classes."""

    name = "image_classification"

    def check(self, schema: Schema) -> None:
        """Raises ConfigError for anything but images."""
        images_only(schema, what="task image_classification", hint="for token ids use `task: causal_lm`, or `text_classification`.")
