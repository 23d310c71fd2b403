"""What a user sees and a log keeps while a command works: bars on a terminal, plain lines elsewhere, events as JSON lines.

Decides: how progress, metrics and warnings look. Leaves to others: what is worth telling. Bottom layer: it imports nothing of foundry,
and rich only when something is shown. All of it goes to stderr, so that stdout stays the result's.
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

ACCURACY = "accuracy"
LOSS = "loss"
VAL_LOSS = "val_loss"
LR = "lr"
GRAD_NORM = "grad_norm"
SAMPLES_PER_S = "samples_per_s"
TOKENS_PER_S = "tokens_per_s"
MFU = "mfu"
MEMORY_BYTES = "memory_bytes"
EPOCH_S = "epoch_s"
LATENCY_P50_MS = "latency_p50_ms"
LATENCY_P95_MS = "latency_p95_ms"
SIZE_BYTES = "size_bytes"
NUM_PARAMS = "num_params"
NUM_MACS = "num_macs"

_SHOWN = {ACCURACY: "accuracy {:.4f}", LOSS: "loss {:.3f}", VAL_LOSS: "val loss {:.3f}", SAMPLES_PER_S: "{:,.0f} samples/s"}
_LIVE = {SAMPLES_PER_S: "{:,.0f} samples/s", MFU: "MFU {:.1%}", LOSS: "loss {:.3f}"}
_LIVE_TOKENS = {TOKENS_PER_S: "{:,.0f} tokens/s", MFU: "MFU {:.1%}", LOSS: "loss {:.3f}"}
_NAME_WIDTH = 10
_BAR_WIDTH = 18
_BESIDE_NOTE = 57  # columns that the rest of a bar's line takes
_LINE_EVERY_S = 5.0
_MARK_EVERY_S = 5.0
_MARKS_KEPT = 60  # the pace is that of the last five minutes, or of the last sixty steps where those take longer
_MARKS = {"done": ("✓", "green"), "reused": ("↺", "cyan"), "failed": ("✗", "red"), "interrupted": ("■", "yellow")}


class _Clock(Protocol):
    def now_s(self) -> float: ...

    def monotonic_s(self) -> float: ...


class EventLog:
    """Structured events, one JSON object a line, appended whole, so that several processes can share a file."""

    def __init__(self, path: Path, clock: _Clock) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._clock = clock

    def event(self, name: str, /, **fields: object) -> None:
        """Write one event; `time` is UTC. Fields that are no JSON are written as text."""
        time = datetime.fromtimestamp(self._clock.now_s(), UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "event": name, **fields}, default=str, ensure_ascii=False)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


@dataclass(slots=True, kw_only=True)
class _Stage:
    """A stage that runs: how far it is, and since when at this pace."""

    name: str
    began_s: float
    note: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    live: Mapping[str, str] = field(default_factory=dict)
    done: float = 0.0
    total: float = 0.0
    phase_first: float = 0.0
    marks: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MARKS_KEPT))
    is_implicit: bool = False
    said_s: float = field(default=float("-inf"))
    next_point_s: float = field(default=float("-inf"))

    def advance(self, done: float, total: float, note: str, now_s: float) -> None:
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
        """What stands behind the stage when it has ended."""
        return " · ".join(self.metrics.values()) or self.note


class _Display(Protocol):
    """How stages are shown."""

    def begin(self, stage: _Stage) -> None: ...

    def update(self, stage: _Stage, now_s: float) -> None: ...

    def end(self, stage: _Stage) -> None: ...


class ConsoleReporter:
    """The Reporter of a command. Safe to call from several threads.

    Args:
        console: Where to; stderr where it is not given.
        quiet: Show warnings only.
        events: File of the structured events; None keeps none.
        clock: Time.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False, events: Path | None = None, clock: _Clock) -> None:
        self._given_console = console
        self._is_quiet = quiet
        self._clock = clock
        self._log = EventLog(events, clock) if events is not None else None
        self._lock = threading.RLock()
        self._stages: list[_Stage] = []
        self._warnings: dict[str, None] = {}
        self._shown: _Display | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings so far, each once, in the order in which they came."""
        return tuple(self._warnings)

    def event(self, name: str, /, **fields: object) -> None:
        """A structured event for the log; nothing is shown."""
        if self._log is not None:
            with self._lock:
                self._log.event(name, **fields)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """A named piece of work: a bar while it runs, a line with its time when it ends."""
        stage = self._begin(name, detail)
        outcome = "interrupted"
        try:
            yield
            outcome = "done"
        except Exception:
            outcome = "failed"
            raise
        finally:
            self._end(stage, outcome)

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """One epoch or rung is done: its metrics stand beside the bar."""
        with self._lock:
            stage = self._current()
            self.event("report", stage=stage.name, step=step, metrics={name: _finite(value) for name, value in metrics.items()})
            stage.metrics, stage.live = _formatted(_SHOWN, metrics), {}
            self._update(stage)

    def progress(self, done: float, total: float, note: str = "") -> None:
        """How far the innermost running stage is. A smaller `done` or another `total` begins a new phase with its own pace."""
        with self._lock:
            stage = self._current()
            stage.advance(done, total, note, self._clock.monotonic_s())
            self._update(stage)
            if stage.is_implicit and done >= total:
                self._end(stage, "done")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The last second of a running epoch: it stands beside the bar until the next one, and every few seconds in the log."""
        with self._lock:
            stage = self._current()
            stage.live = _formatted(_LIVE_TOKENS if TOKENS_PER_S in values else _LIVE, values)
            now_s = self._clock.monotonic_s()
            if now_s >= stage.next_point_s:
                stage.next_point_s = now_s + _LINE_EVERY_S
                self.event("metrics", stage=stage.name, step=step, metrics={name: _finite(value) for name, value in values.items()})
            self._update(stage)

    def warn(self, message: str) -> None:
        """Show a warning, once however often it comes, and keep it."""
        with self._lock:
            if message in self._warnings:
                return
            self._warnings[message] = None
            self.event("warning", message=message)
            self._print(f"[yellow]![/] {_safe(message)}")

    def reused(self, name: str, reason: str) -> None:
        """A stage whose result was there already."""
        self.event("stage", stage=name, outcome="reused", reason=reason)
        self._outcome("reused", name, reason)

    def answers(self, rows: Sequence[tuple[str, str, float]]) -> None:
        """What the endpoint said about images with known labels: (label, answer, latency in ms) each."""
        for label, answer, latency_ms in rows:
            self.event("answer", label=label, answer=answer, latency_ms=latency_ms)
        if rows and not self._is_quiet:
            from rich.columns import Columns

            cells = [f"[green]{_safe(label)}[/]" if label == answer else f"{_safe(label)} [red]→ {_safe(answer)}[/]" for label, answer, _ in rows]
            times = sorted(latency_ms for _, _, latency_ms in rows)
            num_right = sum(label == answer for label, answer, _ in rows)
            self._outcome("done", "answers", f"{num_right} of {len(rows)} right, p50 {times[len(times) // 2]:.1f} ms over HTTP")
            self._console.print(Columns(cells, padding=(0, 2)), soft_wrap=False)

    def _begin(self, name: str, detail: str, *, is_implicit: bool = False) -> _Stage:
        with self._lock:
            if self._stages and self._stages[-1].is_implicit:
                self._end(self._stages[-1], "done")
            stage = _Stage(name=name, began_s=self._clock.monotonic_s(), note=detail, is_implicit=is_implicit)
            self._stages.append(stage)
            self.event("stage", stage=name, outcome="begun", detail=detail)
            self._display.begin(stage)
            return stage

    def _end(self, stage: _Stage, outcome: str) -> None:
        with self._lock:
            while stage in self._stages:
                last = self._stages.pop()
                self._display.end(last)
            duration_s = self._clock.monotonic_s() - stage.began_s
            self.event("stage", stage=stage.name, outcome=outcome, duration_s=round(duration_s, 3))
            if not stage.is_implicit:
                self._outcome(outcome, stage.name, f"{duration(duration_s):>7}  {stage.outcome}")

    def _current(self) -> _Stage:
        return self._stages[-1] if self._stages else self._begin("", "", is_implicit=True)

    def _update(self, stage: _Stage) -> None:
        self._display.update(stage, self._clock.monotonic_s())

    def _outcome(self, outcome: str, name: str, text: str) -> None:
        mark, colour = _MARKS[outcome]
        if not self._is_quiet:
            self._print(f"[{colour}]{mark}[/] [bold]{_safe(name):<{_NAME_WIDTH}}[/] [dim]{_safe(text)}[/]")

    def _print(self, markup: str) -> None:
        with self._lock:
            self._console.print(markup, highlight=False, soft_wrap=not self._console.is_terminal)

    @property
    def _console(self) -> Console:
        if self._given_console is None:
            from rich.console import Console

            self._given_console = Console(stderr=True)
        return self._given_console

    @property
    def _display(self) -> _Display:
        if self._shown is None:
            self._shown = _Silent() if self._is_quiet else _Bars(self._console) if self._console.is_terminal else _Lines(self._console)
        return self._shown


class _Silent:
    """Shows nothing."""

    def begin(self, stage: _Stage, now_s: float = 0.0) -> None:
        del stage, now_s

    update = end = begin


class _Lines:
    """For logs: a line when a stage begins, then at most one every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, stage: _Stage) -> None:
        if stage.name:
            self._say(stage, stage.text or "begins")

    def update(self, stage: _Stage, now_s: float) -> None:
        if now_s - stage.said_s < _LINE_EVERY_S:
            return
        stage.said_s = now_s
        share = f"{stage.done / stage.total:4.0%} " if stage.total > 0 else ""
        eta_s = stage.eta_s(now_s)
        self._say(stage, share + stage.text + (f", {duration(eta_s)} left" if eta_s is not None else ""))

    def end(self, stage: _Stage) -> None:
        del stage

    def _say(self, stage: _Stage, text: str) -> None:
        self._console.print(f"  {stage.name:<{_NAME_WIDTH}} {text}", highlight=False, markup=False, soft_wrap=True)


class _Bars:
    """For terminals: one bar per running stage, with the time it took and the time that is left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._tasks: dict[int, TaskID] = {}

    def begin(self, stage: _Stage) -> None:
        if self._progress is None:
            self._progress = _bars(self._console)
            self._progress.start()
        self._tasks[id(stage)] = self._progress.add_task(_safe(stage.name), total=None, note=self._fit(stage.text), eta="")

    def update(self, stage: _Stage, now_s: float) -> None:
        if self._progress is None or id(stage) not in self._tasks:
            return
        eta_s = stage.eta_s(now_s)
        self._progress.update(
            self._tasks[id(stage)],
            completed=stage.done,
            total=stage.total if stage.total > 0 else None,
            note=self._fit(stage.text),
            eta="" if eta_s is None else f"{duration(eta_s)} left",
            refresh=stage.done == stage.phase_first,  # a new phase shows at once, its steps at the refresh rate
        )

    def end(self, stage: _Stage) -> None:
        task = self._tasks.pop(id(stage), None)
        if self._progress is None or task is None:
            return
        self._progress.remove_task(task)
        if not self._tasks:
            self._progress.stop()
            self._progress = None

    def _fit(self, text: str) -> str:
        """A note that leaves the bar on one line."""
        room = max(20, self._console.width - _BESIDE_NOTE)
        return _safe(text if len(text) <= room else text[: room - 1] + "…")


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskProgressColumn, TextColumn
    from rich.text import Text

    class Elapsed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{duration(task.elapsed or 0.0):>7}", style="dim")

    return Progress(
        SpinnerColumn("dots", style="cyan"),
        TextColumn(f"[bold]{{task.description:<{_NAME_WIDTH}}}"),
        BarColumn(bar_width=_BAR_WIDTH, style="grey30", complete_style="cyan", finished_style="green", pulse_style="cyan"),
        TaskProgressColumn("{task.percentage:>3.0f}%", style=""),
        Elapsed(),
        TextColumn("[dim]{task.fields[eta]:>11}"),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        refresh_per_second=8,
    )


def _formatted(forms: Mapping[str, str], values: Mapping[str, float]) -> Mapping[str, str]:
    return {name: form.format(values[name]) for name, form in forms.items() if name in values}


def duration(seconds: float) -> str:
    """Seconds as people read them: 3.4 s, 1:05, 2:03:04."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _finite(value: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)


def _safe(text: str) -> str:
    """Text in which rich reads no markup."""
    from rich.markup import escape

    return escape(text)
