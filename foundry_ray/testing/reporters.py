"""A reporter that remembers everything it was told."""

from __future__ import annotations

from collections.abc import Mapping

from foundry_ray.observability import StudyView


class RecordingReporter:
    """Keeps reports, progress, points, views of studies and warnings in lists. Picklable, so that it crosses actors (as a copy)."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.progresses: list[tuple[float, float, str]] = []
        self.points: list[tuple[int, dict[str, float]]] = []
        self.views: list[StudyView] = []
        self.warnings: list[str] = []

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        self.reports.append((step, dict(metrics)))

    def progress(self, done: float, total: float, note: str = "") -> None:
        self.progresses.append((done, total, note))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.points.append((step, dict(values)))

    def study(self, view: StudyView) -> None:
        self.views.append(view)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
