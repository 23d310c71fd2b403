"""What a user sees and a log keeps while a command works: bars on a terminal, plain lines elsewhere, events as JSON lines.

Decides: how progress, metrics and warnings look. Leaves to others: what is worth telling. Bottom layer: it imports nothing of foundry,
and rich only when something is shown. All of it goes to stderr, so that stdout stays the result's.
"""

from __future__ import annotations

from foundry_ray.observability.console import MFU, SAMPLES_PER_S, TOKENS_PER_S, ConsoleReporter
from foundry_ray.observability.study import BestValue, RunningTrial, Spending, StudyView
from foundry_ray.observability.times import duration

__all__ = ["MFU", "SAMPLES_PER_S", "TOKENS_PER_S", "BestValue", "ConsoleReporter", "RunningTrial", "Spending", "StudyView", "duration"]
