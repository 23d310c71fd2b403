"""What one application serves and how: the one value that deployer, replica and `endpoints` share.

It holds where the model lies and never credentials; the replica opens the store where it runs. Two equal specs are one deployment.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from foundry_ray.compression.runtime import runtime_of
from foundry_ray.config import Section, ServeConfig, Settings, StoreConfig, StoreField
from foundry_ray.protocols import ArtifactStore
from foundry_ray.types import RegistryEntry


class ReplicaSpec(Section):
    """A deployed version, as JSON in Serve's `user_config`."""

    name: str = Field(description="Registered name; also that of the application and its route.")
    version: int = Field(ge=1, description="Registered version.")
    model: str = Field(description="Key of the model's manifest in the store.")
    store: StoreField = Field(description="The store, without credentials.")
    home: str = Field(description="FOUNDRY_HOME on the machines of the cluster.")
    threads: int = Field(1, ge=1, le=256, description="Threads inside one operator.")
    num_replicas: int = Field(1, ge=1, le=4096, description="Replicas.")
    cpus_per_replica: float = Field(0.0, ge=0, le=256, description="CPUs that each replica reserves.")
    max_ongoing_requests: int = Field(100, ge=1, description="Requests in flight per replica.")
    batch_size: int = Field(32, ge=1, le=4096, description="Most queued requests that one forward pass takes.")
    signed: bool = Field(False, description="Whether the deployer checked a signature; each replica must then, with a key of its own environment.")


def spec_of(entry: RegistryEntry, config: ServeConfig, *, store: StoreConfig, settings: Settings, signed: bool = False) -> ReplicaSpec:
    """The spec that serves this registered version as `config` says."""
    return ReplicaSpec(
        name=entry.name,
        version=entry.version,
        model=entry.model.artifact.key,
        store=store,
        home=str(settings.home),
        threads=config.threads or runtime_of(entry.model.recipe).threads or 1,
        num_replicas=config.num_replicas,
        cpus_per_replica=config.cpus_per_replica,
        max_ongoing_requests=config.max_ongoing_requests,
        batch_size=config.batch_size,
        signed=signed,
    )


def open_spec_store(spec: ReplicaSpec) -> ArtifactStore:
    """The store of a spec, opened with this machine's credentials. Raises StoreUnavailable or StoreDenied."""
    from foundry_ray.artifacts import open_store

    return open_store(spec.store, settings=Settings(home=Path(spec.home)), probe=False)
