"""What inputs look like, as it is stored and as it is asked for."""

from __future__ import annotations

import pytest

from foundry_ray.errors import ArtifactCorrupt, ConfigError
from foundry_ray.schemas import ImageSchema, Schema, TokenSchema, classes_only, images_only
from foundry_ray.types import DatasetRef, from_json, to_json

IMAGES = ImageSchema(channels=3, height=4, width=5, dtype="uint8", classes=("a", "b"))
TOKENS = TokenSchema(length=8, vocab_size=100)


def document(schema: Schema) -> dict[str, object]:
    stored = to_json(DatasetRef(key="d", fingerprint="f", task="t", splits={}, schema=schema))
    assert isinstance(stored, dict)
    return stored


@pytest.mark.parametrize("schema", [IMAGES, TOKENS, TokenSchema(length=2, vocab_size=3, has_labels=True, classes=("no", "yes"))])
def test_a_stored_schema_is_told_apart_by_its_fields(schema: Schema) -> None:
    assert from_json(DatasetRef, document(schema)).schema == schema


def test_a_schema_of_no_kind_is_corrupt() -> None:
    with pytest.raises(ArtifactCorrupt, match="document is not a DatasetRef"):
        from_json(DatasetRef, {**document(IMAGES), "schema": {"length": 3}})


def test_shapes_of_inputs_and_labels() -> None:
    assert (IMAGES.shape, IMAGES.label_shape) == ((3, 4, 5), ())
    assert (TOKENS.shape, TOKENS.label_shape) == ((8,), (8,))
    assert TokenSchema(length=8, vocab_size=9, classes=("a",)).label_shape == ()


def test_who_works_on_images_alone_says_what_it_got() -> None:
    assert images_only(IMAGES, what="x") is IMAGES
    with pytest.raises(ConfigError, match=r"model family cnn got sequences of 8 token ids \(vocabulary of 100\), wanted images. Hint: for tokens"):
        images_only(TOKENS, what="model family cnn")


def test_who_needs_a_class_for_each_row_says_what_it_got() -> None:
    sorted_rows = TokenSchema(length=8, vocab_size=9, classes=("a",), has_labels=True)
    assert [classes_only(schema, what="x") for schema in (IMAGES, sorted_rows)] == [IMAGES, sorted_rows]
    with pytest.raises(ConfigError, match=r"the evaluation got tokens with a label at each token, wanted one class per row\. Hint: `foundry run"):
        classes_only(TOKENS, what="the evaluation")
