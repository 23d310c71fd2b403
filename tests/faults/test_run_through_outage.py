"""A whole run behind a proxy whose store is silent for a minute in the middle: later than the unbroken run, and otherwise the same."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundry_ray.artifacts import embedded, open_store
from foundry_ray.config import Settings
from foundry_ray.testing.commands import Commands
from foundry_ray.testing.faults import Faults
from foundry_ray.testing.proxy import Proxy

_OUTAGE_S = 60.0
_TAUGHT = ("loss", "val_loss", "accuracy", "lr")
_MEASURED_NOWHERE = ("data", "teacher", "search")  # which trial is chosen hangs on latencies, and so on the minute
Stages = dict[str, dict[str, Any]]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def proxy(faults: Faults, request: pytest.FixtureRequest) -> Iterator[tuple[Proxy, Path]]:
    """A proxy before an embedded server, and the file of credentials for it."""
    if request.config.getoption("--moments") != "all":
        pytest.skip("two whole runs and a minute of silence: only with --moments all")
    with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as name:
        settings = Settings(home=Path(name))
        try:
            open_store("embedded", settings=settings)
            secrets = json.loads((settings.home / "store" / "state.json").read_text())
            path = Path(name) / "credentials"
            path.touch(mode=0o600)
            path.write_text(f"[default]\naws_access_key_id={secrets['access_key']}\naws_secret_access_key={secrets['secret_key']}\n")
            with Proxy(embedded.serve(settings).port, faults) as proxy:
                yield proxy, path
        finally:
            embedded.stop(settings)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(home=tmp_path / "home", folder=tmp_path, env={"FOUNDRY_STORE_RETRY_S": "120"})
    assert commands.run("init", ".").code == 0
    commands.fetch("mnist_5k")
    yield commands
    commands.stop_services()


@pytest.mark.timeout(1500)
def test_a_minute_without_the_store_changes_nothing_but_the_time(proxy: tuple[Proxy, Path], user: Commands, faults: Faults) -> None:
    started_s = time.monotonic()
    unbroken = _run(user, _store_file(user, proxy, "unbroken"), lambda is_over: None)
    unbroken_s = time.monotonic() - started_s

    def silence(is_over: Callable[[], bool]) -> None:
        _await(lambda: is_over() or _is_training(proxy[0]), 3 * unbroken_s)
        with faults.outage():
            threading.Event().wait(_OUTAGE_S)

    broken = _run(user, _store_file(user, proxy, "broken"), silence)
    assert faults.num_struck > 0
    assert [(name, stage["status"]) for name, stage in broken.items()] == [(name, stage["status"]) for name, stage in unbroken.items()]
    assert [broken[name]["key"] for name in _MEASURED_NOWHERE] == [unbroken[name]["key"] for name in _MEASURED_NOWHERE]
    assert _learnt(broken["teacher"]) == _learnt(unbroken["teacher"])
    verified = user.run("store", "verify", "--store", user.folder / "broken.yaml", "--json")
    assert verified.code == 0, verified.stderr


def _is_training(proxy: Proxy) -> bool:
    return any(seen.key.startswith("broken/checkpoints/") for seen in tuple(proxy.seen))


def _store_file(user: Commands, proxy: tuple[Proxy, Path], name: str) -> Path:
    section = {"uri": f"s3://{embedded.BUCKET}/{name}", "endpoint": proxy[0].url, "region": "us-east-1", "credentials_file": str(proxy[1])}
    path = user.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(section))
    return path


def _run(user: Commands, store: Path, meanwhile: Callable[[Callable[[], bool]], None]) -> Stages:
    """One run to its end; `meanwhile` is told whether it is over."""
    settings = ("--set", "serve.enabled=false", "--set", "gates={accuracy_drop_points: 100}", "--keep")
    process = user.start("run", "pipeline.yaml", "--scale", "smoke", "--store", store, *settings)
    try:
        meanwhile(lambda: process.poll() is not None)
        assert process.wait(timeout=900) == 0, user.log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait(timeout=30)
    shown = user.run("runs", "show", "latest", "--store", store, "--json")
    assert shown.code == 0, shown.stderr
    return {stage["name"]: stage for stage in shown.document["stages"]}


def _await(condition: Callable[[], bool], at_most_s: float) -> None:
    deadline_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < deadline_s, f"nothing came within {at_most_s:.0f} s"
        time.sleep(0.05)


def _learnt(stage: dict[str, Any]) -> list[dict[str, float]]:
    return [{name: value for name, value in point.items() if name in _TAUGHT} for point in stage["outputs"]["curve"]]
