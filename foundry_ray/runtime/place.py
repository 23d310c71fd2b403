"""Which cluster is meant: turns `cluster:` of a pipeline, the environment and cluster files into one address.

Decides nothing about Ray's behaviour and imports none of it; `session` connects to what comes out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from foundry_ray import assets
from foundry_ray.config import Section, Settings, read_yaml, validate
from foundry_ray.errors import ClusterDenied, ConfigError
from foundry_ray.protocols import Reporter
from foundry_ray.runtime.local_head import HeadOptions

LOCAL = "local"
AUTO = "auto"
_ADDRESS = re.compile(r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$")


class ClusterFile(Section):
    """A file of cluster/ that `cluster:` may name."""

    address: str = Field(LOCAL, description="local (foundry starts a head), auto (a head of this machine), or host:port of a GCS.")
    num_cpus: int | None = Field(None, ge=1, le=4096, description="CPUs that the local head offers; all where absent.")
    num_gpus: int | None = Field(None, ge=0, le=1024, description="GPUs that the local head offers; all where absent.")
    object_store_bytes: int = Field(1 << 30, ge=80 << 20, description="Memory of the local head's object store.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to connect. `address` is `local`, `auto` or host:port."""

    address: str
    options: HeadOptions = field(default_factory=HeadOptions)
    token_path: Path | None = None
    is_inside_job: bool = False


def locate(cluster: str, settings: Settings, reporter: Reporter) -> Place:
    """The cluster that this process is to use.

    A process that a cluster started as a job uses that cluster, whatever the pipeline says.

    Raises:
        ConfigError: A URL of another kind, or a file that is none of ours.
        ClusterDenied: The token file is missing.
    """
    if settings.is_inside_job:
        if cluster not in (LOCAL, AUTO, settings.ray_address):
            reporter.warn(f"cluster: {cluster} is ignored: this run is a job, and uses the cluster that it was submitted to.")
        return Place(address=settings.ray_address or AUTO, is_inside_job=True)
    if cluster == LOCAL:
        return Place(address=LOCAL)
    if cluster == AUTO or _ADDRESS.match(cluster):
        return Place(address=settings.ray_address or AUTO if cluster == AUTO else cluster, token_path=checked_token_path(settings))
    if "://" in cluster:
        raise ConfigError(
            f"cluster is {cluster.rpartition('@')[2]!r}, wanted local, auto, host:port of a GCS, or a file of cluster/.",
            hint="a pipeline reaches a dashboard's URL as a job: `foundry submit PIPELINE --address URL`.",
        )
    return _from_file(cluster, settings, reporter)


def checked_token_path(settings: Settings) -> Path | None:
    """The token file that the user named, if any. Raises ClusterDenied where it cannot be read."""
    path = settings.token_path
    if path is not None and not path.is_file():
        raise ClusterDenied(f"The token file {path} does not exist.", hint="set FOUNDRY_TOKEN_PATH to the file that holds the cluster's token.")
    return path


def _from_file(cluster: str, settings: Settings, reporter: Reporter) -> Place:
    path = assets.find("cluster", cluster, key="cluster")
    document = read_yaml(path)
    if "apiVersion" in document:
        raise ConfigError(f"{path} is a Kubernetes manifest, wanted a cluster file.", hint=f"`kubectl apply -f {path}` runs the pipeline there.")
    found = validate(ClusterFile, document, where=str(path))
    if found.address == LOCAL:
        options = HeadOptions(num_cpus=found.num_cpus, num_gpus=found.num_gpus, object_store_bytes=found.object_store_bytes)
        return Place(address=LOCAL, options=options)
    if found.address != AUTO and not _ADDRESS.match(found.address):
        raise ConfigError(f"{path}: address is {found.address!r}, wanted local, auto or host:port of a GCS.", hint="for example `10.0.0.5:6379`.")
    return locate(found.address, settings, reporter)
