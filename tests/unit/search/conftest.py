from __future__ import annotations

import pytest

from foundry_ray.search.trial import TrialContext
from foundry_ray.testing.trials import tiny_context


@pytest.fixture
def trial_context() -> TrialContext:
    """Dark and light squares, a tiny teacher that was never trained, and its logits."""
    return tiny_context()
