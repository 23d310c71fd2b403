"""Models of tokens and of patches: exported, counted, with a smaller vocabulary, with factorised layers."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from foundry_ray import models
from foundry_ray.compression import apply_recipe, cost, to_onnx
from foundry_ray.compression.factorize import truncated
from foundry_ray.compression.imitation import imitated
from foundry_ray.compression.onnx_layers import is_traced
from foundry_ray.compression.parity import check_export
from foundry_ray.compression.quantize import quantized
from foundry_ray.compression.quantize_params import QuantizeParams
from foundry_ray.config import ModelConfig
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.inference import open_runtime
from foundry_ray.models.layers import set_dropout
from foundry_ray.protocols import Given
from foundry_ray.types import CompressionRecipe, ImageSchema, Preprocessing, Schema, Step, TokenSchema

IMAGES = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("a", "b", "c"))
TOKENS = TokenSchema(length=9, vocab_size=60, has_labels=True, classes=("x", "y"), padding=0)
KINDS = {"mlp": ("mlp", {}), "gru": ("rnn", {}), "lstm": ("rnn", {"cell": "lstm"}), "transformer": ("transformer", {"heads": 2})}
kinds = pytest.mark.parametrize("kind", KINDS)
schemas = pytest.mark.parametrize("schema", [IMAGES, TOKENS], ids=["images", "tokens"])


def build(kind: str, schema: Schema, *, width: int = 16, depth: int = 2) -> nn.Module:
    family, params = KINDS[kind]
    statistics = Preprocessing(mean=(30.0,), std=(70.0,)) if schema is IMAGES else None
    return models.build(ModelConfig(family=family, width=width, depth=depth, params=params), schema, statistics, seed=0).eval()


def rows(schema: Schema, count: int = 6) -> np.ndarray:
    generator = np.random.default_rng(0)
    if schema is IMAGES:
        return generator.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    ids = generator.integers(1, 60, (count, 9))
    ids[1, 3:], ids[2] = 0, 0
    return ids


def training_rows() -> np.ndarray:
    """Ids 1..29, the higher ones rarer, and padding."""
    ids = np.random.default_rng(1).integers(1, 30, (40, 9))
    ids[:, 7:] = 0
    ids[ids > 20] = np.where(np.arange((ids > 20).sum()) % 2, 5, ids[ids > 20])
    return ids


def made(model: nn.Module, *steps: Step) -> nn.Module:
    given = Given(schema=TOKENS, task="text_classification", inputs_N=training_rows(), seed=0)
    return apply_recipe(model, CompressionRecipe(steps=steps), given, family=model.family).eval()


def is_direct(data: bytes) -> bool:
    """Written in milliseconds, and not by torch's exporter."""
    return is_traced(onnx.load_model_from_string(data).graph)


def logits(model: nn.Module, inputs: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(inputs))


@kinds
@schemas
def test_a_family_is_written_directly_and_answers_as_torch_does(kind: str, schema: Schema) -> None:
    model = build(kind, schema)
    set_dropout(model, 0.3)
    assert is_direct(to_onnx(model, schema))
    assert check_export(model, to_onnx(model, schema), rows(schema)).max_abs_ratio < 1e-5


def test_a_file_of_tokens_has_a_free_batch_and_a_fixed_length() -> None:
    graph = onnx.load_model_from_string(to_onnx(build("transformer", TOKENS), TOKENS)).graph
    [tokens], [result] = graph.input, graph.output
    assert (tokens.name, tokens.type.tensor_type.elem_type) == ("tokens", onnx.TensorProto.INT64)
    assert [dim.dim_value or dim.dim_param for dim in tokens.type.tensor_type.shape.dim] == ["batch", 9]
    assert [dim.dim_value or dim.dim_param for dim in result.type.tensor_type.shape.dim] == ["batch", 2]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.initializer)


class Numbering(nn.Module):
    """Computes with whole numbers and booleans: none of the rules does, so torch's exporter has to."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(70, 4), nn.Linear(4, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        is_there = ids != 0
        return self.head(self.embed((ids + 1) * is_there.type_as(ids)).mean(1)) / (is_there.sum(1).unsqueeze(1) + 1)


class Blank(nn.Module):
    """Compares floats, and makes floats of what it reads."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.head = nn.Linear(math.prod(schema.shape), len(schema.classes))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        numbers = inputs.float()
        return self.head((numbers * (numbers == 0).type_as(numbers) + numbers).flatten(1))


@pytest.mark.parametrize(
    ("model", "schema", "is_written"), [(Numbering(), TOKENS, False), (Blank(IMAGES), IMAGES, True), (Blank(TOKENS), TOKENS, True)]
)
def test_whole_numbers_booleans_and_floats_are_kept_apart(model: nn.Module, schema: Schema, is_written: bool) -> None:
    data = to_onnx(model.eval(), schema)
    assert is_direct(data) == is_written
    assert check_export(model, data, rows(schema)).max_abs_ratio < 1e-5


def test_what_cannot_be_written_directly_goes_through_torch() -> None:
    """A shipped family inside of something that control flow keeps from being traced."""

    class Doubting(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.inner(ids) if len(ids.shape) == 2 else self.inner(ids[None])

    model = Doubting(build("mlp", TOKENS, width=4, depth=1)).eval()
    assert not is_direct(to_onnx(model, TOKENS))
    assert check_export(model, to_onnx(model, TOKENS), rows(TOKENS)).max_abs_ratio < 1e-5


def test_the_products_of_an_encoder_are_counted() -> None:
    """T places, width D: four D x D layers and two D x 4D ones at each, and attention's T x T x D twice; the classifier once."""
    num_places, width, depth = 9, 16, 2
    macs = depth * (num_places * (4 + 8) * width**2 + 2 * num_places**2 * width) + width * 2
    assert cost(build("transformer", TOKENS), TOKENS).num_macs == macs


@pytest.mark.parametrize(("kind", "gates"), [("gru", 3), ("lstm", 4)])
def test_the_products_of_a_recurrent_layer_are_counted(kind: str, gates: int) -> None:
    assert cost(build(kind, TOKENS), TOKENS).num_macs == 9 * 2 * gates * 2 * 16 * 16 + 16 * 2


def test_the_products_of_torchs_own_attention_are_counted_in_eval_mode_too() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(60, 16)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
            self.head = nn.Linear(16, 2)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.embed(ids)
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    assert cost(Attending().eval(), TOKENS).num_macs == 9 * 4 * 16**2 + 2 * 9**2 * 16 + 16 * 2


@kinds
def test_rows_without_a_trimmed_token_get_the_same_answers(kind: str) -> None:
    model = build(kind, TOKENS)
    trimmed = made(model, Step(kind="trim_vocabulary"))
    assert torch.equal(logits(trimmed, training_rows()), logits(model, training_rows()))
    assert len(trimmed.embedding.weight) == len(np.unique(training_rows())) + 1 < 60
    assert check_export(trimmed, to_onnx(trimmed, TOKENS), rows(TOKENS)).max_abs_ratio < 1e-5
    assert is_direct(to_onnx(trimmed, TOKENS))


def test_all_trimmed_tokens_share_the_mean_of_their_vectors() -> None:
    model = build("mlp", TOKENS)
    trimmed = made(model, Step(kind="trim_vocabulary"))
    present = np.unique(training_rows())
    gone = [token for token in range(60) if token not in present]
    vectors = trimmed.embedding(torch.tensor(gone))
    torch.testing.assert_close(vectors, model.embedding.weight[gone].mean(0).expand_as(vectors))


def test_a_larger_count_keeps_fewer_tokens_and_padding_always() -> None:
    counts = np.bincount(training_rows().ravel(), minlength=60)
    trimmed = made(build("mlp", TOKENS), Step(kind="trim_vocabulary", params={"min_count": 12}))
    assert len(trimmed.embedding.weight) == int((counts >= 12).sum()) + 1
    given = Given(schema=TOKENS, inputs_N=np.full((4, 9), 7))
    alone = apply_recipe(build("mlp", TOKENS), CompressionRecipe(steps=(Step(kind="trim_vocabulary"),)), given, family="mlp")
    assert alone.embedding.places.tolist() == [0] + [2] * 6 + [1] + [2] * 52


@kinds
def test_a_trimmed_and_factorised_model_is_described_and_made_again(kind: str) -> None:
    steps = (Step(kind="trim_vocabulary"), Step(kind="factorize", params={"embedding_ratio": 0.25, "linear_ratio": 0.25}))
    model = made(build(kind, TOKENS), *steps)
    twin = models.rebuild(models.describe(model)).eval()
    models.load_tensors(twin, models.tensors_from_bytes(models.tensors_to_bytes(model.state_dict())))
    assert torch.equal(logits(twin, rows(TOKENS)), logits(model, rows(TOKENS)))
    assert check_export(model, to_onnx(model, TOKENS), rows(TOKENS)).max_abs_ratio < 1e-5


@kinds
def test_a_trimmed_model_shrinks_and_still_takes_all_ids(kind: str) -> None:
    trimmed = made(build(kind, TOKENS), Step(kind="trim_vocabulary"))
    student = made(build(kind, TOKENS), Step(kind="trim_vocabulary"), Step(kind="shrink", params={"width": 8, "depth": 1}))
    assert torch.equal(student.embedding.places, trimmed.embedding.places)
    assert logits(student, np.full((1, 9), 59)).isfinite().all()


@kinds
@schemas
def test_a_pruned_family_is_described_and_exported(kind: str, schema: Schema) -> None:
    model = build(kind, schema, width=32)
    recipe = CompressionRecipe(steps=(Step(kind="prune", params={"ratio": 0.5}),))
    pruned = apply_recipe(model, recipe, Given(schema=schema), family=model.family).eval()
    twin = models.rebuild(models.describe(pruned)).eval()
    models.load_tensors(twin, pruned.state_dict())
    assert cost(pruned, schema).num_params < cost(model, schema).num_params
    assert check_export(twin, to_onnx(pruned, schema), rows(schema)).max_abs_ratio < 1e-5


def test_what_there_is_nothing_to_trim_of_is_infeasible() -> None:
    recipe = CompressionRecipe(steps=(Step(kind="trim_vocabulary"),))
    images = build("mlp", IMAGES)
    with pytest.raises(RecipeInfeasible, match="the data set has images, wanted tokens"):
        apply_recipe(images, recipe, Given(schema=IMAGES), family="mlp")
    with pytest.raises(RecipeInfeasible, match="there are no training rows"):
        apply_recipe(build("mlp", TOKENS), recipe, Given(schema=TOKENS), family="mlp")
    with pytest.raises(RecipeInfeasible, match="60 of 60 tokens occur 1 times or more"):
        apply_recipe(build("mlp", TOKENS), recipe, Given(schema=TOKENS, inputs_N=np.arange(60)[None]), family="mlp")


def test_a_vocabulary_that_is_an_output_too_is_not_trimmed() -> None:
    model = build("mlp", TOKENS)
    model.tied = nn.Linear(16, 60, bias=False)
    model.tied.weight = model.embedding.weight
    with pytest.raises(RecipeInfeasible, match="another layer's too"):
        made(model, Step(kind="trim_vocabulary"))


def padded(**options) -> nn.Module:
    """A model whose table has a row for padding; token 0 is kept as such by the schema, 3 is another."""
    model = build("mlp", TOKENS)
    weight = model.embedding.weight.detach()
    model.embedding = nn.Embedding(60, 16, **options)
    model.embedding.weight.data.copy_(weight)
    return model


@pytest.mark.parametrize(
    "steps",
    [
        (Step(kind="trim_vocabulary"),),
        (Step(kind="factorize", params={"embedding_ratio": 0.5}),),
        (Step(kind="trim_vocabulary"), Step(kind="factorize", params={"embedding_ratio": 0.5})),
    ],
)
def test_a_row_of_padding_learns_as_little_as_before(steps: tuple[Step, ...]) -> None:
    token = int(np.unique(training_rows())[2])
    small = made(padded(padding_idx=token), *steps)
    twin = models.rebuild(models.describe(small))
    models.load_tensors(twin, small.state_dict())
    for model in (small, twin):
        before = model.embedding(torch.tensor([token])).detach()
        optimizer = torch.optim.SGD(
            [parameter for name, parameter in model.named_parameters() if name.startswith("embedding.") and name.endswith("table.weight")], lr=1.0
        )
        model(torch.from_numpy(training_rows())).square().sum().backward()
        optimizer.step()
        assert torch.equal(model.embedding(torch.tensor([token])), before)
        assert not torch.equal(model.embedding(torch.tensor([token + 1])), before)


def test_a_table_that_does_more_than_look_rows_up_is_refused() -> None:
    class Scaled(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return 8 * super().forward(ids)

    scaled = build("mlp", TOKENS)
    scaled.embedding = Scaled(60, 16)
    with pytest.raises(RecipeInfeasible, match="embedding is a Scaled, which may do more than look rows up"):
        made(scaled, Step(kind="trim_vocabulary"))
    for step in (Step(kind="trim_vocabulary"), Step(kind="factorize", params={"embedding_ratio": 0.5})):
        with pytest.raises(RecipeInfeasible, match=r"embedding cuts (its )?rows to `max_norm`"):
            made(padded(max_norm=1.0), step)


class Sharing(nn.Module):
    """One table and one attention, each under two names; and as many positions as there are tokens, in torch's own encoder layer."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.shared, self.positions = nn.Embedding(60, 16), nn.Embedding(60, 16)
        self.inner = nn.ModuleDict({"embed": self.shared, "layer": nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)})
        attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.first, self.second = nn.ModuleDict({"attention": attention}), nn.ModuleDict({"attention": attention})
        self.head, self.length = nn.Linear(16, 2), length

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.inner["layer"](self.inner["embed"](ids) * self.positions(torch.arange(self.length, device=ids.device)))
        for block in (self.first, self.second):
            x = x + block["attention"](x, x, x)[0]
        return self.head(x.mean(1))


def test_a_layer_that_stands_twice_is_replaced_twice_and_positions_are_no_tokens() -> None:
    model = Sharing(9).eval()
    model.family = "own"
    small = made(model, Step(kind="trim_vocabulary"), Step(kind="factorize", params={"embedding_ratio": 0.25, "linear_ratio": 0.25}))
    assert small.inner["embed"] is small.shared
    assert (type(small.shared).__name__, type(small.positions).__name__) == ("TrimmedEmbedding", "LowRankEmbedding")
    assert len(small.shared.weight) == len(np.unique(training_rows())) + 1
    assert small.positions.weight.shape == (60, 16)
    assert logits(small, training_rows()).isfinite().all()
    fewer = made(model, Step(kind="prune", params={"heads_ratio": 0.5}))
    assert fewer.second["attention"] is fewer.first["attention"]
    assert cost(fewer, TOKENS).num_params < cost(model, TOKENS).num_params


@settings(max_examples=25, deadline=None)
@drawn(rows=st.integers(2, 20), columns=st.integers(2, 20), share=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_the_error_of_a_factorisation_is_the_tail_of_the_singular_values(rows: int, columns: int, share: float, seed: int) -> None:
    weight = torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed))
    rank = max(1, int(share * min(rows, columns)))
    left, right = truncated(weight, rank)
    tail = torch.linalg.svdvals(weight)[rank:].square().sum().sqrt().item()
    assert left.shape == (rows, rank)
    assert right.shape == (rank, columns)
    assert math.isclose((weight - left @ right).norm().item(), tail, rel_tol=1e-3, abs_tol=1e-4)


def test_factorising_embedding_and_layers_has_the_size_that_it_says() -> None:
    model = build("transformer", TOKENS, width=32)
    small = made(model, Step(kind="factorize", params={"embedding_ratio": 0.25, "linear_ratio": 0.25}))
    assert (small.embedding.table.weight.shape, small.embedding.project.weight.shape) == ((60, 8), (32, 8))
    whole, cut = 4 * 32 * 32 + 2 * 32 * 128, 4 * 8 * 64 + 2 * 8 * 160
    saved = (60 * 32 - 8 * (60 + 32)) + 2 * (whole - cut)
    assert cost(model, TOKENS).num_params - cost(small, TOKENS).num_params == saved
    assert type(small.head) is nn.Linear


def test_a_ratio_of_1_changes_nothing_and_one_that_makes_nothing_smaller_is_infeasible() -> None:
    model = build("mlp", TOKENS)
    assert torch.equal(logits(made(model, Step(kind="factorize")), rows(TOKENS)), logits(model, rows(TOKENS)))
    with pytest.raises(RecipeInfeasible, match="no embedding and no linear layer would get smaller"):
        made(model, Step(kind="factorize", params={"linear_ratio": 0.9}))


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
@pytest.mark.parametrize("chosen", [{"bits": 8}, {"bits": 8, "scheme": "dynamic"}, {"bits": 8, "scheme": "weight_only"}, {"bits": 4}, {"bits": 16}])
def test_a_model_of_tokens_is_imitated_for_gpus_with_its_tables_as_they_are_stored(kind, chosen):
    model, given = build(kind, TOKENS), Given(schema=TOKENS, task="text_classification", inputs_N=training_rows())
    params = QuantizeParams.model_validate(chosen)
    made = quantized(to_onnx(model, TOKENS), training_rows(), params, given=given)
    shipped = open_runtime(made.onnx).run(rows(TOKENS))
    like = imitated(model, params, made, TOKENS)(torch.from_numpy(rows(TOKENS))).numpy()
    rounds_activations = params.bits == 8 and params.scheme != "weight_only"
    assert np.abs(like - shipped).max() / np.ptp(shipped) < (0.05 if rounds_activations else 1e-4)
    plain = model(torch.from_numpy(rows(TOKENS))).detach().numpy()
    assert np.abs(like - plain).max() > 0
