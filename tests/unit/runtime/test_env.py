"""What started processes see of the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from foundry_ray.config import Settings
from foundry_ray.runtime import env


def test_a_daemon_finds_this_python_first_and_no_token_of_another_cluster(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "other")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    child = env.child_env(settings, {"EXTRA": "1"})
    assert child["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert child["FOUNDRY_HOME"] == str(settings.home)
    assert child["EXTRA"] == "1"
    assert not {"RAY_AUTH_TOKEN", "RAY_ADDRESS"} & set(child)


def test_what_travels_to_another_machine_was_not_found_out_on_this_one() -> None:
    travels = env.portable_env()
    assert not {"DS_ACCELERATOR", "AWS_EC2_METADATA_DISABLED", "FOUNDRY_HOME", "PATH"} & set(travels)
    assert travels["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"
    assert travels.items() <= env.worker_env().items()


def test_a_token_path_wins_over_a_token_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"RAY_AUTH_TOKEN": "other", "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    monkeypatch.setattr(env.os, "environ", own)
    monkeypatch.setattr(env, "_refresh_ray", lambda is_loopback: None)
    env.apply_to_driver(token_path=Path("/home/token"), is_loopback=True)
    assert "RAY_AUTH_TOKEN" not in own
    assert (own["RAY_AUTH_MODE"], own["RAY_AUTH_TOKEN_PATH"]) == ("token", "/home/token")
    assert own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_inside_a_job_the_token_of_the_cluster_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"RAY_AUTH_TOKEN_PATH": "/cluster/token", "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    monkeypatch.setattr(env.os, "environ", own)
    env.apply_to_driver()
    assert own["RAY_AUTH_TOKEN_PATH"] == "/cluster/token"
    assert own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert own["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.2"


def test_mlflow_prints_nothing_and_gives_up_soon_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "9"}
    monkeypatch.setattr(env.os, "environ", own)
    env.apply_for_mlflow()
    assert own["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "9"
    assert own["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"


def test_deepspeed_takes_the_gpu_that_a_worker_was_given_and_not_that_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    env.apply_for_deepspeed("cpu")
    assert os.environ["LOCAL_RANK"] == "3"
    env.apply_for_deepspeed("cuda:1")
    assert os.environ["LOCAL_RANK"] == "1"
    env.apply_for_deepspeed("cuda")
    assert os.environ["LOCAL_RANK"] == "0"
