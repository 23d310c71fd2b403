"""What looks after a store does so on a real server: verification, usage, and the move of a run from a folder to S3 and back."""

from __future__ import annotations

from pathlib import Path

from foundry_ray.artifacts.local import LocalStore
from foundry_ray.config import RetentionConfig
from foundry_ray.housekeeping.exporting import export_run
from foundry_ray.housekeeping.importing import import_run
from foundry_ray.housekeeping.usage import measure_usage
from foundry_ray.housekeeping.verify import check_store
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing.accounts import Account
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stored_runs import RUN_ID, store_run


def _bucket(account: Account) -> ArtifactStore:
    return account.open(account.config(f"http://127.0.0.1:{account.port}"))


def test_a_run_moves_from_a_folder_to_a_bucket_and_back(account: Account, tmp_path: Path, reporter: RecordingReporter) -> None:
    folder, bucket = LocalStore(tmp_path / "store"), _bucket(account)
    store_run(folder, clock=FakeClock())
    kept = RetentionConfig(checkpoints="all", trials="all")
    export_run(folder, RUN_ID, tmp_path / "there.tar.gz", checkpoints=kept, reporter=reporter)
    import_run(bucket, tmp_path / "there.tar.gz", max_bytes=1 << 30, scratch=tmp_path / "scratch", reporter=reporter)
    assert check_store(bucket, deep=True, reporter=reporter).is_sound
    export_run(bucket, RUN_ID, tmp_path / "back.tar.gz", checkpoints=kept, reporter=reporter)
    assert (tmp_path / "back.tar.gz").read_bytes() == (tmp_path / "there.tar.gz").read_bytes()


def test_a_bucket_is_measured_and_verified(account: Account, reporter: RecordingReporter) -> None:
    bucket = _bucket(account)
    store_run(bucket, clock=FakeClock())
    usage = measure_usage(bucket)
    assert (usage.num_objects, usage.size_bytes) == (sum(1 for _ in bucket.list("")), sum(info.size_bytes for info in bucket.list("")))
    blob = next(info for info in bucket.list("blobs/") if info.size_bytes == 9)
    bucket.put(blob.key, b"x" * 9)
    [problem] = check_store(bucket, deep=True, reporter=reporter).problems
    assert (problem.kind, problem.key) == ("corrupt", blob.key)
