"""What every command needs and opens at most once: the settings, the clock, the reporter, the store, the Ray session.

Local services (the embedded store, the local Ray head) are started when first touched. The last command that leaves stops those
that nobody asked to keep: commands hold a shared lock while they run, and whoever gets it alone on leaving is the last.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from foundry_ray.config import LimitsConfig, Settings, StoreConfig, store_config
from foundry_ray.errors import ConfigError
from foundry_ray.protocols import ArtifactStore, Clock

if TYPE_CHECKING:
    from foundry_ray.observability import ConsoleReporter
    from foundry_ray.runtime.session import Session


class Context:
    """The surroundings of one command. Use it as a context manager.

    Args:
        store_config: Which store; the embedded one where absent.
        cluster: `local`, a file of cluster/, or an address.
        is_kept: Leave local services running when the command ends.

    Attributes:
        libraries: Modules that the session's first user needs: imported while the local head comes up.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        reporter: ConsoleReporter,
        store_config: StoreConfig | None = None,
        cluster: str = "local",
        limits: LimitsConfig | None = None,
        is_kept: bool = False,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.reporter = reporter
        self.store_config = store_config or StoreConfig()
        self.cluster = cluster
        self.limits = limits or LimitsConfig()
        self.libraries: tuple[str, ...] = ()
        self._is_kept = is_kept
        self._lock: IO[str] | None = None

    @cached_property
    def store(self) -> ArtifactStore:
        """The artifact store, opened on first use. Raises StoreUnavailable or StoreDenied."""
        from foundry_ray.artifacts import open_store

        return open_store(self.store_config, settings=self.settings)

    @cached_property
    def session(self) -> Session:
        """The Ray session, connected on first use. Raises ClusterUnreachable or ClusterDenied, and ConfigError where it cannot reach the store."""
        from foundry_ray.runtime.session import connect

        session = connect(self.cluster, settings=self.settings, limits=self.limits, reporter=self.reporter, libraries=self.libraries)
        if "store" in self.__dict__ and not self.store_config.uri.startswith("s3://") and not session.is_here():
            self._check_store(session)
        return session

    @property
    def is_local(self) -> bool:
        """Whether the cluster is the local head, so that what one process can do alone needs no Ray. Raises ConfigError as `session`."""
        from foundry_ray.runtime.place import LOCAL, locate

        return locate(self.cluster, self.settings, self.reporter).address == LOCAL

    def _check_store(self, session: Session) -> None:
        if self.store_config.uri != "embedded":
            self.reporter.warn(f"the store is {self.store_config}, and the cluster has other machines: each of them must mount that folder.")
            return
        session.close()
        raise ConfigError(
            f"The store is embedded, which only this machine has, but the cluster {self.cluster} has other machines.",
            hint="use a store that all reach: `--store s3://bucket/prefix`.",
        )

    def keep(self) -> None:
        """Leave local services up after this command, and after later ones, until they are stopped by name."""
        keep_services(self.settings)

    def __enter__(self) -> Self:
        self.settings.home.mkdir(parents=True, exist_ok=True)
        self._lock = (self.settings.home / "in-use.lock").open("a")
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        if self._is_kept:
            keep_services(self.settings)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        lost = None
        if "session" in self.__dict__:
            lost = self.session.lost
            self.session.close()
        # A job shares the home with the head that it runs on, and must not stop it.
        if not self.settings.is_inside_job and self._is_last() and not _keep_mark(self.settings).exists():
            stop_services(self.settings)
        if self._lock is not None:
            self._lock.close()
        if lost is not None and isinstance(error, KeyboardInterrupt):
            raise lost from None

    def _is_last(self) -> bool:
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


@contextmanager
def open_context(store: str | StoreConfig | None = None, *, cluster: str = "local", keep: bool = False, events: str = "") -> Iterator[Context]:
    """The surroundings of one command, as the environment says, closed at its end.

    Args:
        store: A URI, a .yaml file or the section itself; None: FOUNDRY_STORE, else the embedded one.
        cluster: Where Ray work goes.
        keep: Leave local services running.
        events: Name of the event log under FOUNDRY_HOME; none where empty.
    """
    from foundry_ray.clock import SystemClock
    from foundry_ray.config import settings as read_settings
    from foundry_ray.observability import ConsoleReporter

    settings = read_settings()
    chosen = store_config(store) if isinstance(store, str) else store or settings.store
    clock = SystemClock()
    path = settings.home / "events" / f"{events}.jsonl" if events else None
    reporter = ConsoleReporter(events=path, clock=clock)
    with Context(settings=settings, clock=clock, reporter=reporter, store_config=chosen, cluster=cluster, is_kept=keep) as context:
        yield context


def _keep_mark(settings: Settings) -> Path:
    return settings.home / "keep"


def keep_services(settings: Settings) -> None:
    """Leave local services up after commands end, until they are stopped by name."""
    settings.home.mkdir(parents=True, exist_ok=True)
    _keep_mark(settings).touch()


def stop_services(settings: Settings, *, head: bool = True, store: bool = True) -> Mapping[str, bool]:
    """Stop the local Ray head and the embedded store where they run; returns which ones did."""
    from foundry_ray.artifacts import embedded
    from foundry_ray.runtime import local_head

    stopped = {"head": False, "store": False}
    if head and local_head.status(settings) is not None:
        local_head.down(settings)
        stopped["head"] = True
    if store and embedded.status(settings) is not None:
        embedded.stop(settings)
        stopped["store"] = True
    if local_head.status(settings) is None and embedded.status(settings) is None:
        _keep_mark(settings).unlink(missing_ok=True)  # what still runs was asked to stay
    return stopped
