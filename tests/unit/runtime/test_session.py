"""What is decided about a session without a cluster."""

from __future__ import annotations

import pytest

from foundry_ray.runtime.session import on_one_node

_SMALL, _LARGE, _GPU = {"CPU": 1.0}, {"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("nodes", "num_gpus", "wanted"),
    [([_SMALL, _SMALL], 0, 1.0), ([_SMALL, _LARGE], 0, 2.0), ([_LARGE, _GPU], 1, 1.0), ([{"memory": 1.0}], 0, 2.0), ([_LARGE], 1, 2.0)],
)
def test_a_call_asks_for_no_more_cpus_than_one_node_has(nodes: list[dict[str, float]], num_gpus: float, wanted: float) -> None:
    assert on_one_node(nodes, num_cpus=2, num_gpus=num_gpus) == wanted
