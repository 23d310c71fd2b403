"""The one copy of what a rank saves: host memory that the store reads as if it were a file.

The loop waits only while this copy is made. The store takes bytes or a path; bytes would be a second copy of the whole state, and a file on the
node's disk a second write of it. So the memory is an anonymous file (memfd_create): it is mapped for the copy, has a path in /proc for the
store, takes no disk, and is gone with the process, however that ends. Where the kernel has none of these (macOS), a temporary file is written
for each upload. GPUs copy into it directly: it is registered with CUDA as pinned memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry_ray.training.checkpoint.plan import Placed

if TYPE_CHECKING:
    from torch import Tensor


class HostBuffer:
    """Memory of a fixed size, reused from one checkpoint to the next.

    Args:
        size_bytes: Exactly what the object will have; at least one.
        is_pinned: For copies from CUDA devices.

    Raises:
        OSError: The machine has not so much memory.
    """

    def __init__(self, size_bytes: int, *, is_pinned: bool) -> None:
        import torch

        self.size_bytes = size_bytes
        self._file = _memory_file(size_bytes)
        self._map = mmap.mmap(-1 if self._file is None else self._file, size_bytes)
        with suppress(OSError):  # a kernel without them in memory files serves small pages
            self._map.madvise(getattr(mmap, "MADV_HUGEPAGE", mmap.MADV_WILLNEED))
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self._is_pinned = is_pinned and _register(self._bytes)

    def fill(self, copies: Sequence[Placed]) -> None:
        """Copy live tensors in; when it returns they may change."""
        import torch

        devices = set()
        with torch.no_grad():
            for copy in copies:
                target = self._bytes[copy.offset : copy.offset + copy.tensor.nbytes].view(copy.tensor.dtype).view(copy.tensor.shape)
                target.copy_(copy.tensor, non_blocking=self._is_pinned)
                if copy.tensor.is_cuda:
                    devices.add(copy.tensor.device)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()

    def view(self, offset: int, size_bytes: int) -> memoryview:
        """Some of its bytes, as they are now."""
        return memoryview(self._map)[offset : offset + size_bytes]

    @contextmanager
    def path(self) -> Iterator[Path]:
        """A file with its bytes, for as long as the context lasts."""
        if self._file is not None:
            yield Path(f"/proc/self/fd/{self._file}")
            return
        with tempfile.NamedTemporaryFile(prefix="foundry-checkpoint-") as file:
            file.write(self._map)
            file.flush()
            yield Path(file.name)

    def release(self) -> None:
        """Give the memory back. Nobody may use it any more."""
        if self._is_pinned:
            _cuda().cudaHostUnregister(self._bytes.data_ptr())
        self._is_pinned = False
        del self._bytes
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _memory_file(size_bytes: int) -> int | None:
    if not hasattr(os, "memfd_create") or not Path("/proc/self/fd").is_dir():
        return None
    descriptor = os.memfd_create("foundry-checkpoint")
    try:
        os.ftruncate(descriptor, size_bytes)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _register(memory: Tensor) -> bool:
    """Pin memory that is there already. False where CUDA refuses (a limit on locked memory): copies are slower, and right all the same."""
    import torch

    if int(_cuda().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)) == 0:
        return True
    with suppress(RuntimeError):  # CUDA reports the refusal once more, to the next kernel: to this one
        torch.zeros(1, device="cuda")
    return False


def _cuda() -> Any:
    import torch

    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
