"""What an endpoint can do: how it is said, and for how long it is believed."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from foundry_ray.artifacts.s3.capabilities import Capabilities, memory_of

_WHOLE = Capabilities(lists_in_key_order=True)
_DAY_S = 86_400.0


def test_what_was_written_is_believed_for_a_day(tmp_path: Path) -> None:
    memory = memory_of(tmp_path, endpoint="a")
    found = Capabilities(delete_many=False)
    memory.write(found, uri="s3://b", probed_at_s=1_000.0)
    [known, kept] = memory.read(1_000.0 + _DAY_S - 1) or (None, None)
    assert known == found
    assert kept is not None
    assert kept.probed_at_s == 1_000.0
    assert [memory.read(now_s) for now_s in (999.0, 1_000.0 + _DAY_S)] == [None, None]
    assert stat.S_IMODE(memory.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"probed_at_s": 1, "capabilities": {}}', "\xff"])
def test_a_memory_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    memory = memory_of(tmp_path, endpoint="a")
    assert memory.read(0.0) is None
    memory.path.parent.mkdir()
    memory.path.write_text(text, encoding="latin1")
    assert memory.read(1.0) is None


def test_values_that_are_no_answers_are_not_believed(tmp_path: Path) -> None:
    memory = memory_of(tmp_path, endpoint="a").write(_WHOLE, uri="s3://b", probed_at_s=0.0)
    document = json.loads(memory.path.read_text())
    document["capabilities"]["create_only"] = "yes"
    memory.path.write_text(json.dumps(document))
    assert memory.read(1.0) is None


def test_another_way_to_ask_is_another_memory(tmp_path: Path) -> None:
    assert len({memory_of(tmp_path, endpoint=endpoint, tags=tags).path for endpoint in "ab" for tags in ({}, {"a": "b"})}) == 4


def test_a_home_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "probes").write_text("a file")
    memory_of(tmp_path, endpoint="a").write(_WHOLE, uri="s3://b", probed_at_s=0.0)
    assert "What s3://b can do is not remembered: File exists." in caplog.text


def test_a_whole_endpoint_lacks_nothing_and_each_lack_is_said_once() -> None:
    assert _WHOLE.lacks(is_single_writer=False) == ()
    none = Capabilities(**{name: False for name in Capabilities.__slots__ if name != "is_read_only"})
    assert len(none.lacks(is_single_writer=False)) == 6
    assert len(Capabilities(is_read_only=True).lacks(is_single_writer=False)) == 1


def test_only_missing_create_only_writes_need_mending_and_a_promise_mends_them() -> None:
    weak = Capabilities(create_only=False, delete_many=False)
    assert [bool(lack.fix) for lack in weak.lacks(is_single_writer=False)] == [True, False, False]
    assert [lack.fix for lack in weak.lacks(is_single_writer=True)] == ["", "", ""]
