"""Files copied as fast as a disk takes them, inside the kernel where it can, and hashed on the way where their sha256 is wanted.

A buffer of 256 KiB stays in the processor's cache between being read, hashed and written; larger ones are slower.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

_BUFFER_BYTES = 256 << 10
_RANGE_BYTES = 1 << 30
_NOT_IN_KERNEL = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EPERM}


def copy(source: Path, target: FileIO) -> None:
    """Append a file to an empty, unbuffered one; file systems that share blocks between files share these."""
    with source.open("rb", buffering=0) as stream:
        if not _copy_in_kernel(stream.fileno(), target.fileno()):
            for block in _blocks(stream):
                write_whole(target, block)


def copy_and_hash(source: FileIO, target: FileIO) -> str:
    """Copy the rest of an unbuffered file into another one, in one pass. Returns the sha256 (hex) of what was copied."""
    digest = hashlib.sha256()
    for block in _blocks(source):
        digest.update(block)
        write_whole(target, block)
    return digest.hexdigest()


def write_whole(target: FileIO, data: bytes | memoryview) -> None:
    """Write to an unbuffered file, which takes at most 2 GiB at once."""
    rest = memoryview(data)
    while rest:
        rest = rest[target.write(rest) :]


def _copy_in_kernel(source: int, target: int) -> bool:
    """Whether the kernel copied it all; False: nothing is copied yet."""
    if not hasattr(os, "copy_file_range"):
        return False
    is_begun = False
    try:
        while os.copy_file_range(source, target, _RANGE_BYTES):
            is_begun = True
    except OSError as error:
        if is_begun or error.errno not in _NOT_IN_KERNEL:
            raise
        return False
    # Some kernels answer 0 at once for files that they make up while they are read.
    return is_begun or os.fstat(source).st_size == 0


def _blocks(stream: FileIO) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    while count := stream.readinto(buffer):
        yield buffer[:count]
