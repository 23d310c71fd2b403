"""What a document names."""

from __future__ import annotations

from foundry_ray.housekeeping.references import named_keys, named_stage_keys
from foundry_ray.types import Json

KEY = "8de3379170ab18390a3e92b87505dbb1"


def test_a_key_is_found_wherever_it_stands() -> None:
    document: Json = {"a": ["artifacts/model/x.json", {"stages/data/1.json": 3}], "b": "blobs/sha256/ab/abc"}
    assert named_keys(document) == {"artifacts/model/x.json", "stages/data/1.json", "blobs/sha256/ab/abc"}


def test_text_that_mentions_a_key_names_nothing() -> None:
    assert named_keys(["artifacts/model/x.json has no file 'y'.", "model/x.json", "artifacts", "/artifacts/x"]) == frozenset()


def test_what_leaves_the_store_is_no_key() -> None:
    assert named_keys({"key": "artifacts/../../etc/passwd", "other": "stages//x"}) == frozenset()


def test_stage_keys_are_found_alone_and_inside_keys() -> None:
    assert (
        named_stage_keys({"study_key": KEY})
        == named_stage_keys([f"studies/{KEY}/trials/1.pt"])
        == named_stage_keys(f"stages/data/{KEY}.json")
        == {KEY}
    )


def test_a_deep_document_is_walked_without_the_stack() -> None:
    document: Json = "artifacts/model/x.json"
    for _ in range(100_000):
        document = [document]
    assert named_keys(document) == {"artifacts/model/x.json"}
