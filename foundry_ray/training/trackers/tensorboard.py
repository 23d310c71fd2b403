"""Event files for TensorBoard: `steps/` by optimizer step and `epochs/` by epoch, each a run of its own, because their axes differ.

A training that goes on opens a new file, whose first record tells TensorBoard to forget what an earlier one had from that step on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.training.trackers.lane import Axis, Point

if TYPE_CHECKING:
    from tensorboardX.record_writer import RecordWriter

__all__ = ["TensorBoard"]

_VERSION = "brain.Event:2"  # from which on TensorBoard honours the start of a session


class TensorBoard:
    """Keeps points in a folder. Tags are `steps/loss`, `epochs/val_loss`, ..."""

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Axis, RecordWriter] = {}

    def write(self, points: Sequence[Point]) -> None:
        """Append, and flush, so that a TensorBoard that runs shows them."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        for point in points:
            values = [Summary.Value(tag=f"{point.axis}/{name}", simple_value=value) for name, value in point.values.items()]
            event = Event(wall_time=point.time_s, step=point.index, summary=Summary(value=values))
            self._file(point).write(event.SerializeToString())
        for axis in {point.axis for point in points}:
            self._files[axis].flush()

    def close(self, *, is_good: bool) -> None:
        """Close the files."""
        del is_good
        for file in self._files.values():
            file.close()

    def _file(self, first: Point) -> RecordWriter:
        if first.axis not in self._files:
            self._files[first.axis] = self._open(first)
        return self._files[first.axis]

    def _open(self, first: Point) -> RecordWriter:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        folder = self._folder / first.axis
        folder.mkdir(parents=True, exist_ok=True)
        file = RecordWriter(str(folder / f"events.out.tfevents.{first.time_s:017.6f}.foundry"))
        start = SessionLog(status=SessionLog.START)
        for event in (Event(wall_time=first.time_s, file_version=_VERSION), Event(wall_time=first.time_s, step=first.index, session_log=start)):
            file.write(event.SerializeToString())
        return file
