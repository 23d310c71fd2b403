"""Models of the user's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundry_ray import models
from foundry_ray.artifacts.manifests import publish
from foundry_ray.compression import apply_recipe
from foundry_ray.config import ModelConfig
from foundry_ray.errors import ArtifactCorrupt, ConfigError, RecipeInfeasible
from foundry_ray.protocols import Given
from foundry_ray.schemas import ImageSchema, Preprocessing, TokenSchema
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import CompressionRecipe, ModelArtifact, Step, canonical_bytes

from .conftest import SOURCE, Write

WORDS = TokenSchema(length=5, vocab_size=11)
IMAGES = ImageSchema(channels=1, height=4, width=4, dtype="uint8", classes=("a", "b"))
PREPROCESSING = Preprocessing(mean=(30.0,), std=(70.0,))
pytestmark = pytest.mark.usefixtures("write")


def config(name: str = "words", **params: object) -> ModelConfig:
    return ModelConfig(family=f"import:their_models:{name}", params=params)


def words(seed: int = 0, **params: object) -> nn.Module:
    return models.build(config(**params), WORDS, None, seed=seed).eval()


def ids() -> torch.Tensor:
    return torch.arange(10).reshape(2, 5)


def test_a_factory_gets_the_schema_and_its_parameters() -> None:
    model = words(width=8, tied=False)
    assert model(ids()).shape == (2, 5, 11)
    assert sum(weight.numel() for weight in model.parameters()) == 2 * 11 * 8 + 2 * 24 * 8 + 2 * 24


def test_equal_seeds_give_equal_models() -> None:
    assert torch.equal(words()(ids()), words()(ids()))
    assert not torch.equal(words()(ids()), words(seed=1)(ids()))


def test_a_model_is_made_again_from_its_description_and_its_weights() -> None:
    model = words(width=8)
    description = models.describe(model)
    twin = models.rebuild(description).eval()
    models.load_tensors(twin, models.tensors_from_bytes(models.tensors_to_bytes(model.state_dict())))
    assert (description["family"], description["params"]) == ("import:their_models:words", {"width": 8})
    assert torch.equal(twin(ids()), model(ids()))
    assert twin.head.weight is twin.embed.weight


def test_a_weight_of_two_layers_is_written_once_and_loads_under_either_name() -> None:
    model = words()
    tensors = models.tensors_from_bytes(models.tensors_to_bytes(model.state_dict()))
    assert "head.weight" not in tensors
    twin = words(seed=1)
    models.load_tensors(twin, {("head.weight" if name == "embed.weight" else name): tensor for name, tensor in tensors.items()})
    assert torch.equal(twin(ids()), model(ids()))


def test_buffers_that_the_model_makes_itself_are_left_alone() -> None:
    model = words()
    models.load_tensors(model, {**words(seed=1).state_dict(), "scale": torch.zeros(1)})
    assert model.scale.item() == 2.0


@pytest.mark.parametrize(
    ("change", "message"), [({"odd": torch.zeros(1)}, "missing none; unknown odd"), ({"embed.weight": None}, "missing embed.weight")]
)
def test_a_lost_or_unknown_tensor_is_refused(change: dict[str, torch.Tensor | None], message: str) -> None:
    tensors = {**words(tied=False).state_dict(), **change}
    with pytest.raises(RuntimeError, match=message):
        models.load_tensors(words(tied=False), {name: tensor for name, tensor in tensors.items() if tensor is not None})


def test_a_stored_model_is_loaded(store: MemoryStore) -> None:
    model = words()
    files = {"model.safetensors": models.tensors_to_bytes(model.state_dict()), "architecture.json": canonical_bytes(models.describe(model))}
    artifact = publish(store, kind="model", files=files, created_at="")
    stored = ModelArtifact(artifact=artifact, family=model.family, num_params=1, num_macs=1, size_bytes=1, recipe=CompressionRecipe())
    assert torch.equal(models.load_model(store, stored)(ids()), model(ids()))


def test_a_factory_that_makes_another_model_by_now_is_corrupt(write: Write) -> None:
    description = models.describe(words())
    write(SOURCE.replace("width=6", "width=7"))
    with pytest.raises(ArtifactCorrupt, match="import:their_models:words gives tensors of other shapes than when this model was trained"):
        models.rebuild(description)


def test_statistics_go_into_a_model_that_normalises_and_into_no_other() -> None:
    model = models.build(config("pixels"), IMAGES, PREPROCESSING, seed=0)
    assert (model[0].mean.item(), model[0].std.item()) == (30.0, 70.0)
    models.build(config("pixels", normalises=False), IMAGES, PREPROCESSING, seed=0)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("broken", {}, r"calling it fails at .*their_models\.py:\d+ with ZeroDivisionError: division by zero, wanted a torch module"),
        ("no_model", {}, "which gives a str, wanted a torch module"),
        ("words", {"widht": 8}, "which cannot be called with a schema and widht: got an unexpected keyword argument 'widht'"),
        ("wrods", {}, "has no 'wrods'.*did you mean 'words'"),
    ],
)
def test_a_factory_that_fails_is_refused_with_the_cause(name: str, params: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        models.build(config(name, **params), WORDS, None, seed=0)


def test_a_module_that_fails_is_refused_before_a_model_is_built(write: Write) -> None:
    write("raise OSError('no licence')")
    with pytest.raises(ConfigError, match=r"teacher.model.family is 'import:their_models:words'.*their_models\.py:1 with OSError: no licence"):
        models.check(config())


def test_a_family_of_convolutions_refuses_tokens() -> None:
    with pytest.raises(
        ConfigError, match=r"model family cnn got sequences of 5 token ids \(vocabulary of 11\), wanted images. Hint: for tokens choose"
    ):
        models.check(ModelConfig(family="cnn"), WORDS)
    with pytest.raises(ConfigError, match="model family resnet got sequences of 5 token ids"):
        models.build(ModelConfig(), WORDS, None, seed=0)


def test_an_imported_model_does_not_shrink() -> None:
    model = models.build(config("pixels"), IMAGES, PREPROCESSING, seed=0)
    recipe = CompressionRecipe(steps=(Step(kind="shrink", params={"width": 4, "depth": 1}),))
    with pytest.raises(RecipeInfeasible, match="is an imported model, which has no width and depth"):
        apply_recipe(model, recipe, Given(schema=IMAGES), family=model.family)


def test_an_imported_model_is_pruned_and_made_again() -> None:
    model = models.build(config("two_layers"), IMAGES, PREPROCESSING, seed=0).eval()
    recipe = CompressionRecipe(steps=(Step(kind="prune", params={"ratio": 0.5}),))
    student = apply_recipe(model, recipe, Given(schema=IMAGES), family=model.family).eval()
    assert student[1].out_features < 32
    state = torch.random.get_rng_state()
    description = models.describe(student)
    assert torch.equal(state, torch.random.get_rng_state())
    again = models.rebuild(description).eval()
    models.load_tensors(again, models.tensors_from_bytes(models.tensors_to_bytes(student.state_dict())))
    pixels = torch.arange(32.0).reshape(2, 1, 4, 4)
    assert torch.equal(again(pixels), student(pixels))
    assert again[1].out_features == student[1].out_features
    assert models.describe(again) == description


def test_a_model_that_was_changed_otherwise_has_no_description() -> None:
    model = models.build(config("pixels"), IMAGES, PREPROCESSING, seed=0)
    model[2] = nn.Sequential(nn.Linear(16, 3))
    with pytest.raises(RecipeInfeasible, match=r"import:their_models:pixels have changed their shapes.*Hint: leave `prune` out"):
        models.describe(model)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"family": "import:a:b", "width": 64}, "with width 64"),
        ({"params": {"a": 1}}, "a"),
        ({"family": "pretrained", "width": 64}, "with width 64, but a checkpoint brings its own size"),
    ],
)
def test_a_key_that_nobody_reads_is_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, ConfigError), match=message):
        models.check(ModelConfig.model_validate(keys))
