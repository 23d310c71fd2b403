"""Zeros among the weights: how many, where, when, and that they stay."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foundry_ray import tasks
from foundry_ray.compression import aids, apply_recipe, check_recipe, recipe_from_params, to_onnx
from foundry_ray.compression.sparsify import SparsifyParams, _in_groups, _smallest, sparse_weights, target
from foundry_ray.compression.sparsity import sparsity_notes
from foundry_ray.config import TrainConfig
from foundry_ray.errors import Preempted, RecipeInfeasible
from foundry_ray.protocols import Given
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.checkpoint.bytes import from_bytes, to_bytes
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.types import CompressionRecipe, ImageSchema


def recipe_of(**params: object) -> CompressionRecipe:
    return recipe_from_params({f"sparsify.{name}": value for name, value in params.items()})[1]  # type: ignore[misc]


def trained(model: nn.Module, recipe: CompressionRecipe, images: np.ndarray, schema: ImageSchema, *, epochs: int = 3, ema_decay: float = 0.9) -> Loop:
    """A loop of the student, not begun: 64 rows, eight steps in an epoch."""
    rows = Given(schema=schema, task="image_classification", inputs_N=images[:64], labels_N=np.arange(64) % 4)
    split = TensorSplit(inputs_N=torch.from_numpy(images[:64]), labels_N=torch.arange(64) % 4)
    train = TrainConfig(epochs=epochs, batch_size=8, lr=1e-2, precision="fp32", ema_decay=ema_decay, weight_decay=0.1)
    job = FitJob(train=train, task=tasks.get("image_classification"), split_train=split, split_val=split, seed=3, aids=aids(recipe, rows))
    student = apply_recipe(model, recipe, rows, family=getattr(model, "family", "tied"))
    return Loop(job, TorchEngine(student, train), reporter=RecordingReporter(), clock=FakeClock())


def zeros(model: nn.Module, recipe: CompressionRecipe) -> dict[str, float]:
    params = SparsifyParams.model_validate(recipe.steps[0].params)
    return {name: float((weight == 0).double().mean()) for name, weight in sparse_weights(model, params).items()}


def run(loop: Loop) -> Loop:
    while not loop.is_done:
        loop.run_epoch()
    return loop


@pytest.mark.parametrize(
    ("progress", "share"),
    [(0.0, 0.0), (0.2, 0.0), (0.3, 0.8 * (1 - 0.8**3)), (0.45, 0.8 * (1 - 0.5**3)), (0.7, 0.8), (1.0, 0.8)],
)
def test_a_gradual_schedule_follows_the_papers_formula(progress: float, share: float) -> None:
    assert target(progress, SparsifyParams(ratio=0.8, begin=0.2, end=0.7)) == pytest.approx(share)


def test_zeros_grow_in_steps_between_which_nothing_changes() -> None:
    params = SparsifyParams(ratio=0.5, begin=0.0, end=1.0)
    values = [target(step / 1000, params) for step in range(1001)]
    assert values == sorted(values)
    assert len(set(values)) == 101


@settings(max_examples=30, deadline=None)
@given(outputs=st.integers(1, 5), groups=st.integers(1, 4), kernel=st.sampled_from([(), (1,), (3, 2)]), seed=st.integers(0, 99))
def test_two_of_each_four_inputs_are_zero_and_they_are_the_smallest(outputs: int, groups: int, kernel: tuple[int, ...], seed: int) -> None:
    weight = torch.randn(outputs, 4 * groups, *kernel, generator=torch.Generator().manual_seed(seed))
    mask = _in_groups(weight, 0.5)
    kept, lost = (weight.abs().masked_fill(hidden, fill) for hidden, fill in ((mask, torch.inf), (~mask, 0.0)))
    by_group = [tensor.movedim(1, -1).reshape(-1, 4) for tensor in (mask, kept, lost)]
    assert bool((by_group[0].sum(1) == 2).all())
    assert bool((by_group[1].amin(1) >= by_group[2].amax(1)).all())


@settings(max_examples=30, deadline=None)
@given(ratio=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_zeros_that_are_there_are_chosen_again(ratio: float, seed: int) -> None:
    for choose in (_smallest, _in_groups):
        weight = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(seed))
        first = choose(weight, ratio)
        assert int(first.sum()) == pytest.approx(ratio * weight.numel(), abs=1)
        assert torch.equal(choose(weight.masked_fill(first, 0.0), ratio), first)


@pytest.mark.parametrize("schedule", ["one_shot", "gradual"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_the_zeros_are_in_what_ships(model, images, schema, pattern: str, schedule: str) -> None:
    recipe = recipe_of(pattern=pattern, schedule=schedule, ratio=0.5)
    loop = run(trained(model, recipe, images, schema))
    shipped = loop.eval_model()
    assert set(zeros(shipped, recipe).values()) == {0.5}
    if pattern == "2:4":
        for weight in sparse_weights(shipped, SparsifyParams.model_validate(recipe.steps[0].params)).values():
            assert bool(((weight == 0).movedim(1, -1).reshape(-1, 4).sum(1) == 2).all())


def test_the_ends_biases_and_norms_have_no_zeros_by_default(model, images, schema) -> None:
    recipe = recipe_of(ratio=0.9, schedule="one_shot")
    student = run(trained(model, recipe, images, schema, epochs=1)).eval_model()
    touched = set(zeros(student, recipe))
    assert {name for name, tensor in student.named_parameters() if bool((tensor == 0).double().mean() > 0.5)} == touched
    assert not touched & {"stem.0.weight", "head.weight"}
    everywhere = recipe_of(ratio=0.9, schedule="one_shot", whole_ends=False)
    assert {"stem.0.weight", "head.weight"} < set(zeros(model, everywhere))


def test_a_gradual_schedule_begins_with_none_and_never_gives_one_back(model, images, schema) -> None:
    recipe = recipe_of(ratio=0.8, begin=0.3, end=0.9)
    loop = trained(model, recipe, images, schema, epochs=4)
    seen, before = [], None
    while not loop.is_done:
        loop.run_epoch()
        weights = sparse_weights(loop.eval_model(), SparsifyParams())
        now = {name: weight == 0 for name, weight in weights.items()}
        assert before is None or all(bool(now[name][mask].all()) for name, mask in before.items())
        before = now
        seen.append(float(torch.cat([mask.flatten() for mask in now.values()]).double().mean()))
    assert seen[0] == 0
    assert 0 < seen[1] < seen[2] < seen[3]
    assert seen[3] == pytest.approx(0.8, abs=0.01)


class _Stops:
    def __init__(self, step: int) -> None:
        self._step = step

    def wishes(self) -> tuple[float, ...]:
        return (1.0,)

    def act(self, wishes: object, loop: Loop) -> None:
        if loop.step == self._step:
            raise Preempted("stop", hint="go on")


class _Ticking(FakeClock):
    def monotonic_s(self) -> float:
        self.advance(2.0)
        return super().monotonic_s()


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("step", [3, 11])
def test_a_training_that_is_broken_off_goes_on_bit_for_bit(model, images, schema, pattern: str, step: int) -> None:
    recipe = recipe_of(pattern=pattern, begin=0.1, end=0.8)
    unbroken = run(trained(model, recipe, images, schema))
    first = trained(model, recipe, images, schema)
    first._control, first._pulse._clock = _Stops(step), _Ticking()
    with pytest.raises(Preempted):
        run(first)
    second = trained(model, recipe, images, schema)
    second.restored(from_bytes(to_bytes(first.state()), second.state()))
    run(second)
    ours, theirs = (loop.eval_model().state_dict() for loop in (unbroken, second))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


class Tied(nn.Module):
    """A classifier whose two inner layers, and whose ends, have one weight; the last but one begins with zeros, as a branch may."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))
        self.layers[2].weight = self.layers[1].weight
        self.layers[3].weight = self.layers[5].weight
        nn.init.zeros_(self.layers[4].weight)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.mean((1, 3))[:, :4]
        for layer in self.layers:
            x = layer(x)
        return x


def test_shared_weights_have_one_mask_and_the_ends_stay_whole_under_each_name(images, schema) -> None:
    loop = run(trained(Tied(), recipe_of(ratio=0.5, schedule="one_shot"), images, schema))
    assert zeros(loop.eval_model(), recipe_of(ratio=0.5)) == {"layers.1.weight": 0.5, "layers.4.weight": 0.5}
    assert not (loop.eval_model().layers[3].weight == 0).any()


def test_a_layer_that_begins_with_zeros_learns_before_and_beside_the_mask(images, schema) -> None:
    loop = trained(Tied(), recipe_of(ratio=0.5, begin=0.5, end=0.6), images, schema)
    loop.run_epoch()
    assert zeros(loop.eval_model(), recipe_of(ratio=0.5))["layers.4.weight"] == 0.0
    assert zeros(run(loop).eval_model(), recipe_of(ratio=0.5))["layers.4.weight"] == 0.5


def test_the_teacher_is_left_whole(model, images, schema) -> None:
    before = copy.deepcopy(model.state_dict())
    run(trained(model, recipe_of(schedule="one_shot"), images, schema, epochs=1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_notes_say_that_zeros_make_nothing_smaller_or_faster(model, images, schema) -> None:
    recipe = recipe_of(pattern="2:4", schedule="one_shot")
    student = run(trained(model, recipe, images, schema, epochs=1)).eval_model()
    onnx = to_onnx(student, schema)
    share, size, kernels = sparsity_notes(student, recipe, onnx)
    assert share.startswith("50.0% of the weights of")
    assert f"no smaller ({len(onnx)} bytes; " in size
    assert "the runtime no faster" in size
    assert "sparse kernels of a GPU alone" in kernels
    assert int(size.split("; ")[1].split(" ")[0]) < len(onnx)
    assert sparsity_notes(student, recipe_of(ratio=0), onnx) == ()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"pattern": "2:4", "ratio": 0.6}, "ratio is 0.6 and pattern is 2:4, wanted 0.5"),
        ({"begin": 0.8, "end": 0.5}, "begin is 0.8 and end is 0.5, wanted an end after the beginning"),
        ({"schedule": "one_shot", "end": 0.5}, "begin or end is set and schedule is one_shot, which has neither"),
        ({"ratio": 1.0}, "ratio is 1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeInfeasible, match=message):
        recipe_of(**params)


def test_a_model_without_a_layer_that_fits_is_refused(schema) -> None:
    line = nn.Sequential(nn.Flatten(), nn.Linear(256, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))
    rows = Given(schema=schema)
    with pytest.raises(RecipeInfeasible, match="has no layer between the first and the last whose inputs are a multiple of 4"):
        apply_recipe(line, recipe_of(pattern="2:4"), rows, family="own")
    assert apply_recipe(line, recipe_of(ratio=0.25), rows, family="own") is not line


def test_a_ratio_of_zero_is_no_step() -> None:
    assert recipe_of(ratio=0) == CompressionRecipe()


def test_fresh_weights_and_one_shot_masks_do_not_go_together() -> None:
    params = {"sparsify.schedule": "one_shot", "distil_alpha": 0.5, "distil.init": "scratch"}
    with pytest.raises(RecipeInfeasible, match="fresh weights say nothing of which ones matter"):
        recipe_from_params(params)
    gradual = recipe_from_params({**params, "sparsify.schedule": "gradual"})[1]
    assert check_recipe(gradual) == gradual


def test_recurrent_and_attention_layers_have_zeros_too() -> None:
    model = nn.ModuleList([nn.Linear(8, 8), nn.LSTM(8, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 8)])
    params = SparsifyParams()
    assert set(sparse_weights(model, params)) == {"1.weight_ih_l0", "1.weight_hh_l0", "2.in_proj_weight", "2.out_proj.weight"}


def test_a_table_of_tokens_that_a_layer_shares_stays_whole() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "table": nn.Embedding(8, 4), "tied": nn.Linear(4, 8), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4)})
    model["tied"].weight = model["table"].weight
    assert set(sparse_weights(model, SparsifyParams())) == {"b.weight"}
