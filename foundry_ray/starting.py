"""What a newcomer meets first: a pipeline.yaml to start from, and the schema that describes it."""

from __future__ import annotations

from pathlib import Path

from foundry_ray import assets
from foundry_ray.config import PipelineConfig
from foundry_ray.errors import ConfigError
from foundry_ray.types import Json


def write_pipeline(directory: Path) -> Path:
    """Copy the shipped pipeline.yaml into a folder. Raises ConfigError rather than overwrite one."""
    target = directory / "pipeline.yaml"
    if target.exists():
        raise ConfigError(f"{target} exists already, and is left as it is.", hint="name another folder: `foundry init DIR`.")
    directory.mkdir(parents=True, exist_ok=True)
    target.write_bytes((assets.root() / "pipeline.yaml").read_bytes())
    return target


def pipeline_schema() -> Json:
    """The JSON schema of a pipeline file, for editors and for `foundry schema`."""
    document: Json = PipelineConfig.model_json_schema()
    return document
