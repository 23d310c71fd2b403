"""What the README says can be typed: its commands and their options exist, its targets too, its Python runs, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from foundry_ray.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/README.md"))
    if path.name != "CHANGELOG.md" and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def _lines(page: Path, first: str) -> list[list[str]]:
    """The lines of a page's bash blocks that start with a program, as words; a line that ends in a backslash goes on."""
    blocks = [block for language, block in _BLOCK.findall(page.read_text()) if language == "bash"]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] == first]


def _command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the words after it."""
    command: Any = get_command(app)
    for place, word in enumerate(words):
        below = getattr(command, "commands", None)
        if below is None:
            return command, words[place:]
        assert word in below, f"`foundry {' '.join(words)}`: there is no {word!r} among {sorted(below)}"
        command = below[word]
    assert not hasattr(command, "commands"), f"`foundry {' '.join(words)}` is a group and no command"
    return command, []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    for _, *words in _lines(page, "foundry"):
        command, rest = _command(words)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= known, f"`foundry {' '.join(words)}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for _, *words in _lines(page, "make") for word in words if "=" not in word}
    named |= set(re.findall(r"`make ([a-z-]+)", page.read_text()))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


def test_the_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = [block for language, block in _BLOCK.findall((ROOT / "README.md").read_text()) if language == "python"]
    assert blocks, "the README has no Python"
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})  # our own page


def test_the_readme_names_commands_at_all() -> None:
    assert len(_lines(ROOT / "README.md", "foundry")) >= 10
