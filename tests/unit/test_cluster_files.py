"""The shipped files of cluster/ are what the systems that read them expect, agree with each other, and hold no secret."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundry_ray.config import validate
from foundry_ray.runtime.place import ClusterFile

_CLUSTER = Path(__file__).parents[2] / "cluster"
_RAYJOB_FIELDS = {
    *("submissionMode", "entrypoint", "runtimeEnvYAML", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"),
    *("activeDeadlineSeconds", "backoffLimit", "submitterPodTemplate", "rayClusterSpec"),
}
_POD_FIELDS = {"containers", "volumes", "restartPolicy"}
_CONTAINER_FIELDS = {"name", "image", "ports", "env", "envFrom", "resources", "volumeMounts"}


def _load(name: str) -> Any:
    return yaml.safe_load((_CLUSTER / name).read_text())


@pytest.fixture
def job() -> Any:
    return _load("kuberay/rayjob.yaml")


def _pods(job: Any) -> dict[str, Any]:
    cluster = job["spec"]["rayClusterSpec"]
    workers = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    return {"submitter": job["spec"]["submitterPodTemplate"]["spec"], "head": cluster["headGroupSpec"]["template"]["spec"], **workers}


def _containers(job: Any) -> list[Any]:
    return [container for pod in _pods(job).values() for container in pod["containers"]]


def test_the_local_file_is_a_valid_cluster_file() -> None:
    assert validate(ClusterFile, _load("local.yaml"), where="local.yaml").address == "local"


def test_the_rayjob_has_the_fields_of_version_1_and_no_others(job: Any) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    assert set(job["spec"]) == _RAYJOB_FIELDS
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["submissionMode"] in {"K8sJobMode", "HTTPMode", "SidecarMode"}
    assert all(isinstance(job["spec"][name], int) for name in ("ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit"))


def test_the_cluster_of_the_rayjob_has_a_head_and_workers_with_token_auth(job: Any) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["authOptions"] == {"mode": "token"}
    assert all(isinstance(value, str) for value in cluster["headGroupSpec"]["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert set(group) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_pods_have_only_fields_of_pods_and_bounded_resources(job: Any) -> None:
    for name, pod in _pods(job).items():
        assert set(pod) <= _POD_FIELDS, name
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            assert set(container) <= _CONTAINER_FIELDS, name
            assert set(container["resources"]) == {"requests", "limits"}
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


def test_ray_in_the_manifest_is_the_pinned_one(job: Any) -> None:
    pins = (_CLUSTER.parent / "constraints.txt").read_text()
    assert f"ray=={job['spec']['rayClusterSpec']['rayVersion']}" in pins.replace("[default,serve,train,tune]", "")


def test_the_entrypoint_is_a_command_of_ours_with_a_store_that_pods_reach(job: Any) -> None:
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "foundry_ray.cli", "run"]
    assert words[words.index("--store") + 1].startswith("s3://")
    mounts = {mount["mountPath"] for container in _pods(job)["head"]["containers"] for mount in container["volumeMounts"]}
    assert str(Path(words[4]).parent) in mounts
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"]) == {"env_vars": {"FOUNDRY_JOB": "1"}}


def test_store_credentials_come_from_a_secret_on_every_ray_node(job: Any) -> None:
    ray_pods = {name: pod for name, pod in _pods(job).items() if name != "submitter"}
    assert all({"secretRef": {"name": "foundry-store"}} in pod["containers"][0]["envFrom"] for pod in ray_pods.values())
    text = "\n".join(path.read_text() for path in _CLUSTER.rglob("*.yaml"))
    assert not re.search(r"(AKIA|ASIA)[A-Z0-9]{16}|://[^/\s]+:[^/\s]+@", text)
    names = {variable["name"] for container in _containers(job) for variable in container.get("env", ())}
    assert names == {"AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"}


def test_the_home_is_the_images_where_its_data_sets_lie(job: Any) -> None:
    assert "FOUNDRY_HOME=/home/foundry/.foundry" in (_CLUSTER / "container" / "Dockerfile").read_text()
    assert all(variable["name"] != "FOUNDRY_HOME" for container in _containers(job) for variable in container.get("env", ()))


def test_all_files_name_one_image(job: Any) -> None:
    images = {container["image"] for container in _containers(job)} | {_load("launcher.example.yaml")["docker"]["image"]}
    assert len(images) == 1
    assert f"-t {images.pop()} " in (_CLUSTER / "container" / "Dockerfile").read_text()


def test_the_launcher_file_passes_rays_own_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    ray = find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    launcher = _load("launcher.example.yaml")
    jsonschema.validate(launcher, schema)
    assert launcher["head_node_type"] in launcher["available_node_types"]
    assert sum(kind.get("max_workers", 0) for kind in launcher["available_node_types"].values()) <= launcher["max_workers"]


def test_the_dockerfile_installs_the_wheel_under_the_pins_and_not_as_root() -> None:
    lines = (_CLUSTER / "container" / "Dockerfile").read_text()
    assert "--constraint /tmp/install/constraints.txt" in lines
    assert lines.index("USER foundry") > lines.index("pip install")


def test_the_readme_names_every_file_that_is_there() -> None:
    readme = (_CLUSTER / "README.md").read_text()
    files = [path.relative_to(_CLUSTER).as_posix() for path in _CLUSTER.rglob("*") if path.is_file() and path.name != "README.md"]
    assert all(f"`{name}`" in readme for name in files)
