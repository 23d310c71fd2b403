"""How a name becomes an implementation: built-in names, names registered in code, names from entry points.

Decides: that a name means one thing (a duplicate is refused), and that a built-in's module is imported only when it is asked for.
Leaves to others: what the implementations are.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from foundry_ray.errors import ConfigError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[[], object])


class Plugins(Generic[T]):
    """The implementations of one seam, by name.

    Args:
        kind: What one of them is called in messages ("model family").
        group: The entry point group in which third parties offer theirs ("foundry_ray.models").
        builtin: Name -> module that registers it when imported.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self._kind = kind
        self._group = group
        self._builtin = dict(builtin)
        self._factories: dict[str, Callable[[], T]] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Decorate a class (or a function without arguments) that makes the implementation. Raises ConfigError for a duplicate."""

        def decorate(factory: F) -> F:
            owner = self._builtin.get(name, factory.__module__)
            if name in self._factories or owner != factory.__module__:
                raise ConfigError(f"the {self._kind} {name!r} is registered already, wanted a new name.", hint="rename the one that you add.")
            self._factories[name] = factory  # type: ignore[assignment]
            return factory

        return decorate

    def get(self, name: str) -> T:
        """The implementation of this name. Raises ConfigError that lists the names there are."""
        if name not in self._factories and name in self._builtin:
            importlib.import_module(self._builtin[name])
        if name not in self._factories:
            self._load_entry_point(name)
        if name not in self._factories:
            known = ", ".join(self.names())
            hint = f"a package adds one through the entry point {self._group}."
            raise ConfigError(f"there is no {self._kind} {name!r}, wanted one of {known}.", hint=hint)
        return self._factories[name]()

    def names(self) -> tuple[str, ...]:
        """All names that `get` knows, sorted."""
        return tuple(sorted({*self._builtin, *self._factories, *(entry.name for entry in entry_points(group=self._group))}))

    def _load_entry_point(self, name: str) -> None:
        for entry in entry_points(group=self._group, name=name):
            factory = entry.load()
            if name not in self._factories:
                self.register(name)(factory)
