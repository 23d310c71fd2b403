"""The Reporter of a command, and the file of events that it keeps: one JSON object a line.

Decides: what is shown beside a bar and behind a stage that has ended, and what is kept. Leaves the bars and lines themselves to `display`.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from foundry_ray.observability.display import LINE_EVERY_S, NAME_WIDTH, Bars, Display, Lines, Silent, Stage, safe
from foundry_ray.observability.study import StudyView
from foundry_ray.observability.times import duration

if TYPE_CHECKING:
    from rich.console import Console

SAMPLES_PER_S = "samples_per_s"
TOKENS_PER_S = "tokens_per_s"
MFU = "mfu"

_SHOWN = {"accuracy": "accuracy {:.4f}", "loss": "loss {:.3f}", "val_loss": "val loss {:.3f}", SAMPLES_PER_S: "{:,.0f} samples/s"}
_LIVE = {SAMPLES_PER_S: "{:,.0f} samples/s", MFU: "MFU {:.1%}", "loss": "loss {:.3f}"}
_LIVE_TOKENS = {TOKENS_PER_S: "{:,.0f} tokens/s", MFU: "MFU {:.1%}", "loss": "loss {:.3f}"}
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
        self._stages: list[Stage] = []
        self._warnings: dict[str, None] = {}
        self._shown: Display | None = None

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
                stage.next_point_s = now_s + LINE_EVERY_S
                self.event("metrics", stage=stage.name, step=step, metrics={name: _finite(value) for name, value in values.items()})
            self._update(stage)

    def study(self, view: StudyView) -> None:
        """A study stands so now: it is shown below the bar, in the lines of a log, and every few seconds in the file of events."""
        with self._lock:
            stage = self._current()
            stage.view = view
            now_s = self._clock.monotonic_s()
            if now_s >= stage.next_point_s:
                stage.next_point_s = now_s + LINE_EVERY_S
                self.event("study", stage=stage.name, **asdict(view))
            self._update(stage)

    def warn(self, message: str) -> None:
        """Show a warning, once however often it comes, and keep it."""
        with self._lock:
            if message in self._warnings:
                return
            self._warnings[message] = None
            self.event("warning", message=message)
            self._print(f"[yellow]![/] {safe(message)}")

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

            cells = [f"[green]{safe(label)}[/]" if label == answer else f"{safe(label)} [red]→ {safe(answer)}[/]" for label, answer, _ in rows]
            times = sorted(latency_ms for _, _, latency_ms in rows)
            num_right = sum(label == answer for label, answer, _ in rows)
            self._outcome("done", "answers", f"{num_right} of {len(rows)} right, p50 {times[len(times) // 2]:.1f} ms over HTTP")
            self._console.print(Columns(cells, padding=(0, 2)), soft_wrap=False)

    def _begin(self, name: str, detail: str, *, is_implicit: bool = False) -> Stage:
        with self._lock:
            if self._stages and self._stages[-1].is_implicit:
                self._end(self._stages[-1], "done")
            stage = Stage(name=name, began_s=self._clock.monotonic_s(), note=detail, is_implicit=is_implicit)
            self._stages.append(stage)
            self.event("stage", stage=name, outcome="begun", detail=detail)
            self._display.begin(stage)
            return stage

    def _end(self, stage: Stage, outcome: str) -> None:
        with self._lock:
            while stage in self._stages:
                last = self._stages.pop()
                self._display.end(last)
            duration_s = self._clock.monotonic_s() - stage.began_s
            self.event("stage", stage=stage.name, outcome=outcome, duration_s=round(duration_s, 3))
            if not stage.is_implicit:
                self._outcome(outcome, stage.name, f"{duration(duration_s):>7}  {stage.outcome}")

    def _current(self) -> Stage:
        return self._stages[-1] if self._stages else self._begin("", "", is_implicit=True)

    def _update(self, stage: Stage) -> None:
        self._display.update(stage, self._clock.monotonic_s())

    def _outcome(self, outcome: str, name: str, text: str) -> None:
        mark, colour = _MARKS[outcome]
        if not self._is_quiet:
            self._print(f"[{colour}]{mark}[/] [bold]{safe(name):<{NAME_WIDTH}}[/] [dim]{safe(text)}[/]")

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
    def _display(self) -> Display:
        if self._shown is None:
            self._shown = Silent() if self._is_quiet else Bars(self._console) if self._console.is_terminal else Lines(self._console)
        return self._shown


def _formatted(forms: Mapping[str, str], values: Mapping[str, float]) -> Mapping[str, str]:
    return {name: form.format(values[name]) for name, form in forms.items() if name in values}


def _finite(value: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)
