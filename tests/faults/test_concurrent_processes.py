"""Sixteen processes publish, read, drop, promote, resume and collect garbage on one store; then the history is judged.

What must come out: an order in line with real time explains every answer of the alias; no two processes held the study's lease at once; the
journal holds every acknowledged event once; every artifact that was acknowledged and not dropped is whole, and was at every read.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foundry_ray import registry, runlog
from foundry_ray.artifacts import embedded, open_store
from foundry_ray.artifacts.manifests import fetch, publish
from foundry_ray.clock import SystemClock
from foundry_ray.config import Settings
from foundry_ray.protocols import ArtifactStore
from foundry_ray.search.journal import Journal
from foundry_ray.testing import samples
from foundry_ray.testing import store_crowd as crowd
from foundry_ray.testing.histories import Operation, Span, overlaps, violations
from foundry_ray.types import RunRecord, StageRecord, StageStatus

NUM_PROCESSES = 16


@pytest.fixture(params=["file", "embedded"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Settings, ArtifactStore]]:
    with tempfile.TemporaryDirectory(prefix="fc", dir="/tmp") as home:
        settings = Settings(home=Path(home), store_retry_s=60.0)
        uri = "embedded" if request.param == "embedded" else (tmp_path / "store").as_uri()
        yield uri, settings, open_store(uri, settings=settings)
        embedded.stop(settings)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_sixteen_processes_were_answered_has_an_explanation(
    shared: tuple[str, Settings, ArtifactStore], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri, settings, store = shared
    seconds = 60 if request.config.getoption("--moments") == "all" else 10
    _prepare(store)
    said = _run_all(uri, settings, tmp_path, seconds)
    counts = Counter(line["what"] for line in said)
    assert min(counts[what] for what in ("published", "operation", "event", "collected")) > 0, counts
    assert [line for line in said if line["what"] == "wrong"] == []
    assert violations(_as(Operation, said, "operation")) == []
    assert overlaps(_as(Span, said, "span")) == []
    assert _events(store) == Counter(line["number"] for line in said if line["what"] == "event")
    for line in (line for line in said if line["what"] == "held"):
        with tempfile.TemporaryDirectory() as folder:
            files = fetch(store, line["key"], Path(folder))
            assert {name: path.read_bytes() for name, path in files.items()} == crowd.content(line["content"])


def _prepare(store: ArtifactStore) -> None:
    """Versions to promote, and a run that names the study, so that its journal is nobody's garbage."""
    for number in range(crowd.NUM_VERSIONS):
        ref = publish(store, kind="model", files={"version": b"%d" % number}, created_at="")
        model = replace(samples.model(), artifact=ref)
        registry.register(store, name=crowd.NAME, model=model, report_key="r", passed=True, run_id="", clock=SystemClock())
    stage = StageRecord(name="search", key=crowd.STUDY, status=StageStatus.RUNNING)
    runlog.save_run(store, RunRecord(run_id="owner-20260101-000000-0000", pipeline="p", config={}, versions={}, stages=(stage,)))


def _run_all(uri: str, settings: Settings, folder: Path, seconds: float) -> list[dict[str, Any]]:
    logs = folder / "said"
    logs.mkdir()
    command = [sys.executable, "-m", crowd.__name__, uri, str(settings.home), str(logs)]
    processes = [subprocess.Popen([*command, str(number), str(seconds)], stderr=subprocess.PIPE, text=True) for number in range(NUM_PROCESSES)]
    ended = [(process.communicate(timeout=seconds + 240)[1], process.returncode) for process in processes]
    assert [text[-2000:] for text, code in ended if code != 0] == []
    return [json.loads(line) for path in sorted(logs.iterdir()) for line in path.read_text().splitlines()]


def _as(kind: type[Any], said: list[dict[str, Any]], what: str) -> list[Any]:
    return [kind(**{name: value for name, value in line.items() if name != "what"}) for line in said if line["what"] == what]


def _events(store: ArtifactStore) -> Counter[int]:
    found = Journal(store, f"studies/{crowd.STUDY}/journal", driver="judge").open()
    return Counter(event.number for event in found if event.kind == "ask" and event.number is not None)
