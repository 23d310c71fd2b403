"""Data sets: where they come from, cleaning, the one split, loading, augmentation, and the order of rows.

Importing this package imports neither numpy nor torch.
"""

from __future__ import annotations

from foundry_ray.config import DataConfig, Settings
from foundry_ray.data.loading import Split, load_split, log_opening, num_test_openings, open_test
from foundry_ray.data.preparing import prepare
from foundry_ray.data.registry import fetch, names

__all__ = ["Split", "fetch", "load_split", "log_opening", "names", "num_test_openings", "open_test", "prepare", "source_sha256"]


def source_sha256(config: DataConfig, settings: Settings) -> str:
    """What identifies the raw bytes of a source, for stage keys. Raises DataError with the command that fetches an absent one."""
    from foundry_ray.data.sources import open_source

    source = open_source(config, settings)
    source.locate()
    return source.sha256()
