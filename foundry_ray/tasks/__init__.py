"""What is learnt: loss, metrics and the form of a prediction, by name.

Importing this package imports neither torch nor numpy.
"""

from __future__ import annotations

from foundry_ray.plugins import Plugins
from foundry_ray.protocols import Task

__all__ = ["get", "names", "register"]

_tasks: Plugins[Task] = Plugins(
    "task",
    "foundry_ray.tasks",
    {name: f"foundry_ray.tasks.{name}" for name in ("causal_lm", "image_classification", "text_classification")},
)
register = _tasks.register
get = _tasks.get
names = _tasks.names
