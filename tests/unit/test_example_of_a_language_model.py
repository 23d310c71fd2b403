"""The shipped language model: what of it can be checked where its packages are not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foundry_ray import models
from foundry_ray.config import load_config
from foundry_ray.errors import ConfigError
from foundry_ray.planning import check
from foundry_ray.schemas import TokenSchema

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its commands are typed: the working folder is where `import:` looks."""
    monkeypatch.chdir(ROOT)


def test_its_pipeline_is_whole_and_its_factory_is_found() -> None:
    config = load_config("examples/smollm2/teacher.yaml")
    check(config)
    assert (config.task, config.teacher.train.batch_size % config.teacher.workers) == ("causal_lm", 0)


def test_a_package_that_it_needs_and_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    config = load_config("examples/smollm2/teacher.yaml")
    with pytest.raises(ConfigError, match=r"calling it fails at .*model\.py.* transformers"):
        models.build(config.teacher.model, TokenSchema(length=4, vocab_size=9), None, seed=0)
