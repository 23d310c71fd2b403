"""Files of token ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foundry_ray import data
from foundry_ray.config import CleanConfig, DataConfig, Settings, SplitConfig
from foundry_ray.data.tokens import TokenSource
from foundry_ray.errors import BadRecord, DataError
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import DatasetRef, TokenSchema, from_json, to_json

IDS = np.arange(40).reshape(10, 4)


def write(folder: Path, **arrays: object) -> Path:
    np.savez(folder / "text.npz", **{"inputs": IDS, "vocab_size": 40, **arrays})
    return folder / "text.npz"


def prepare(path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> DatasetRef:
    config = DataConfig(source=str(path), split=SplitConfig(train=6, val=2, test=2), clean=CleanConfig())
    return data.prepare(config, task="causal_lm", seed=0, store=store, settings=settings, reporter=reporter)


def test_blocks_are_split_and_are_their_own_labels(tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    ref = prepare(write(tmp_path), store, settings, reporter)
    train = data.load_split(ref, "train", store=store)
    assert ref.schema == TokenSchema(length=4, vocab_size=40)
    assert ref.preprocessing is None
    assert (train.inputs_N.dtype, train.inputs_N.shape) == (np.int64, (6, 4))
    assert train.labels_N is train.inputs_N
    assert {tuple(block) for block in train.inputs_N.tolist()} < {tuple(block) for block in IDS.tolist()}
    assert reporter.warnings == []


def test_preparing_again_gives_the_same_and_another_token_another(
    tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter
) -> None:
    first, again = (prepare(write(tmp_path), store, settings, reporter) for _ in range(2))
    changed = IDS.copy()
    changed[0, 0] = 39
    other = prepare(write(tmp_path, inputs=changed), store, settings, reporter)
    assert first == again
    assert first.fingerprint != other.fingerprint


def test_equal_blocks_are_dropped(tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    ref = prepare(write(tmp_path, inputs=np.concatenate([IDS[:9], IDS[:1]])), store, settings, reporter)
    assert ref.splits["train"].num_rows == 5
    assert "dropped 1 of 10 rows as exact duplicates" in reporter.warnings[0]


def test_labels_at_tokens_are_kept_and_may_be_left_out(tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    labels = np.where(IDS % 4 < 2, -100, IDS)
    ref = prepare(write(tmp_path, labels=labels), store, settings, reporter)
    val = data.load_split(ref, "val", store=store)
    assert val.labels_N.tolist() == np.where(val.inputs_N % 4 < 2, -100, val.inputs_N).tolist()


def test_a_class_per_block_is_split_in_proportion(tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    ref = prepare(write(tmp_path, labels=np.arange(10) % 2), store, settings, reporter)
    assert ref.schema.classes == ("0", "1")
    assert sorted(data.load_split(ref, "val", store=store).labels_N.tolist()) == [0, 1]


def test_a_data_set_of_tokens_survives_json(tmp_path: Path, store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    ref = prepare(write(tmp_path), store, settings, reporter)
    assert from_json(DatasetRef, to_json(ref)) == ref


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": IDS.astype(np.float32)}, "inputs of dtype float32, wanted integers"),
        ({"inputs": IDS[0]}, r"inputs of shape \(4,\), wanted \(blocks, tokens\)"),
        ({"inputs": IDS[:0]}, r"inputs of shape \(0, 4\), wanted"),
        ({"inputs": IDS[:, :1]}, r"inputs of shape \(10, 1\), wanted \(blocks, tokens\), with 2 tokens or more"),
        ({"vocab_size": 39}, r"inputs\[9, 3\] = 39, wanted 0\.\.38"),
        ({"inputs": IDS - 1}, r"inputs\[0, 0\] = -1, wanted 0\.\.39"),
        ({"vocab_size": [40, 41]}, r"vocab_size \[40 41\], wanted one number from 2 on"),
        ({"labels": IDS[:9]}, r"labels of shape \(9, 4\), wanted \(10,\) or \(10, 4\)"),
        ({"labels": IDS - 2}, r"labels\[0, 0\] = -2, wanted 0\.\.39 or -100"),
        ({"labels": np.full((10, 4), -100)}, "no label after the first token of row 0"),
        ({"inputs": np.array([{}], dtype=object)}, "cannot be read as a .npz file of plain arrays"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(BadRecord, match=message) as caught:
        TokenSource(write(tmp_path, **arrays)).load()
    assert "np.savez(path, inputs=ids, vocab_size=...)" in str(caught.value)


def test_a_file_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "text.npz", inputs=IDS)
    with pytest.raises(BadRecord, match="no array 'vocab_size', wanted inputs and vocab_size"):
        TokenSource(tmp_path / "text.npz").schema()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut short"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.npz").write_bytes(content)
    with pytest.raises(BadRecord, match=r"text\.npz cannot be read as a \.npz file"):
        TokenSource(tmp_path / "text.npz").load()


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadRecord, match="cannot be read"):
        TokenSource(path).load()


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no file\. Hint: `data.source` names a .npz file"):
        TokenSource(tmp_path / "text.npz").sha256()
