"""What a function in a worker tells, on its way to the driver; no worker is started."""

from __future__ import annotations

from foundry_ray.protocols import Reporter
from foundry_ray.runtime.remote_call import _show, _stream
from foundry_ray.testing.reporters import RecordingReporter


def _tells(*, reporter: Reporter) -> str:
    reporter.report(1, {"accuracy": 0.5})
    reporter.metrics(7, {"loss": 1.0})
    reporter.progress(2, 2, "done")
    reporter.warn("beware")
    return "result"


def test_all_that_a_function_tells_reaches_the_drivers_reporter(reporter: RecordingReporter) -> None:
    *told, last = _stream(_tells, (), {})
    for event in told:
        _show(event, reporter)
    assert (reporter.reports, reporter.points) == ([(1, {"accuracy": 0.5})], [(7, {"loss": 1.0})])
    assert (reporter.progresses, reporter.warnings) == ([(2, 2, "done")], ["beware"])
    assert last.payload == "result"
