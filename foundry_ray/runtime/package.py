"""What a job takes along: one small archive with the pipeline and the files it names, and the arguments that make it the same run there.

The archive's name is the hash of its content, so that an equal one is uploaded once. Nothing that looks like a credential gets in.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.config import PipelineConfig, StoreConfig, store_config
from foundry_ray.errors import ConfigError

_PIPELINE = "pipeline.yaml"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that an archive can hold: the hash must not know when it was made
_CREDENTIALS = (
    (re.compile(r"[a-z][a-z0-9+.-]*://[^/\s\"']*@", re.IGNORECASE), "a URI with a user in it"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "an AWS access key"),
    (re.compile(r"AWS_(?:SECRET_ACCESS_KEY|SESSION_TOKEN)\s*[:=]\s*\S"), "an AWS secret"),
)
_OUTSIDE_COMMENTS = (  # in a comment these are words: a comment travels too, but may speak of tokens
    (re.compile(r"(?:secret|password|passwd|token|access[_-]?key)[a-z_-]*[\"']?\s*[:=]\s*[\"']?[^\s\"',}]+", re.IGNORECASE), "a secret"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An archive and how to use it. `local_paths` are files or folders that it names but does not hold."""

    content: bytes
    arguments: tuple[str, ...]
    store: StoreConfig
    local_paths: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """File name by content."""
        return f"_ray_pkg_{hashlib.sha256(self.content).hexdigest()[:40]}.zip"

    @property
    def uri(self) -> str:
        """What a runtime environment calls it."""
        return f"gcs://{self.name}"


def pack(pipeline: Path, config: PipelineConfig, *, store: str | None, overrides: Sequence[str], scale: str | None) -> Package:
    """Gather a pipeline for another machine.

    Raises:
        ConfigError: Something that would travel holds credentials, or a named file is missing.
    """
    files: dict[str, bytes] = {_PIPELINE: _read(pipeline)}
    changed = list(overrides)
    space = Path(config.search.space)
    if space.suffix and space.is_file():
        files[space.name] = _read(space)
        changed.append(f"search.space=./{space.name}")
    paths = _data_paths(config, changed)
    arguments = [_PIPELINE, *(part for override in changed for part in ("--set", override))]
    arguments += ["--scale", scale] if scale else []
    chosen = store_config(store) if store else config.store
    if store and Path(store).is_file():  # it travels under another name, since the pipeline may have the same one
        files["store.yaml"], store = _read(Path(store)), "store.yaml"
    arguments += ["--store", store] if store else []
    for name, text in {**{name: data.decode(errors="replace") for name, data in files.items()}, "the command line": "\n".join(arguments)}.items():
        _refuse_credentials(name, text)
    return Package(content=_archive(files), arguments=tuple(arguments), store=chosen, local_paths=paths)


def _data_paths(config: PipelineConfig, changed: list[str]) -> tuple[str, ...]:
    """A folder of images stays where it is: named absolutely, because the job runs in another folder."""
    source = Path(config.data.source)
    if not source.exists() or (source.parent == Path() and not source.is_dir()):
        return ()
    changed.append(f"data.source={source.absolute()}")
    return () if source.is_absolute() else (config.data.source,)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", hint="name an existing file.") from error


def _refuse_credentials(name: str, text: str) -> None:
    code = "\n".join(line.partition("#")[0] for line in text.splitlines())
    for searched, (pattern, what) in (*((text, one) for one in _CREDENTIALS), *((code, one) for one in _OUTSIDE_COMMENTS)):
        if pattern.search(searched):
            raise ConfigError(
                f"{name} holds {what}, and what a job takes along is shown in the cluster's dashboard.",
                hint="give the cluster its own credentials (AWS_* variables of its nodes, a Kubernetes secret), and name only s3://bucket/prefix.",
            )


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name])
    return buffer.getvalue()
