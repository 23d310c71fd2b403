"""The file objects behind Arrow's streams over a store: an upload that is whole or absent, a download by ranges.

Arrow (26.0) waits for the close of each file that `copy_files` wrote, and never looks at how it ended. So an upload that only `close` makes
would be lost in silence where the store fails. `Upload` therefore puts the object from within the last `write`, whose failure is looked at:
all chunks of a copy but the last are whole MiB, so a write of another length is the last one.
"""

from __future__ import annotations

import io
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

from foundry_ray.errors import StoreError, StoreUnavailable
from foundry_ray.protocols import ArtifactStore

_MIB = 1 << 20
_FIRST_AHEAD_BYTES = 256 << 10
_MOST_AHEAD_BYTES = 8 << 20


class Upload:
    """Collects what is written in a temporary file and puts it under `key` at the end. One that is never closed leaves nothing behind.

    Args:
        store: Takes the object.
        key: Its name.
        is_copy: Whether `copy_files` writes, which ignores how `close` ends.
        on_lost: Told of a failed put that nobody else will hear of.
    """

    def __init__(self, store: ArtifactStore, key: str, *, is_copy: bool, on_lost: Callable[[StoreError], None]) -> None:
        self._store = store
        self._key = key
        self._is_copy = is_copy
        self._on_lost = on_lost
        self._file = tempfile.NamedTemporaryFile(prefix="foundry-upload-")  # noqa: SIM115  # `_drop` closes it
        self._drop = weakref.finalize(self, self._file.close)  # also where Arrow forgets the stream in a cycle, file first
        self._num_bytes = 0
        self._num_put: int | None = None
        self.closed = False

    def write(self, data: bytes) -> int:
        """Take the next bytes. Raises StoreError where they end a copy that the store does not take."""
        num_bytes = self._file.write(data)
        self._num_bytes += num_bytes
        if self._is_copy and num_bytes % _MIB:
            self._put()
        return num_bytes

    def tell(self) -> int:
        """How many bytes were written."""
        return self._num_bytes

    def flush(self) -> None:
        """An object is written whole; there is nothing to do before its end."""

    def close(self) -> None:
        """Put the object. Raises StoreError where the store does not take it, or does not hold it whole after that."""
        if self.closed:
            return
        self.closed = True
        try:
            if self._num_put != self._num_bytes:
                self._put()
        except StoreError as error:
            if self._is_copy:
                self._on_lost(error)
            raise
        finally:
            self._drop()

    def _put(self) -> None:
        self._file.flush()
        self._store.put(self._key, Path(self._file.name))
        held = self._store.stat(self._key)
        if held is None or held.size_bytes != self._num_bytes:
            found = "no such object" if held is None else f"{held.size_bytes} bytes"
            message = f"{self._store.uri} confirmed {self._key} of {self._num_bytes} bytes and then has {found}."
            raise StoreUnavailable(message, hint="a gateway on the way drops bodies; `foundry doctor` checks the store.", uri=self._store.uri)
        self._num_put = self._num_bytes


class Download(io.RawIOBase):
    """Reads an object by ranges; what is read in sequence is fetched ahead, more each time.

    Args:
        store: Has the object.
        key: Its name.
        size_bytes: Its size.
    """

    def __init__(self, store: ArtifactStore, key: str, size_bytes: int) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._size_bytes = size_bytes
        self._position = 0
        self._window = b""
        self._window_start = 0
        self._ahead_bytes = _FIRST_AHEAD_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, as many as asked for unless the object ends. Raises StoreUnavailable where it ends before its size."""
        rest = max(0, self._size_bytes - self._position)
        wanted = rest if size is None or size < 0 else min(size, rest)
        offset = self._position - self._window_start
        is_inside = 0 <= offset <= len(self._window)
        if not is_inside or offset + wanted > len(self._window):
            self._fill(self._window[offset:] if is_inside else b"", wanted, is_sequel=is_inside)
            offset = 0
        self._position += wanted
        return self._window[offset : offset + wanted]

    def _fill(self, known: bytes, wanted: int, *, is_sequel: bool) -> None:
        """Let the window begin at the position, where `known` bytes are here already."""
        self._ahead_bytes = min(2 * self._ahead_bytes, _MOST_AHEAD_BYTES) if is_sequel else _FIRST_AHEAD_BYTES
        start = self._position + len(known)
        size = min(max(wanted - len(known), self._ahead_bytes), self._size_bytes - start)
        fetched = self._store.get(self._key, start=start, size=size)
        if len(fetched) != size:
            message = f"{self._key} of {self._store.uri} ended after {start + len(fetched)} of its {self._size_bytes} bytes."
            raise StoreUnavailable(message, hint="it was replaced while it was read; read it again.", uri=self._store.uri)
        self._window, self._window_start = known + fetched, self._position
