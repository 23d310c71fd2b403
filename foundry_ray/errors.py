"""Every error that foundry raises on purpose: one tree, each leaf with an exit code.

    FoundryError                       message = what, got, wanted; hint = the next command or key
      ConfigError            exit 2    UnknownKey, OutOfRange, SearchSpaceError
      ClusterError           exit 4    ClusterUnreachable, ClusterDenied, ResourcesUnavailable (exit 2), NoSuchJob (exit 2)
      DataError              exit 2    BadRecord, FingerprintMismatch
      TrainingError          exit 5    WorkerGroupFailed, Preempted, Diverged
      SearchError            exit 5    NoFeasibleTrial (exit 3)
      CompressionError       exit 5    RecipeInfeasible (exit 2), ParityFailed
      StoreError             exit 5    ArtifactNotFound (exit 2), ArtifactCorrupt, StoreUnavailable (exit 4), StoreDenied (exit 4), Conflict,
                                       SignatureInvalid
      ServingError           exit 5    DeployTimeout (exit 4), ReplicaUnhealthy, RolloutRejected (exit 3)

An error carries its facts as attributes and survives pickling, because it crosses Ray actors. A gate that fails is a result
and not an exception.
"""

from __future__ import annotations

from typing import ClassVar


def _rebuild(cls: type[FoundryError], message: str, hint: str, facts: dict[str, object]) -> FoundryError:
    return cls(message, hint=hint, **facts)


class FoundryError(Exception):
    """Base of all errors that a user can act on.

    Args:
        message: What happened, what was got, what was wanted. One sentence.
        hint: The next command or key that mends it; empty only where nothing can be said.
        facts: The fields that the subclass names in `fields`; each becomes an attribute (None where not given).
    """

    exit_code: ClassVar[int] = 5
    retryable: ClassVar[bool] = False
    fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str, *, hint: str = "", **facts: object) -> None:
        unknown = set(facts) - set(self.fields)
        assert not unknown, f"{type(self).__name__} has no fields {sorted(unknown)}"
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts
        for name in self.fields:
            setattr(self, name, facts.get(name))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.facts)

    def __str__(self) -> str:
        return f"{self.message} Hint: {self.hint}" if self.hint else self.message


class ConfigError(FoundryError):
    """The pipeline, or an option of the command line, is wrong."""

    exit_code = 2


class UnknownKey(ConfigError):
    """A key that no section has; the hint names the nearest valid one."""

    fields = ("key", "nearest")


class OutOfRange(ConfigError):
    """A value outside its range or of the wrong type."""

    fields = ("key", "value")


class SearchSpaceError(ConfigError):
    """A search space that cannot be sampled."""

    fields = ("param",)


class ClusterError(FoundryError):
    """The place to run refused or is not there."""

    exit_code = 4


class ClusterUnreachable(ClusterError):
    """Nobody answers at the address."""

    retryable = True
    fields = ("address",)


class ClusterDenied(ClusterError):
    """The cluster answers and refuses the token."""

    fields = ("address",)


class ResourcesUnavailable(ClusterError):
    """What was asked for does not fit the cluster."""

    exit_code = 2
    fields = ("requested", "available")


class NoSuchJob(ClusterError):
    """The cluster answers that it knows no job of this name."""

    exit_code = 2


class DataError(FoundryError):
    """The data set cannot be used as it is."""

    exit_code = 2


class BadRecord(DataError):
    """One record is unreadable or out of its domain."""

    fields = ("source", "row", "column")


class FingerprintMismatch(DataError):
    """The bytes are not the ones that were promised."""

    fields = ("expected", "actual")


class TrainingError(FoundryError):
    """Training ended without a model."""


class WorkerGroupFailed(TrainingError):
    """Workers died; `failures` maps rank -> error text."""

    fields = ("failures",)


class Preempted(TrainingError):
    """The machine was taken away; the state is saved."""

    retryable = True


class Diverged(TrainingError):
    """The loss is not finite; the last good checkpoint is intact."""

    fields = ("step", "loss")


class SearchError(FoundryError):
    """The study ended without a result."""


class NoFeasibleTrial(SearchError):
    """No trial keeps all constraints; `closest` says how near one came."""

    exit_code = 3
    fields = ("num_trials", "closest")


class CompressionError(FoundryError):
    """A recipe could not be carried out."""


class RecipeInfeasible(CompressionError):
    """The recipe contradicts itself, the model or the runtime."""

    exit_code = 2
    fields = ("recipe", "reason")


class ParityFailed(CompressionError):
    """The exported graph answers differently from the model that it came from."""

    fields = ("max_abs_diff", "tolerance")


class StoreError(FoundryError):
    """The artifact store could not do what was asked."""


class ArtifactNotFound(StoreError):
    """No such object, version or alias."""

    exit_code = 2
    fields = ("key",)


class ArtifactCorrupt(StoreError):
    """Bytes whose sha256 is not the one in the manifest; they are never returned."""

    fields = ("key", "expected", "actual")


class StoreUnavailable(StoreError):
    """The store does not answer within its retry budget."""

    exit_code = 4
    retryable = True
    fields = ("uri",)


class StoreDenied(StoreError):
    """The store answers and refuses the credentials."""

    exit_code = 4
    fields = ("uri",)


class Conflict(StoreError):
    """Somebody else created the object first."""

    fields = ("key",)


class SignatureInvalid(StoreError):
    """A model whose version is not signed by a key that this process trusts; its bytes are not used."""

    fields = ("model", "reason")


class ServingError(FoundryError):
    """The endpoint is not what was asked for."""


class DeployTimeout(ServingError):
    """The application was not healthy in time; what served before still serves."""

    exit_code = 4
    fields = ("app_name", "timeout_s")


class ReplicaUnhealthy(ServingError):
    """A replica failed to start or its health check."""

    fields = ("app_name", "reason")


class RolloutRejected(ServingError):
    """The new version is worse; the old one serves."""

    exit_code = 3
    fields = ("reason",)
