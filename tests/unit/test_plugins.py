"""Names and what they stand for."""

from __future__ import annotations

import pytest

from foundry_ray.errors import ConfigError
from foundry_ray.plugins import Plugins


class Parrot:
    word = "hello"


def birds() -> Plugins[Parrot]:
    return Plugins("bird", "foundry_ray.tests.birds", {})


def test_a_registered_name_gives_an_instance() -> None:
    plugins = birds()
    plugins.register("parrot")(Parrot)
    assert plugins.get("parrot").word == "hello"
    assert plugins.names() == ("parrot",)


def test_a_duplicate_is_refused() -> None:
    plugins = birds()
    plugins.register("parrot")(Parrot)
    with pytest.raises(ConfigError, match="the bird 'parrot' is registered already"):
        plugins.register("parrot")(Parrot)


def test_the_name_of_a_built_in_is_refused_before_it_is_loaded() -> None:
    plugins: Plugins[Parrot] = Plugins("bird", "foundry_ray.tests.birds", {"owl": "foundry_ray.no_such_module"})
    with pytest.raises(ConfigError, match="the bird 'owl' is registered already"):
        plugins.register("owl")(Parrot)


def test_an_unknown_name_lists_those_there_are() -> None:
    plugins = birds()
    plugins.register("parrot")(Parrot)
    with pytest.raises(ConfigError, match=r"no bird 'emu', wanted one of parrot\. Hint: a package adds one"):
        plugins.get("emu")
