"""One class per text."""

from __future__ import annotations

from foundry_ray.errors import ConfigError
from foundry_ray.tasks import register
from foundry_ray.tasks.classification import Classification
from foundry_ray.types import Schema


@register("text_classification")
class TextClassification(Classification):
    """Choose one of C classes."""

    name = "text_classification"

    def check(self, schema: Schema) -> None:
        """Raises ConfigError for anything but token ids with one class per row."""
        if schema.kind != "tokens" or not schema.classes:
            got = schema.kind if schema.kind != "tokens" else "token ids without a class per row"
            hint = "for images use `task: image_classification`; for a label at each token `causal_lm`."
            raise ConfigError(f"task text_classification got {got}, wanted texts or token ids with one class each.", hint=hint)
