"""Shared fixtures. Markers come from the folder: tests/integration -> integration, and so on."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundry_ray.config import Settings
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore

# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_FOLDER_MARKERS = ("integration", "faults", "e2e", "gpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--moments", default="few", choices=("few", "all"), help="Fault tests: a few seeded moments, or all of them.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A fault test that asks for `moment` gets seeded shares of the stage's time at which to strike."""
    if "moment" in metafunc.fixturenames:
        metafunc.parametrize("moment", (0.5,) if metafunc.config.getoption("--moments") == "few" else (0.1, 0.3, 0.5, 0.7, 0.9))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in _FOLDER_MARKERS:
            item.add_marker(folder)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def memory_store(store: MemoryStore) -> MemoryStore:
    return store


@pytest.fixture
def reporter() -> RecordingReporter:
    return RecordingReporter()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[object]:
    """One Ray session for all integration tests of a process."""
    import ray

    from foundry_ray.runtime.env import worker_env

    with tempfile.TemporaryDirectory(prefix="fr", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in {**worker_env(), "RAY_AUTH_MODE": "disabled"}.items():
            patch.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=True,
            dashboard_port=0,
            log_to_driver=False,
            object_store_memory=200 << 20,
            _temp_dir=folder,
        )
        yield ray
        ray.shutdown()
