"""Which cluster a pipeline means."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundry_ray.config import Settings
from foundry_ray.errors import ClusterDenied, ConfigError, OutOfRange, UnknownKey
from foundry_ray.runtime.place import locate
from foundry_ray.testing.reporters import RecordingReporter


def test_local_and_addresses_are_taken_as_they_are(settings: Settings, reporter: RecordingReporter) -> None:
    assert locate("local", settings, reporter).address == "local"
    assert locate("10.0.0.5:6379", settings, reporter).address == "10.0.0.5:6379"
    assert locate("auto", settings, reporter).address == "auto"


def test_a_job_uses_the_cluster_it_runs_on_and_says_so(settings: Settings, reporter: RecordingReporter) -> None:
    inside = settings.model_copy(update={"is_inside_job": True, "ray_address": "10.0.0.1:6379"})
    place = locate("10.0.0.5:6379", inside, reporter)
    assert (place.address, place.is_inside_job) == ("10.0.0.1:6379", True)
    assert reporter.warnings == ["cluster: 10.0.0.5:6379 is ignored: this run is a job, and uses the cluster that it was submitted to."]
    assert locate("local", inside, RecordingReporter()).address == "10.0.0.1:6379"


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001"])
def test_a_dashboard_url_points_at_submit(address: str, settings: Settings, reporter: RecordingReporter) -> None:
    with pytest.raises(ConfigError, match="wanted local, auto, host:port") as caught:
        locate(address, settings, reporter)
    assert "foundry submit" in caught.value.hint


def test_a_cluster_file_sizes_the_local_head(settings: Settings, reporter: RecordingReporter, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("num_cpus: 1\nobject_store_bytes: 100000000\n")
    place = locate(str(path), settings, reporter)
    assert (place.address, place.options.num_cpus, place.options.object_store_bytes) == ("local", 1, 100_000_000)


def test_a_cluster_file_may_hold_an_address(settings: Settings, reporter: RecordingReporter, tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text("address: lab:6379\n")
    assert locate(str(path), settings, reporter).address == "lab:6379"
    path.write_text("address: lab\n")
    with pytest.raises(ConfigError, match="address is 'lab', wanted local, auto or host:port"):
        locate(str(path), settings, reporter)


def test_wrong_cluster_files_say_what_is_wrong(settings: Settings, reporter: RecordingReporter, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("num_cpu: 1\n")
    with pytest.raises(UnknownKey, match="num_cpu is no key") as caught:
        locate(str(path), settings, reporter)
    assert "num_cpus" in caught.value.hint
    path.write_text("num_cpus: 0\n")
    with pytest.raises(OutOfRange, match="num_cpus is 0"):
        locate(str(path), settings, reporter)
    path.write_text("apiVersion: ray.io/v1\n")
    with pytest.raises(ConfigError, match="is a Kubernetes manifest"):
        locate(str(path), settings, reporter)
    with pytest.raises(ConfigError, match="cluster is 'nowhere', which is neither a file nor one of the shipped"):
        locate("nowhere", settings, reporter)


def test_a_token_file_that_is_missing_is_named(settings: Settings, reporter: RecordingReporter, tmp_path: Path) -> None:
    lost = settings.model_copy(update={"token_path": tmp_path / "lost"})
    with pytest.raises(ClusterDenied, match=r"The token file .*lost does not exist"):
        locate("lab:6379", lost, reporter)
