"""Runs `foundry` as a user does: a process of its own, its own FOUNDRY_HOME, exit code and both streams kept apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foundry_ray.types import Json


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
    """`foundry` in one home and one working folder."""

    home: Path
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "FOUNDRY_HOME": str(self.home), "PYTHONWARNINGS": "default", **self.env, **extra}

    def run(self, *args: str | Path, timeout_s: float = 300.0, **env: str) -> Outcome:
        """Run to the end."""
        done = subprocess.run(
            [sys.executable, "-m", "foundry_ray.cli", *map(str, args)],
            cwd=self.folder,
            env=self._environment(env),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Outcome(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def start(self, *args: str | Path, **env: str) -> subprocess.Popen[str]:
        """Start and return at once: for those that are killed."""
        log = (self.folder / f"started-{os.getpid()}.log").open("a")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "foundry_ray.cli", *map(str, args)],
                cwd=self.folder,
                env=self._environment(env),
                stdout=log,
                stderr=log,
                text=True,
            )

    def stop_services(self) -> None:
        """Stop the head and the store of this home."""
        self.run("cluster", "down")
        self.run("store", "stop")
