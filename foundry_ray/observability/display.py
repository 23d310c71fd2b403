"""How a stage that runs is shown: a bar on a terminal, plain lines in a log, or nothing; and how long it still takes.

Decides: the look of it, and the pace that the time left follows. Leaves to `console` what is shown when. rich is imported when something is shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from foundry_ray.observability.study import StudyView, study_line, study_outcome, study_table
from foundry_ray.observability.times import duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

NAME_WIDTH = 10
LINE_EVERY_S = 5.0
_BAR_WIDTH = 18
_BESIDE_NOTE = 57  # columns that the rest of a bar's line takes
_MARK_EVERY_S = 5.0
_MARKS_KEPT = 60  # the pace is that of the last five minutes, or of the last sixty steps where those take longer


@dataclass(slots=True, kw_only=True)
class Stage:
    """A stage that runs: how far it is, and since when at this pace."""

    name: str
    began_s: float
    note: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    live: Mapping[str, str] = field(default_factory=dict)
    view: StudyView | None = None
    done: float = 0.0
    total: float = 0.0
    phase_first: float = 0.0
    marks: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MARKS_KEPT))
    is_implicit: bool = False
    said_s: float = field(default=float("-inf"))
    next_point_s: float = field(default=float("-inf"))

    def advance(self, done: float, total: float, note: str, now_s: float) -> None:
        """It is so far now; what goes back, or has another total, is a new phase with a pace of its own."""
        if done < self.done or total != self.total:
            self.phase_first = done
            self.marks.clear()
        if not self.marks or now_s - self.marks[-1][0] >= _MARK_EVERY_S:
            self.marks.append((now_s, done))
        self.done, self.total = done, total
        self.note = note or self.note

    def eta_s(self, now_s: float) -> float | None:
        """Seconds left at the pace of late; None before there is a pace."""
        since_s, first = self.marks[0] if self.marks else (self.began_s, 0.0)
        gained, elapsed_s = self.done - first, now_s - since_s
        if gained <= 0 or elapsed_s <= 0:
            return None
        return max(0.0, (self.total - self.done) * elapsed_s / gained)

    @property
    def text(self) -> str:
        """What stands beside the bar: numbers of the running epoch, then of the last one those that the running one has not."""
        last = (text for name, text in self.metrics.items() if name not in self.live)
        return " · ".join(part for part in (self.note, *self.live.values(), *last) if part)

    @property
    def outcome(self) -> str:
        """What stands behind the stage when it has ended: of a study all of it, and not the numbers of whichever trial came last."""
        if self.view is not None:
            return study_outcome(self.view)
        return " · ".join(self.metrics.values()) or self.note


class Display(Protocol):
    """How stages are shown."""

    def begin(self, stage: Stage) -> None: ...

    def update(self, stage: Stage, now_s: float) -> None: ...

    def end(self, stage: Stage) -> None: ...


class Silent:
    """Shows nothing."""

    def begin(self, stage: Stage, now_s: float = 0.0) -> None:
        del stage, now_s

    update = end = begin


class Lines:
    """For logs: a line when a stage begins, then at most one every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, stage: Stage) -> None:
        if stage.name:
            self._say(stage, stage.text or "begins")

    def update(self, stage: Stage, now_s: float) -> None:
        if now_s - stage.said_s < LINE_EVERY_S:
            return
        stage.said_s = now_s
        share = f"{stage.done / stage.total:4.0%} " if stage.total > 0 else ""
        eta_s = stage.eta_s(now_s)
        self._say(stage, share + (study_line(stage.view) if stage.view else stage.text) + (f", {duration(eta_s)} left" if eta_s is not None else ""))

    def end(self, stage: Stage) -> None:
        del stage

    def _say(self, stage: Stage, text: str) -> None:
        self._console.print(f"  {stage.name:<{NAME_WIDTH}} {text}", highlight=False, markup=False, soft_wrap=True)


class Bars:
    """For terminals: one bar per running stage, with the time it took and the time that is left; below them the study that runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._tasks: dict[int, TaskID] = {}
        self._studies: dict[int, StudyView] = {}

    def begin(self, stage: Stage) -> None:
        if self._progress is None:
            self._progress = _bars(self._console, self._below)
            self._progress.start()
        self._tasks[id(stage)] = self._progress.add_task(safe(stage.name), total=None, note=self._fit(stage.text), eta="")

    def update(self, stage: Stage, now_s: float) -> None:
        if self._progress is None or id(stage) not in self._tasks:
            return
        if stage.view is not None:
            self._studies[id(stage)] = stage.view
        eta_s = stage.eta_s(now_s)
        self._progress.update(
            self._tasks[id(stage)],
            completed=stage.done,
            total=stage.total if stage.total > 0 else None,
            note="" if stage.view is not None else self._fit(stage.text),  # a study stands below
            eta="" if eta_s is None else f"{duration(eta_s)} left",
            refresh=stage.done == stage.phase_first,  # a new phase shows at once, its steps at the refresh rate
        )

    def end(self, stage: Stage) -> None:
        task = self._tasks.pop(id(stage), None)
        self._studies.pop(id(stage), None)
        if self._progress is None or task is None:
            return
        self._progress.remove_task(task)
        if not self._tasks:
            self._progress.stop()
            self._progress = None

    def _below(self) -> list[RenderableType]:
        """Asked for by the thread that draws."""
        return [study_table(view) for view in tuple(self._studies.values())]

    def _fit(self, text: str) -> str:
        """A note that leaves the bar on one line."""
        room = max(20, self._console.width - _BESIDE_NOTE)
        return safe(text if len(text) <= room else text[: room - 1] + "…")


def _bars(console: Console, below: Callable[[], Iterable[RenderableType]]) -> Progress:
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskProgressColumn, TextColumn
    from rich.text import Text

    class Elapsed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{duration(task.elapsed or 0.0):>7}", style="dim")

    class WithStudy(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            yield from below()

    return WithStudy(
        SpinnerColumn("dots", style="cyan"),
        TextColumn(f"[bold]{{task.description:<{NAME_WIDTH}}}"),
        BarColumn(bar_width=_BAR_WIDTH, style="grey30", complete_style="cyan", finished_style="green", pulse_style="cyan"),
        TaskProgressColumn("{task.percentage:>3.0f}%", style=""),
        Elapsed(),
        TextColumn("[dim]{task.fields[eta]:>11}"),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        refresh_per_second=8,
    )


def safe(text: str) -> str:
    """Text in which rich reads no markup."""
    from rich.markup import escape

    return escape(text)
