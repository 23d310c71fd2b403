"""How a name becomes an implementation: built-in names, names registered in code, names from entry points, and a user's own by import.

Decides: that a name means one thing (a duplicate is refused), and that a built-in's module is imported only when it is asked for.
Leaves to others: what the implementations are.
"""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from foundry_ray.errors import ConfigError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[[], object])

IMPORT = "import:"
"""What stands before the name of something of the user's own: `import:package.module:name`."""


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


def load_import(text: str, *, what: str) -> Callable[..., object]:
    """What `import:package.module:name` names, something that can be called. Imports the module, which is the user's own code.

    Args:
        text: The value as it stands in the configuration.
        what: The key that it stands at, for messages ("teacher.train.optimizer").

    Raises:
        ConfigError: It has another form, there is no such module or name, the module fails while it is imported (the message holds the
            place and the last line of its traceback), or what is there cannot be called.
    """
    module_name, _, name = text.removeprefix(IMPORT).partition(":")
    if not text.startswith(IMPORT) or not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise ConfigError(f"{what} is {text!r}, wanted import:package.module:name.", hint="write the module's dotted name, a colon, the function.")
    found: object = _import(module_name, f"{what} is {text!r}")
    for part in name.split("."):
        found = _attribute(found, part, f"{what} is {text!r}")
    if not callable(found):
        raise ConfigError(f"{what} is {text!r}, which is a {type(found).__name__}, wanted something to call.", hint="name a function or a class.")
    return found


def _import(module_name: str, got: str) -> ModuleType:
    """The module; the working folder counts, as it does for `python -c`, but last. A user's module may raise anything, so all of it is told."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise _failed(error, module_name, got) from error
        hint = "install the package, or put the folder that holds it on PYTHONPATH."
        raise ConfigError(f"{got}, but there is no module {error.name!r}, wanted one that can be imported.", hint=hint) from error
    except Exception as error:
        raise _failed(error, module_name, got) from error


def _failed(error: Exception, module_name: str, got: str) -> ConfigError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else f"{frame.filename}:{frame.lineno}"
    last_line = traceback.format_exception_only(error)[-1].strip()
    message = f"{got}, but importing it fails at {place} with {last_line}, wanted a module that imports."
    return ConfigError(message, hint=f"mend it until `python -c 'import {module_name}'` works.")


def _attribute(owner: object, name: str, got: str) -> object:
    if hasattr(owner, name):
        return getattr(owner, name)
    near = difflib.get_close_matches(name, [one for one in dir(owner) if not one.startswith("_")], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "correct the name after the colon."
    raise ConfigError(f"{got}, but {getattr(owner, '__name__', owner)!r} has no {name!r}, wanted a name that it defines.", hint=hint)
