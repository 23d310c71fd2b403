"""What is saved is what is restored, on as many ranks or on others, and nothing that is broken is believed."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound, ConfigError
from foundry_ray.protocols import Fragment
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.training.checkpoint import Checkpoint, assemble, committed, fill, latest, ranges, restore
from foundry_ray.training.checkpoint import plan as planning
from foundry_ray.training.state import LoopState
from tests.unit.training.checkpoint._states import KEY, SIZES, CountingStore, are_equal, blank, make_states, make_truth, own_of, save


def _restored(store: MemoryStore, checkpoint: Checkpoint, states: list[LoopState]) -> list[LoopState]:
    live = blank(states)
    for rank, state in enumerate(live):
        restore(store, checkpoint, state, rank=rank, world_size=len(states))
    return live


@pytest.mark.parametrize("replicated", [(), ("mean",), ("weights", "mean")], ids=["sharded", "moments replicated", "replicated"])
@pytest.mark.parametrize("num_after", [1, 2, 3])
@pytest.mark.parametrize("num_before", [1, 2, 3])
def test_any_number_of_ranks_restores_what_any_other_saved(store: MemoryStore, num_before: int, num_after: int, replicated: tuple[str, ...]) -> None:
    truth = make_truth()
    checkpoint = save(store, make_states(truth, num_before, replicated=replicated))
    wanted = make_states(truth, num_after)  # always cut: another ZeRO stage holds other pieces
    assert are_equal(_restored(store, checkpoint, wanted), wanted)


def test_bits_that_are_no_numbers_come_back(store: MemoryStore) -> None:
    truth = make_truth()
    truth["weights"]["head.bias"][:4] = torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45])
    states = make_states(truth, 2)
    assert are_equal(_restored(store, save(store, states), states), states)


def test_as_many_ranks_get_their_own_tensors_back(store: MemoryStore) -> None:
    states = make_states(make_truth(), 3)
    for rank, state in enumerate(_restored(store, save(store, states), states)):
        assert all(torch.equal(tensor, own_of(rank)[name]) for name, tensor in state.own.items())


@pytest.mark.parametrize(("before", "after"), [(3, 2), (1, 2), (2, 1)])
def test_another_number_of_ranks_shares_own_tensors(store: MemoryStore, before: int, after: int) -> None:
    """Statistics are the mean, counts are rank 0's, and sums stay what they are over all ranks."""
    live = _restored(store, save(store, make_states(make_truth(), before)), make_states(make_truth(), after))
    mean = sum(rank + 0.5 for rank in range(before)) / before
    assert all(torch.equal(state.own["buffers/mean"], torch.tensor([mean, 2.0])) for state in live)
    assert all(state.own["buffers/count"].item() == 10 for state in live)
    assert [state.own["sums"].tolist() for state in live] == [[sum(range(before + 1))] * 2] + [[0.0, 0.0]] * (after - 1)


def test_a_rank_reads_about_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "BLOCK_BYTES", 64)
    monkeypatch.setattr(ranges, "_MAX_GAP_BYTES", 0)
    store, states = CountingStore(), make_states(make_truth(), 2)
    checkpoint = save(store, states)
    whole = sum(part.data.size_bytes for part in checkpoint.parts)
    [*thirds] = blank(make_states(make_truth(), 3))
    restore(store, checkpoint, thirds[1], rank=1, world_size=3)
    assert sum(one.tensor.nbytes for one in thirds[1].fragments) <= store.num_bytes <= 0.5 * whole
    assert are_equal([thirds[1]], [make_states(make_truth(), 3)[1]])


def test_neighbours_are_read_together_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "BLOCK_BYTES", 64)
    store, states = CountingStore(), make_states(make_truth(), 1)
    checkpoint = save(store, states)
    _restored(store, checkpoint, states)
    assert store.num_reads == 1
    monkeypatch.setattr(ranges, "MAX_READ_BYTES", 256)
    _restored(store, checkpoint, states)
    assert store.num_reads >= 1 + checkpoint.parts[0].data.size_bytes // 256


def test_a_flipped_bit_is_named_and_not_believed(store: MemoryStore) -> None:
    states = make_states(make_truth(), 2)
    checkpoint = save(store, states)
    key = checkpoint.folder + "rank-00001.bin"
    store.objects[key] = bytes([store.objects[key][0] ^ 1]) + store.objects[key][1:]
    with pytest.raises(
        ArtifactCorrupt, match=r"weights of stem.weight at byte 0 of .*rank-00001.bin has sha256 .* wanted .* older checkpoint"
    ) as raised:
        _restored(store, checkpoint, states)
    assert raised.value.key == key


def test_an_index_that_changed_is_not_believed(store: MemoryStore) -> None:
    states = make_states(make_truth(), 1)
    checkpoint = save(store, states)
    key = checkpoint.folder + "rank-00000.json"
    store.objects[key] = store.objects[key].replace(b'"start":0', b'"start":1')
    with pytest.raises(ArtifactCorrupt, match=r"rank-00000.json has sha256"):
        _restored(store, checkpoint, states)


def test_an_object_that_is_gone_is_named(store: MemoryStore) -> None:
    states = make_states(make_truth(), 2)
    checkpoint = save(store, states)
    store.delete(checkpoint.folder + "rank-00001.bin")
    with pytest.raises(ArtifactNotFound, match=r"rank-00001.bin"):
        _restored(store, checkpoint, states)


def _with_fragment(state: LoopState, **changes: object) -> list[LoopState]:
    first, *others = state.fragments
    return [replace(state, fragments=(*others, replace(first, **changes)))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slot": "momentum"}, r"holds no momentum of stem.weight: it has mean, weights of it. Hint: restore with the model and optimizer that"),
        ({"name": "tail"}, r"holds no weights of tail: it does not know that parameter"),
        ({"total": 102}, r"holds weights of stem.weight with 101 elements, wanted 102"),
    ],
)
def test_another_optimizer_or_model_is_refused_before_anything_is_written(store: MemoryStore, changes: dict[str, object], message: str) -> None:
    [state] = make_states(make_truth(), 1)
    checkpoint = save(store, [state])
    [live] = blank(_with_fragment(state, **changes))
    with pytest.raises(ConfigError, match=message):
        restore(store, checkpoint, live, rank=0, world_size=1)
    assert not any(one.tensor.any() for one in live.fragments)


def test_own_tensors_of_another_shape_are_refused(store: MemoryStore) -> None:
    [state] = make_states(make_truth(), 1)
    checkpoint = save(store, [state])
    for name, tensor, message in (
        ("buffers/mean", torch.zeros(3), r"of shape \(2,\), wanted \(3,\)"),
        ("buffers/x", torch.zeros(1), "holds no buffers/x"),
    ):
        with pytest.raises(ConfigError, match=message):
            restore(store, checkpoint, replace(state, own={name: tensor}), rank=0, world_size=1)


def test_elements_that_nobody_saved_are_missed(store: MemoryStore) -> None:
    states = make_states(make_truth(), 2)
    checkpoint = save(store, [replace(states[0], fragments=states[0].fragments[1:]), states[1]])
    with pytest.raises(ArtifactCorrupt, match=r"lacks the elements from 0 on of weights of stem.weight, wanted up to 101"):
        _restored(store, checkpoint, make_states(make_truth(), 1))


def test_a_manifest_that_cannot_be_read_is_left_out_with_a_warning(store: MemoryStore, reporter: RecordingReporter) -> None:
    states = make_states(make_truth(), 1)
    save(store, states, step=10)
    newer = save(store, states, step=20)
    store.objects[newer.folder + "manifest.json"] = b"{"
    with pytest.raises(ArtifactCorrupt):
        committed(store, KEY)
    assert [one.step for one in committed(store, KEY, reporter=reporter)] == [10]
    assert "000000020-a/manifest.json" in reporter.warnings[0]


def test_of_two_at_one_step_the_one_with_more_epochs_is_newer(store: MemoryStore) -> None:
    """The last step of an epoch may be saved before the epoch is judged, and after."""
    states = make_states(make_truth(), 1)
    save(store, states, step=10, attempt="b")
    save(store, states, step=10, attempt="a")
    last = latest(store, KEY)
    assert last is not None
    assert (last.attempt, len(committed(store, KEY))) == ("a", 2)


def test_what_was_judged_is_assembled_from_all_ranks(store: MemoryStore) -> None:
    truth = make_truth(slots=("weights", "mean"))
    tensors = assemble(store, save(store, make_states(truth, 3)))
    assert all(torch.equal(tensors[name], truth["weights"][name]) for name in SIZES)
    assert torch.equal(tensors["mean"], torch.tensor([1.5, 2.0]))
    assert set(tensors) == {*SIZES, "mean", "count"}


def test_averaged_weights_and_buffers_are_judged_where_they_exist(store: MemoryStore) -> None:
    truth = make_truth(slots=("weights", "average"))
    states = [replace(state, own={"average_buffers/mean": torch.tensor([7.0, 8.0]), **state.own}) for state in make_states(truth, 2)]
    tensors = assemble(store, save(store, states))
    assert all(torch.equal(tensors[name], truth["average"][name]) for name in SIZES)
    assert tensors["mean"].tolist() == [7.0, 8.0]


class _Tied(nn.Module):
    def __init__(self, size: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(size // 4, 4)
        self.head = nn.Linear(4, size // 4, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.tensor(0))


def _state_of(model: nn.Module) -> LoopState:
    named = model.named_parameters()
    fragments = (Fragment(slot="weights", name=name, start=0, total=one.numel(), tensor=one.detach().view(-1)) for name, one in named)
    return LoopState(document={}, fragments=tuple(fragments), own={f"buffers/{name}": one for name, one in model.named_buffers()})


def test_a_model_with_tied_weights_is_filled(store: MemoryStore) -> None:
    trained, model = _Tied(), _Tied()
    trained.steps.fill_(5)
    fill(store, save(store, [_state_of(trained)]), model)
    assert torch.equal(model.head.weight, trained.embed.weight)
    assert model.steps.item() == 5


@pytest.mark.parametrize(("model", "message"), [(nn.Linear(4, 3), "do not share bias"), (_Tied(16), "embed.weight with 12 elements, wanted 16")])
def test_another_model_is_not_filled(store: MemoryStore, model: nn.Module, message: str) -> None:
    before = hashlib.sha256(str(model.state_dict()).encode()).hexdigest()
    with pytest.raises(ConfigError, match=message):
        fill(store, save(store, [_state_of(_Tied())]), model)
    assert hashlib.sha256(str(model.state_dict()).encode()).hexdigest() == before
