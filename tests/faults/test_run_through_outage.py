"""A whole run behind a proxy whose store is silent for a minute in the middle: later than the unbroken run, and otherwise the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundry_ray.config import StoreConfig
from foundry_ray.testing.commands import Commands
from foundry_ray.testing.faults import Faults
from foundry_ray.testing.proxy import Proxy
from foundry_ray.testing.served import Served, served

_OUTAGE_S = 60.0
_TAUGHT = ("loss", "val_loss", "accuracy", "lr")
_MEASURED_NOWHERE = ("data", "teacher", "search")  # which trial is chosen hangs on latencies, and so on the minute
Stages = dict[str, dict[str, Any]]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Served]:
    if request.config.getoption("--moments") != "all":
        pytest.skip("two whole runs and a minute of silence: only with --moments all")
    with served() as server:
        yield server


@pytest.fixture
def proxy(server: Served, faults: Faults) -> Iterator[Proxy]:
    with Proxy(server.port, faults) as proxy:
        yield proxy


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(home=tmp_path / "home", folder=tmp_path, env={"FOUNDRY_STORE_RETRY_S": "120"})
    assert commands.run("init", ".").code == 0
    commands.fetch("mnist_5k")
    yield commands
    commands.stop_services()


@pytest.mark.timeout(1500)
def test_a_minute_without_the_store_changes_nothing_but_the_time(server: Served, proxy: Proxy, user: Commands, faults: Faults) -> None:
    unbroken = _run(user, _store_file(user, server.config(proxy.url, "unbroken")), lambda is_over: None)

    def silence(is_over: Callable[[], bool]) -> None:
        _await(lambda: is_over() or _is_training(proxy), at_most_s=600)
        with faults.outage():
            threading.Event().wait(_OUTAGE_S)

    broken = _run(user, _store_file(user, server.config(proxy.url, "broken")), silence)
    assert faults.num_struck > 0
    assert [(name, stage["status"]) for name, stage in broken.items()] == [(name, stage["status"]) for name, stage in unbroken.items()]
    assert [broken[name]["key"] for name in _MEASURED_NOWHERE] == [unbroken[name]["key"] for name in _MEASURED_NOWHERE]
    assert _learnt(broken["teacher"]) == _learnt(unbroken["teacher"])
    verified = user.run("store", "verify", "--store", user.folder / "broken.yaml", "--json")
    assert verified.code == 0, verified.stderr


def _is_training(proxy: Proxy) -> bool:
    return any(seen.key.startswith("broken/checkpoints/") for seen in tuple(proxy.seen))


def _store_file(user: Commands, config: StoreConfig) -> Path:
    path = user.folder / f"{config.uri.rpartition('/')[2]}.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", include={"uri", "endpoint", "region", "credentials_file"})))
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


def _await(condition: Callable[[], bool], *, at_most_s: float) -> None:
    deadline_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < deadline_s, f"nothing came within {at_most_s:.0f} s"
        time.sleep(0.05)


def _learnt(stage: dict[str, Any]) -> list[dict[str, float]]:
    return [{name: value for name, value in point.items() if name in _TAUGHT} for point in stage["outputs"]["curve"]]
