"""Runs `foundry` as a user does: a process of its own, its own FOUNDRY_HOME, exit code and both streams kept apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foundry_ray.config import settings
from foundry_ray.types import Json

_OF_THE_CALLER = ("FOUNDRY_", "RAY_", "AWS_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Json:
        """The JSON document on stdout."""
        value: Json = json.loads(self.stdout)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """`foundry` in one home and one working folder. What the caller's environment says of foundry, Ray and AWS is left out.

    Attributes:
        env: Variables of every command.
        python: The interpreter that runs it.
    """

    home: Path
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    python: Path = Path(sys.executable)

    @property
    def log(self) -> Path:
        """What the commands of `start` print, both streams, one after another."""
        return self.folder / "started.log"

    def run(self, *args: str | Path, timeout_s: float = 300.0, **env: str) -> Outcome:
        """Run to the end."""
        done = subprocess.run(
            self._command(args), cwd=self.folder, env=self._environment(env), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        return Outcome(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def start(self, *args: str | Path, **env: str) -> subprocess.Popen[str]:
        """Start and return at once: for those that are killed."""
        with self.log.open("a") as log:
            return subprocess.Popen(self._command(args), cwd=self.folder, env=self._environment(env), stdout=log, stderr=log, text=True)

    def fetch(self, name: str) -> None:
        """Have a data set in this home: from the caller's FOUNDRY_HOME where it lies there, else as users get it."""
        place = settings().home / "datasets" / name
        if place.is_dir():
            shutil.copytree(place, self.home / "datasets" / name, dirs_exist_ok=True)
        outcome = self.run("data", "fetch", name)
        assert outcome.code == 0, outcome.stderr

    def stop_services(self) -> None:
        """Stop the head and the store of this home."""
        self.run("cluster", "down")
        self.run("store", "stop")

    def _command(self, args: tuple[str | Path, ...]) -> list[str]:
        return [str(self.python), "-m", "foundry_ray.cli", *map(str, args)]

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_CALLER)}
        return {**inherited, "FOUNDRY_HOME": str(self.home), "PYTHONWARNINGS": "default", **self.env, **extra}
