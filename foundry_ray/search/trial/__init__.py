"""One trial, without Ray: what trials share, and what a process does with a job. Importing this package loads no torch."""

from foundry_ray.search.trial.context import TrialContext
from foundry_ray.search.trial.runner import TrialRunner

__all__ = ["TrialContext", "TrialRunner"]
