"""What becomes of a training on two workers when something breaks, compared with the unbroken run.

At equal numbers of workers the weights are the same bits. Where the shape changes (memory, other numbers of workers) sums are made in another
order: after all steps the losses of the epochs agree to 1e-3 of their value.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from foundry_ray.artifacts import open_store
from foundry_ray.artifacts.manifests import read_file
from foundry_ray.config import CheckpointConfig, DeepSpeedConfig, ModelConfig, Settings, StoreConfig, TeacherConfig, TrainConfig
from foundry_ray.errors import Diverged
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runtime.session import Session
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.faults import Faults
from foundry_ray.testing.proxy import Proxy
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.served import served
from foundry_ray.testing.troubled import FACTORY, process_of
from foundry_ray.training import checkpoint as checkpoints
from foundry_ray.training.trainer import fit
from foundry_ray.types import ModelArtifact

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray warns about its own defaults
    pytest.mark.timeout(600),
]
EPOCHS, STEPS = 12, 10
OUTAGE_S = 20.0
TRAIN = TrainConfig(epochs=EPOCHS, batch_size=32, lr=5e-3, precision="fp32", ema_decay=0.9)
PLAIN = TRAIN.model_copy(update={"batch_size": 36, "dropout": 0.0})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`stage` and `workers`: of the group that goes on with what two workers have begun. `way`: how a node goes."""
    is_all = metafunc.config.getoption("--moments") == "all"
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", ["drain", "kill"] if is_all else ["drain"])
    if "stage" in metafunc.fixturenames:
        cases = [(stage, workers) for stage in range(4) for workers in (1, 3)] if is_all else [(2, 1), (3, 3)]
        metafunc.parametrize(("stage", "workers"), cases)


@dataclass
class Striking(RecordingReporter):
    """Does something as soon as a step is heard of, once."""

    at_step: int = EPOCHS * STEPS + 1
    strike: Callable[[], None] = lambda: None
    has_struck: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def begun_at(self) -> list[int]:
        """The steps at which groups began."""
        return [step for step, values in self.points if "start_s" in values]

    def progress(self, done: float, total: float, note: str = "") -> None:
        super().progress(done, total, note)
        if done >= self.at_step and not self.has_struck:
            self.has_struck = True
            self.strike()


@dataclass(frozen=True)
class Site:
    """A store, a folder for process ids, and a training under one key in it."""

    store: ArtifactStore
    folder: Path
    settings: Settings

    @property
    def last_step(self) -> int:
        """Of the newest checkpoint."""
        last = checkpoints.latest(self.store, "k")
        return last.step if last else 0

    def kill(self, rank: int) -> None:
        os.kill(process_of(self.folder, rank), signal.SIGKILL)

    def weights(self, model: ModelArtifact) -> bytes:
        return read_file(self.store, model.artifact.key, "model.safetensors")

    def train(self, reporter: RecordingReporter, *, params: Mapping[str, object] | None = None, **fields: object) -> ModelArtifact:
        known = {"folder": str(self.folder), "pause_s": 0.05, **(params or {})}
        config = TeacherConfig(
            model=ModelConfig.model_validate({"family": FACTORY, "params": known}),
            train=TRAIN,
            workers=2,
            checkpoint=CheckpointConfig(every_steps=20),
            deepspeed=DeepSpeedConfig(zero_stage=1),
        ).model_copy(update=fields)
        return fit(
            config,
            task="image_classification",
            dataset=publish_bands(self.store, num_train=32 * STEPS),
            augment=("shift",),
            seed=5,
            stage_key="k",
            store=self.store,
            settings=self.settings,
            reporter=reporter,
            session=Session(reporter=reporter, is_owner=False, started_head=False),
            export=None,
            cost=lambda model: (1, 1),
        )


def _site(folder: Path, uri: str | StoreConfig | None = None) -> Site:
    settings = Settings(home=folder / "home", store_retry_s=60.0)
    return Site(open_store(uri or f"file://{folder}/store", settings=settings), folder / "ranks", settings)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return _site(tmp_path)


@dataclass(frozen=True)
class Unbroken:
    """What came of the same training when nothing happened."""

    weights: bytes
    curve: tuple[Mapping[str, float], ...]
    took_s: float


@pytest.fixture(scope="module")
def unbroken(ray_session: object, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    site, started_s = _site(tmp_path_factory.mktemp("unbroken")), time.monotonic()
    model = site.train(RecordingReporter())
    return Unbroken(site.weights(model), model.curve, time.monotonic() - started_s)


@pytest.fixture(scope="module")
def plain(ray_session: object, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """The same for batches that three workers can share, and without dropout, whose masks hang on who computes what."""
    site = _site(tmp_path_factory.mktemp("plain"))
    model = site.train(RecordingReporter(), train=PLAIN)
    return Unbroken(site.weights(model), model.curve, 0.0)


def _learnt(curve: tuple[Mapping[str, float], ...]) -> list[dict[str, float]]:
    return [{name: point[name] for name in ("loss", "val_loss", "accuracy", "lr")} for point in curve]


def _agree(model: ModelArtifact, unbroken: Unbroken) -> bool:
    """Within 1e-3 of the value, or 1e-5 where it is nearly nothing."""
    pairs = zip(_learnt(model.curve), _learnt(unbroken.curve), strict=True)
    return all(mine[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5) for mine, other in pairs for name in mine)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint_and_no_bit(site: Site, unbroken: Unbroken, moment: float, rank: int) -> None:
    reporter, saved = Striking(at_step=20 + int(moment * 60)), []

    def strike() -> None:
        saved.append(site.last_step)
        site.kill(rank)

    reporter.strike = strike
    started_s = time.monotonic()
    model = site.train(reporter)
    print(f"a kill -9 of rank {rank} cost {time.monotonic() - started_s - unbroken.took_s:.1f} s")
    assert site.weights(model) == unbroken.weights
    assert _learnt(model.curve) == _learnt(unbroken.curve)
    first, second = reporter.begun_at
    assert first == 0 < saved[0] <= second, "it went on from an older checkpoint than there was"
    assert [epoch for epoch, _ in reporter.reports] == list(range(1, EPOCHS + 1))
    assert [warning for warning in reporter.warnings if "died" in warning and "restarting from the last checkpoint (1 of 3)" in warning]
    assert len(reporter.warnings) == 1


@pytest.fixture
def short() -> Iterator[str]:
    """A folder for Ray, whose sockets have room for 107 characters."""
    with tempfile.TemporaryDirectory(prefix="fr", dir="/tmp") as folder:
        yield folder


def test_a_whole_ray_session_that_is_killed_with_its_driver_costs_no_bit(site: Site, unbroken: Unbroken, moment: float, short: str) -> None:
    driver = subprocess.Popen([sys.executable, __file__, str(site.folder.parent), short], env={**os.environ, "PYTHONWARNINGS": "ignore"})
    try:
        deadline_s = time.monotonic() + 120
        while site.last_step < 20 + int(moment * 60):
            assert driver.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline_s, "it has not come so far"
            time.sleep(0.05)
    finally:
        for process in [*psutil.Process(driver.pid).children(recursive=True), driver]:
            process.kill()
        driver.wait(timeout=30)
    saved, reporter = site.last_step, Striking()
    model = site.train(reporter)
    assert site.weights(model) == unbroken.weights
    assert _learnt(model.curve) == _learnt(unbroken.curve)
    assert reporter.begun_at == [saved]


def test_memory_that_does_not_suffice_trains_the_same_batches_in_smaller_passes(site: Site, plain: Unbroken) -> None:
    reporter = RecordingReporter()
    model = site.train(reporter, train=PLAIN, params={"trouble": "out_of_memory", "most_rows": 9, "pause_s": 0.0})
    assert "now 2 workers x 9 samples x 2 passes, ZeRO 1, the same batch of 36; restarting from the last checkpoint (1 of 8)" in reporter.warnings[0]
    assert model.notes == ("memory was short: trained as 2 workers x 9 samples x 2 passes, ZeRO 1, the batch as configured",)
    assert _agree(model, plain)


def test_a_loss_that_is_no_number_stops_at_its_step_and_leaves_the_checkpoints_before_it(site: Site, unbroken: Unbroken) -> None:
    with pytest.raises(Diverged, match="the loss at step 77 is nan") as caught:
        site.train(RecordingReporter(), params={"trouble": "nan", "at_pass": 77, "rank": 1})
    assert caught.value.facts["step"] == 77
    last = checkpoints.latest(site.store, "k")
    assert last is not None
    assert 0 < last.step <= 77
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoints.assemble(site.store, last).values())
    model = site.train(RecordingReporter())
    assert site.weights(model) == unbroken.weights, "it goes on from there once the cause is mended"


def test_a_store_that_is_silent_for_a_while_changes_nothing(unbroken: Unbroken, tmp_path: Path) -> None:
    faults, silence = Faults(), ExitStack()

    def strike() -> None:
        silence.enter_context(faults.outage())
        threading.Timer(OUTAGE_S, silence.close).start()

    with served() as server, Proxy(server.port, faults) as proxy:
        site = _site(tmp_path, server.config(proxy.url, "training"))
        reporter = Striking(at_step=40, strike=strike)
        model = site.train(reporter)
        assert faults.num_struck > 0
        assert site.weights(model) == unbroken.weights
    assert _learnt(model.curve) == _learnt(unbroken.curve)
    assert [epoch for epoch, _ in reporter.reports] == list(range(1, EPOCHS + 1))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk needs `mount`: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_checkpoints_and_no_training(small_disk: Path, unbroken: Unbroken, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    site = Site(open_store(f"file://{small_disk}/store", settings=settings), tmp_path / "ranks", settings)
    ballast = small_disk / "ballast"

    def fill() -> None:
        with suppress(OSError), ballast.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        threading.Timer(OUTAGE_S / 2, ballast.unlink).start()

    reporter = Striking(at_step=40, strike=fill)
    model = site.train(reporter)
    assert site.weights(model) == unbroken.weights
    assert _learnt(model.curve) == _learnt(unbroken.curve)
    assert any("is not saved" in warning and "No space left" in warning for warning in reporter.warnings)
    assert not any("restarting" in warning for warning in reporter.warnings)


class Interrupted(BaseException):
    """As a Ctrl-C: the driver leaves."""


def test_what_two_workers_have_begun_others_finish(site: Site, plain: Unbroken, stage: int, workers: int) -> None:
    def strike() -> None:
        raise Interrupted

    known = {"train": PLAIN, "deepspeed": DeepSpeedConfig(zero_stage=stage), "engine": "deepspeed"}
    with pytest.raises(Interrupted):
        site.train(Striking(at_step=20, strike=strike), **known)
    stopped = checkpoints.latest(site.store, "k")
    assert stopped is not None
    assert stopped.world_size == 2
    reporter = RecordingReporter()
    model = site.train(reporter, workers=workers, cpus_per_worker=0.5, params={"pause_s": 0.0}, **known)
    last = checkpoints.latest(site.store, "k")
    assert last is not None
    assert last.world_size == workers
    assert [step for step, values in reporter.points if "start_s" in values] == [stopped.step]
    assert _agree(model, plain)


def test_a_group_shrinks_when_its_node_goes_and_grows_when_one_comes(tmp_path: Path, way: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name("_small_cluster.py")), str(tmp_path), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    first, second, third = told["begun_at"]
    lost_at, _ = told["struck_at"]
    assert first == 0
    assert second >= (lost_at if way == "drain" else 40), "what was announced costs no step, a blow those since the last checkpoint"
    assert third > second
    shrunk, grown = told["warnings"]
    assert ("a node of the group is to be taken away" if way == "drain" else "a node is lost") in shrunk
    assert shrunk.endswith("restarting from the last checkpoint (1 of 100).")
    assert "more workers fit now" in grown
    assert told["epochs"] == list(range(1, 26))
    assert told["last_world_size"] == 2
    assert told["accuracy"] > 0.9


def _drive(folder: Path, short: str) -> None:
    """A driver in a process of its own, with its own Ray, which trains until it is killed."""
    import ray

    from foundry_ray.runtime.env import worker_env

    os.environ.update({**worker_env(), "RAY_AUTH_MODE": "disabled"})
    options = {"include_dashboard": True, "dashboard_port": 0, "log_to_driver": False, "object_store_memory": 200 << 20, "_temp_dir": short}
    ray.init(address="local", num_cpus=2, **options)
    _site(folder).train(RecordingReporter())


if __name__ == "__main__":
    _drive(Path(sys.argv[1]), sys.argv[2])
