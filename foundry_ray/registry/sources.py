"""Which sources a run was started from, where git can tell."""

from __future__ import annotations

import subprocess
from pathlib import Path

_DESCRIBE = ("git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
_TIMEOUT_S = 5.0


def commit_of(folder: Path) -> str:
    """The commit that is checked out in a folder, with `-dirty` where tracked files differ from it.

    Empty where the folder is in no repository with a commit, where git is not installed, or where it does not answer in 5 s.
    """
    try:
        done = subprocess.run(_DESCRIBE, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
