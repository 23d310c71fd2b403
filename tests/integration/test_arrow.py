"""The pyarrow view over real servers, by itself and as the storage of Ray Train."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as arrow_fs
import pytest

from foundry_ray.artifacts import embedded, open_store
from foundry_ray.artifacts.arrow import arrow_filesystem
from foundry_ray.config import ModelConfig, Settings, TeacherConfig, TrainConfig
from foundry_ray.errors import StoreUnavailable
from foundry_ray.protocols import ArtifactStore
from foundry_ray.runtime.session import Session
from foundry_ray.testing.accounts import Account
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.scratch import scratch_for

CHECKPOINT = "epoch 1, lr=[0.1]"


@pytest.fixture(scope="module")
def home() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as folder:
        settings = Settings(home=Path(folder), store_retry_s=20.0)
        yield settings
        embedded.stop(settings)


@pytest.fixture(params=["embedded", "moto", "file"])
def served(request: pytest.FixtureRequest, home: Settings, tmp_path: Path) -> tuple[ArtifactStore, bytes]:
    """A store, and the secret that leads to it."""
    if request.param == "file":
        return open_store((tmp_path / "store").as_uri(), settings=home), b"there is none"
    if request.param == "embedded":
        store = open_store("embedded", settings=home)
        return store, json.loads((home.home / "store" / "state.json").read_text())["secret_key"].encode()
    account: Account = request.getfixturevalue("account")
    return account.open(account.config(f"http://127.0.0.1:{account.port}")), b"hidden-secret"


def test_the_view_travels_without_secrets_and_does_all_that_arrow_asks(served: tuple[ArtifactStore, bytes], tmp_path: Path) -> None:
    store, secret = served
    pickled = pickle.dumps(arrow_filesystem(store))
    assert secret not in pickled
    view = pickle.loads(pickled)
    (tmp_path / "source" / "in").mkdir(parents=True)
    for name, data in {"a": b"", "in/b": b"2" * 100, "in/large, [1]": bytes(range(256)) * (80 << 10)}.items():
        (tmp_path / "source" / name).write_bytes(data)
    view.create_dir("view/there")
    arrow_fs.copy_files(str(tmp_path / "source"), "view/there", destination_filesystem=view)
    assert store.get("view/there/in/b") == b"2" * 100
    view.move("view/there/in", "view/moved")
    listed = view.get_file_info(arrow_fs.FileSelector("view", recursive=True))
    assert sorted(info.path for info in listed) == ["view/moved", "view/moved/b", "view/moved/large, [1]", "view/there", "view/there/a"]
    (tmp_path / "back").mkdir()
    arrow_fs.copy_files("view/moved", str(tmp_path / "back"), source_filesystem=view)
    assert (tmp_path / "back" / "large, [1]").read_bytes() == (tmp_path / "source" / "in" / "large, [1]").read_bytes()
    view.delete_dir("view")
    assert list(store.list("view/")) == []


def test_a_copy_to_a_server_that_is_gone_fails_aloud(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", store_retry_s=0.2)
    view = arrow_filesystem(open_store("embedded", settings=settings))
    embedded.stop(settings)
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(StoreUnavailable, match=r"embedded did not answer.*Gave up after"):
        arrow_fs.copy_files(str(tmp_path / "file"), "to", destination_filesystem=view)


def _report_once(config: dict[str, Any]) -> None:
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "reference.json").write_text('{"key": "checkpoints/k/1"}')
        is_last = ray.train.get_context().get_world_rank() == 1
        checkpoint = ray.train.Checkpoint.from_directory(folder) if is_last else None
        ray.train.report({"epoch": 1}, checkpoint=checkpoint, checkpoint_dir_name=CHECKPOINT)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # Ray warns about its own defaults
@pytest.mark.parametrize("served", ["embedded", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("moto", "file"))], indirect=True)
def test_two_workers_of_ray_train_keep_a_checkpoint_through_the_view(served: tuple[ArtifactStore, bytes], tmp_path: Path) -> None:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    store, _ = served
    scratch = scratch_for(store, tmp_path, is_here=False)
    result = TorchTrainer(
        _report_once,
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend="gloo"),
        run_config=ray.train.RunConfig(name="train-a", **scratch.storage(), logging_config=ray.train.LoggingConfig(log_level="CRITICAL")),
    ).fit()
    assert result.checkpoint.path == f"ray-train/train-a/{CHECKPOINT}"
    with result.checkpoint.as_directory() as folder:
        assert Path(folder, "reference.json").read_text() == '{"key": "checkpoints/k/1"}'
    assert not (tmp_path / "ray-train").exists()
    scratch.clear("train-a")
    assert list(store.list("ray-train/")) == []


class _Spread(Session):
    """A session whose nodes are said to be several machines."""

    def is_here(self) -> bool:
        return False


@pytest.mark.usefixtures("ray_session")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_the_teacher_of_a_cluster_leaves_nothing_of_rays(home: Settings, reporter: RecordingReporter, tmp_path: Path) -> None:
    from foundry_ray.testing.datasets import publish_bands
    from foundry_ray.training.trainer import fit

    store = open_store("embedded", settings=home)
    dead = "ray-train/train-dead/file"
    store.put(dead, b"of another stage")
    seen: list[str] = []
    reporter.report = lambda step, metrics: seen.extend(info.key for info in store.list("ray-train/"))  # type: ignore[method-assign]
    fit(
        TeacherConfig(
            model=ModelConfig(family="cnn", width=4, depth=1),
            train=TrainConfig(epochs=40, batch_size=32, precision="fp32"),
            workers=1,
            engine="deepspeed",
        ),
        task="image_classification",
        dataset=publish_bands(store, num_train=320),
        augment=(),
        seed=5,
        stage_key="k",
        store=store,
        settings=Settings(home=tmp_path / "driver"),
        reporter=reporter,
        session=_Spread(reporter=reporter, is_owner=False, started_head=False),
        export=lambda model: b"onnx",
        cost=lambda model: (0, 0),
    )
    assert any(key.endswith("/.validate_storage_marker") for key in seen)
    assert [info.key for info in store.list("ray-train/")] == [dead]
    assert not (tmp_path / "driver").exists()
