"""Documents that say what cannot be are refused before anything is read by them."""

from __future__ import annotations

import pytest

from foundry_ray.artifacts.manifests import get_json
from foundry_ray.errors import ArtifactCorrupt, StoreError
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.training.checkpoint.layout import committed_keys, parse_checkpoint, parse_index
from foundry_ray.types import Json
from tests.unit.training.checkpoint._states import KEY, make_states, make_truth, save


@pytest.fixture
def manifest(store: MemoryStore) -> tuple[str, dict[str, Json]]:
    """Of a checkpoint of two ranks: its key and its content."""
    key = save(store, make_states(make_truth(), 2)).folder + "manifest.json"
    value = get_json(store, key)
    assert isinstance(value, dict)
    return key, value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage_key": "1" * 32}, r"is the checkpoint of another place \(checkpoints/1{32}/000000010-a/\)"),
        ({"attempt": "../../x"}, "is the checkpoint of another place"),
        ({"world_size": 3}, "names 2 parts, wanted one of each of its 3 ranks"),
        ({"step": "10"}, "is not a Checkpoint: got '10', wanted int"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_corrupt(manifest: tuple[str, dict[str, Json]], change: dict[str, Json], message: str) -> None:
    key, value = manifest
    with pytest.raises(ArtifactCorrupt, match=message):
        parse_checkpoint(key, {**value, **change})


def test_a_manifest_of_a_newer_foundry_is_refused(manifest: tuple[str, dict[str, Json]]) -> None:
    key, value = manifest
    with pytest.raises(StoreError, match="has format_version 3, this foundry reads up to 2"):
        parse_checkpoint(key, {**value, "format_version": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 8}, "w has 8 bytes from 8 on, and its object 8"),
        ({"offset": -8}, "w has 8 bytes from -8 on"),
        ({"numel": -1}, "w has -4 bytes from 0 on"),
        ({"dtype": "object"}, "w has the type 'object', wanted one of bool, uint8"),
    ],
)
def test_an_index_that_points_out_of_its_object_is_corrupt(change: dict[str, Json], message: str) -> None:
    block: dict[str, Json] = {"slot": "weights", "name": "w", "start": 0, "numel": 2, "total": 2, "dtype": "float32", "offset": 0, "sha256": ""}
    value: Json = {"data": {"sha256": "", "size_bytes": 8}, "blocks": [{**block, **change}], "own": [], "format_version": 2}
    with pytest.raises(ArtifactCorrupt, match=message):
        parse_index("rank-00000.json", value)


def test_committed_checkpoints_of_all_forms_are_told_from_the_rest() -> None:
    root = f"checkpoints/{KEY}/"
    whole = [
        [f"{root}000009/manifest.json", f"{root}000009/rank-00000/loop.pt"],
        [f"{root}000010-{'b' * 32}.safetensors"],
        [f"{root}000000002-a.1/manifest.json", f"{root}000000002-a.1/rank-00000.bin"],
        [f"{root}000000010-a/manifest.json"],
    ]
    others = [f"{root}progress.json", f"{root}000000011-a/rank-00000.bin", f"{root}000011/rank-00000.json", f"{root}notes/manifest.json"]
    assert committed_keys(sorted([*(key for keys in whole for key in keys), *others])) == whole
