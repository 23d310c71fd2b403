"""Names and what they stand for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foundry_ray.errors import ConfigError
from foundry_ray.plugins import Plugins, load_import


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


def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> str:
    """A module of a user's own with a name that no other test has."""
    name = f"users_own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_an_imported_name_is_what_the_module_defines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = user_module(tmp_path, monkeypatch, "class Nest:\n    @staticmethod\n    def egg():\n        return 3\n")
    assert load_import(f"import:{name}:Nest.egg", what="bird")() == 3


@pytest.mark.parametrize("text", ["import:", "import:nest", "import:nest:", "import::egg", "nest:egg", "import:a b:egg", "import:nest:egg:shell"])
def test_another_form_of_import_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"bird is '.*', wanted import:package.module:name\. Hint: "):
        load_import(text, what="bird")


def test_a_missing_module_is_told_with_where_to_put_it() -> None:
    with pytest.raises(ConfigError, match=r"there is no module 'no_such_nest', wanted one .* Hint: install the package, or .* PYTHONPATH"):
        load_import("import:no_such_nest.inner:egg", what="bird")


def test_a_misspelt_name_is_told_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = user_module(tmp_path, monkeypatch, "def parrot(): ...\n")
    with pytest.raises(ConfigError, match=r"has no 'parot', wanted a name that it defines\. Hint: did you mean 'parrot'\?"):
        load_import(f"import:{name}:parot", what="bird")


@pytest.mark.parametrize(
    ("source", "place", "last_line"),
    [
        ("\nraise OSError('the nest is gone')\n", 2, "OSError: the nest is gone"),
        ("import no_such_twig\n", 1, "ModuleNotFoundError: No module named 'no_such_twig'"),
        ("def egg(:\n", 1, "SyntaxError: invalid syntax"),
    ],
)
def test_a_module_that_fails_is_told_with_its_own_place_and_last_line(
    source: str, place: int, last_line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = user_module(tmp_path, monkeypatch, source)
    with pytest.raises(ConfigError) as caught:
        load_import(f"import:{name}:egg", what="bird")
    assert f"importing it fails at {tmp_path / name}.py:{place} with {last_line}, wanted a module that imports." in caught.value.message


def test_what_cannot_be_called_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = user_module(tmp_path, monkeypatch, "egg = {}\n")
    with pytest.raises(ConfigError, match="which is a dict, wanted something to call"):
        load_import(f"import:{name}:egg", what="bird")


def test_a_module_of_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nest_of_the_working_folder.py").write_text("def egg(): ...\n")
    monkeypatch.setattr("sys.path", [place for place in sys.path if place])
    monkeypatch.chdir(tmp_path)
    assert load_import("import:nest_of_the_working_folder:egg", what="bird").__name__ == "egg"
