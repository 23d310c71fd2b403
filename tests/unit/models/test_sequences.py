"""The families that take images or token ids: built, described, rebuilt, trained, shrunk."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundry_ray import models
from foundry_ray.config import ModelConfig
from foundry_ray.errors import ArtifactCorrupt, ConfigError, OutOfRange, RecipeInfeasible
from foundry_ray.models.layers import set_dropout
from foundry_ray.types import ImageSchema, Preprocessing, Schema, TokenSchema

IMAGES = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("a", "b", "c"))
TOKENS = TokenSchema(length=7, vocab_size=30, has_labels=True, classes=("x", "y"), padding=0)
KINDS = {"mlp": {}, "gru": {"cell": "gru"}, "lstm": {"cell": "lstm"}, "transformer": {"heads": 2}}
kinds = pytest.mark.parametrize("kind", KINDS)
schemas = pytest.mark.parametrize("schema", [IMAGES, TOKENS], ids=["images", "tokens"])


def family_of(kind: str) -> str:
    return "rnn" if "cell" in KINDS[kind] else kind


def build(kind: str, schema: Schema, *, width: int = 8, depth: int = 2, seed: int = 0) -> nn.Module:
    statistics = Preprocessing(mean=(30.0,), std=(70.0,)) if schema is IMAGES else None
    config = ModelConfig(family=family_of(kind), width=width, depth=depth, params=KINDS[kind])
    return models.build(config, schema, statistics, seed=seed).eval()


def rows(schema: Schema, count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if schema is IMAGES:
        return torch.randint(0, 256, (count, 1, 8, 8), generator=generator).float()
    ids = torch.randint(1, 30, (count, 7), generator=generator)
    ids[1, 3:] = 0
    return ids


def shrink(kind: str, model: nn.Module, schema: Schema, **size: int) -> nn.Module:
    return models.get(family_of(kind)).shrink(model, schema, size).eval()


@kinds
@schemas
def test_a_description_and_the_weights_give_the_model_back(kind: str, schema: Schema) -> None:
    model = build(kind, schema)
    twin = models.rebuild(models.describe(model)).eval()
    models.load_tensors(twin, models.tensors_from_bytes(models.tensors_to_bytes(model.state_dict())))
    assert torch.equal(twin(rows(schema)), model(rows(schema)))
    assert model(rows(schema)).shape == (5, len(schema.classes))


@kinds
@schemas
def test_each_learns_a_batch_by_heart_with_dropout(kind: str, schema: Schema) -> None:
    torch.manual_seed(0)
    model, inputs = build(kind, schema).train(), rows(schema)
    labels = torch.arange(5) % len(schema.classes)
    set_dropout(model, 0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert torch.equal(model.eval()(inputs).argmax(1), labels)


@kinds
@schemas
def test_bf16_trains_a_step(kind: str, schema: Schema) -> None:
    model = build(kind, schema).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(rows(schema))
    torch.testing.assert_close(logits.float(), model(rows(schema)), rtol=0.1, atol=0.1)
    nn.functional.cross_entropy(logits.float(), torch.zeros(5, dtype=torch.int64)).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@kinds
@schemas
def test_dropout_changes_training_and_never_an_answer(kind: str, schema: Schema) -> None:
    model = build(kind, schema)
    set_dropout(model, 0.5)
    assert torch.equal(model(rows(schema)), model(rows(schema)))
    assert not torch.equal(model.train()(rows(schema)), model(rows(schema)))


@kinds
def test_what_is_padded_does_not_change_an_answer(kind: str) -> None:
    """The same tokens with more room behind them, and another id in the place of padding's vector."""
    model, ids = build(kind, TOKENS), rows(TOKENS)
    before = model(ids)
    with torch.no_grad():
        model.embedding.weight[0] += 100.0
    torch.testing.assert_close(model(ids), before)
    ids[1, 3] = 5
    assert not torch.allclose(model(ids)[1], before[1])


@kinds
def test_a_row_of_padding_alone_has_a_finite_answer(kind: str) -> None:
    model = build(kind, TOKENS).train()
    logits = model(torch.zeros((2, 7), dtype=torch.int64))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@kinds
@schemas
def test_shrinking_to_the_same_size_changes_nothing(kind: str, schema: Schema) -> None:
    model = build(kind, schema)
    torch.testing.assert_close(shrink(kind, model, schema, width=8, depth=2)(rows(schema)), model(rows(schema)))


@kinds
@schemas
def test_a_smaller_member_has_the_size_asked_for(kind: str, schema: Schema) -> None:
    student = shrink(kind, build(kind, schema), schema, width=4, depth=1)
    described, fresh = models.describe(student), models.describe(build(kind, schema, width=4, depth=1))
    if kind == "transformer":  # heads keep their width, and become fewer
        [layer] = described["layers"]
        assert (described["width"], layer["heads"], layer["head_dim"], layer["hidden"]) == (4, 1, 4, 16)
    else:
        assert described == fresh
    assert student(rows(schema)).isfinite().all()


@pytest.mark.parametrize("kind", ["mlp", "gru", "lstm"])
@schemas
def test_units_without_any_weight_are_dropped_without_loss(kind: str, schema: Schema) -> None:
    """A teacher of width 4, widened to 8 by dead units, shrinks back to itself."""
    small, wide = build(kind, schema, width=4), build(kind, schema, width=8)
    weights = wide.state_dict()
    for name, old in small.state_dict().items():
        weights[name].copy_(_interleaved(old, weights[name].shape))
    torch.testing.assert_close(wide(rows(schema)), small(rows(schema)))
    torch.testing.assert_close(shrink(kind, wide, schema, width=4, depth=2)(rows(schema)), small(rows(schema)))


def test_a_transformer_keeps_the_heads_units_and_layers_that_have_weights() -> None:
    model = build("transformer", TOKENS)
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.out.weight[:, :4] = 0  # the first of two heads gives nothing
            for source in (layer.attention.query, layer.attention.key, layer.attention.value):
                source.weight[:4] = 0
        model.layers[0].attention.out.weight.mul_(1e-3)
        model.layers[0].second.weight.mul_(1e-3)
    student = shrink("transformer", model, TOKENS, width=4, depth=1)
    assert student.layers[0].attention.value.weight.abs().sum() > 0
    channels = [int((model.embedding.weight == column[:, None]).all(0).nonzero()) for column in student.embedding.weight.T]
    assert torch.equal(student.layers[0].attention.value.weight, model.layers[1].attention.value.weight[4:][:, channels])


@kinds
def test_a_student_larger_than_its_teacher_is_infeasible(kind: str) -> None:
    model = build(kind, TOKENS)
    with pytest.raises(RecipeInfeasible, match="wants 16 channels"):
        shrink(kind, model, TOKENS, width=16, depth=1)
    with pytest.raises(RecipeInfeasible, match="depth is 3, but the teacher has 2 layers"):
        shrink(kind, model, TOKENS, width=4, depth=3)


def test_another_family_cannot_inherit() -> None:
    with pytest.raises(RecipeInfeasible, match="the teacher is a Mlp, wanted an rnn"):
        models.get("rnn").shrink(build("mlp", TOKENS), TOKENS, {"width": 4, "depth": 1})


@kinds
def test_rows_with_a_label_at_each_token_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="got tokens with a label at each token, wanted one class per row"):
        build(kind, TokenSchema(length=7, vocab_size=30))


@pytest.mark.parametrize(
    ("family", "params", "message"),
    [("mlp", {"cell": "gru"}, "cell"), ("rnn", {"cell": "elman"}, "gru"), ("transformer", {"heads": 0}, "heads"), ("cnn", {"heads": 2}, "heads")],
)
def test_numbers_that_a_family_does_not_take_are_refused_at_plan_time(family: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        models.check(ModelConfig(family=family, params=params), IMAGES)


def test_heads_divide_the_width_and_patches_the_image() -> None:
    with pytest.raises(OutOfRange, match="heads is 4, but must divide the width of 6"):
        models.get("transformer").build(TOKENS, {"width": 6})
    with pytest.raises(OutOfRange, match="patch is 3, but must divide images of 8 x 8"):
        models.get("transformer").build(IMAGES, {"width": 8, "patch": 3})


@pytest.mark.parametrize("changed", [{"layers": []}, {"num_classes": 0}, {"reads": {"length": 7, "vocab_size": 0}}])
@kinds
def test_a_broken_architecture_is_corrupt(kind: str, changed: dict[str, object]) -> None:
    with pytest.raises(ArtifactCorrupt, match="architecture"):
        models.rebuild({**models.describe(build(kind, TOKENS)), **changed})


def _interleaved(old: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Zeros with `old` at every second place of each dimension that is twice as large: gates lie one below the other, each widened by itself."""
    new = torch.zeros(shape, dtype=old.dtype)
    new[tuple(slice(1, None, 2) if to == 2 * of else slice(None) for of, to in zip(old.shape, shape, strict=True))] = old
    return new
