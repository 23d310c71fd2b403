"""The small form: bit for bit, and nothing of another model is taken for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foundry_ray.errors import ArtifactCorrupt, TrainingError
from foundry_ray.models import tensors_to_bytes
from foundry_ray.training.checkpoint.bytes import from_bytes, to_bytes
from foundry_ray.training.state import LoopState
from tests.unit.training.checkpoint._states import are_equal, blank, make_states, make_truth, own_of


@pytest.fixture
def state() -> LoopState:
    [state] = make_states(make_truth(), 1)
    return replace(state, document={"epoch": 2, "curve": [{"loss": 0.1}], "scalars": {"num_steps": 7.0}})


def test_what_goes_in_comes_out(state: LoopState) -> None:
    state.fragments[0].tensor[:2] = torch.tensor([float("nan"), -0.0])
    data = to_bytes(state)
    [live] = blank([state])
    assert from_bytes(data, live) == state.document
    assert are_equal([live], [state])
    assert all(torch.equal(tensor, own_of(0)[name]) for name, tensor in live.own.items())
    assert to_bytes(replace(live, document=state.document)) == data


def test_fragments_that_share_memory_are_kept_apart(state: LoopState) -> None:
    """DeepSpeed and fused optimizers lay all parameters into one buffer."""
    flat, position, fragments = torch.arange(400.0), 0, []
    for fragment in state.fragments:
        fragments.append(replace(fragment, tensor=flat[position : position + fragment.tensor.numel()]))
        position += fragment.tensor.numel()
    shared = replace(state, fragments=tuple(fragments))
    [live] = blank([shared])
    from_bytes(to_bytes(shared), live)
    assert are_equal([live], [shared])


def test_another_model_is_refused_and_nothing_is_written(state: LoopState) -> None:
    [live] = blank([replace(state, fragments=state.fragments[1:])])
    with pytest.raises(ArtifactCorrupt, match=r"weights/stem.weight/0 of shape \(101,\), wanted None. Hint: train again"):
        from_bytes(to_bytes(state), live)
    assert not any(one.tensor.any() for one in live.fragments)


@pytest.mark.parametrize("data", [b"", b"junk" * 100, tensors_to_bytes({"x": torch.zeros(1)})])
def test_other_bytes_are_refused(state: LoopState, data: bytes) -> None:
    with pytest.raises(ArtifactCorrupt, match="a trial"):
        from_bytes(data, state)


def test_a_number_that_is_not_finite_has_no_place_in_the_document(state: LoopState) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        to_bytes(replace(state, document={"lr": float("inf")}))
