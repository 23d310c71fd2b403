"""Who stops the local services, and when."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from foundry_ray.artifacts import embedded
from foundry_ray.config import Settings, StoreConfig
from foundry_ray.context import Context, keep_services, stop_services
from foundry_ray.errors import ConfigError
from foundry_ray.planning import open_existing
from foundry_ray.runtime import local_head
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter

Command = Callable[[], Context]


class _Elsewhere:
    """A session with a cluster of other machines."""

    is_open = True

    def is_here(self) -> bool:
        return False

    def close(self) -> None:
        self.is_open = False


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The local services, as if they ran."""
    services = {"head", "store"}
    for name, module, stop in (("head", local_head, "down"), ("store", embedded, "stop")):
        monkeypatch.setattr(module, "status", lambda settings, name=name: name if name in services else None)
        monkeypatch.setattr(module, stop, lambda settings, name=name: services.discard(name))
    return services


@pytest.fixture
def command(settings: Settings, clock: FakeClock, reporter: RecordingReporter) -> Command:
    return lambda: Context(settings=settings, clock=clock, reporter=reporter)


def test_the_last_command_that_leaves_stops_the_services(running: set[str], command: Command) -> None:
    with command():
        with command():
            pass
        assert running == {"head", "store"}
    assert running == set()


def test_stopping_one_service_by_name_leaves_the_other_kept(running: set[str], command: Command, settings: Settings) -> None:
    keep_services(settings)
    stop_services(settings, head=False)
    with command():
        pass
    assert running == {"head"}
    stop_services(settings, store=False)
    assert running == set()
    assert not (settings.home / "keep").exists()


def test_a_plan_does_not_stop_the_store_under_a_run(running: set[str], command: Command, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    running.clear()
    (settings.home / "store" / "data").mkdir(parents=True)
    monkeypatch.setattr("foundry_ray.artifacts.open_store", lambda uri, settings: running.add("store"))
    with open_existing(StoreConfig(), settings):
        run = command().__enter__()
    assert running == {"store"}
    run.__exit__(None, None, None)
    assert running == set()


def test_a_cluster_of_other_machines_needs_a_store_that_they_reach(
    settings: Settings, clock: FakeClock, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _Elsewhere()
    monkeypatch.setattr("foundry_ray.runtime.session.connect", lambda *args, **options: session)
    monkeypatch.setattr("foundry_ray.artifacts.open_store", lambda store, settings: store.uri)
    folder, here, unused = (
        Context(settings=settings, clock=clock, reporter=reporter, store_config=StoreConfig(uri=uri)) for uri in ("file:///x", "embedded", "embedded")
    )
    assert (unused.session.is_open, folder.store, here.store) == (True, "file:///x", "embedded")
    assert folder.session.is_open
    assert reporter.warnings == ["the store is file:///x, and the cluster has other machines: each of them must mount that folder."]
    with pytest.raises(ConfigError, match=r"embedded, which only this machine has.*--store s3://bucket/prefix"):
        _ = here.session
    assert not session.is_open
