"""What glibc does with freed blocks, seen in the pages that a fresh process takes for them again."""

from __future__ import annotations

import subprocess
import sys

import pytest

_NUM_PAGES = 2_000
_SCRIPT = """
import ctypes, resource, sys
from foundry_ray.training import heap
getattr(heap, sys.argv[1])()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def touch():
    blocks = [libc.malloc(500 * 4096) for _ in range(4)]
    [ctypes.memset(block, 1, 500 * 4096) for block in blocks]
    [libc.free(block) for block in blocks]
[touch() for _ in range(3)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
[touch() for _ in range(10)]
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc is of Linux")


def _faults_per_pass(asked: str) -> int:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, asked], capture_output=True, text=True, check=True, timeout=60)
    return int(done.stdout)


def test_kept_blocks_are_used_again_without_a_fault() -> None:
    assert _faults_per_pass("keep_freed_blocks") < _NUM_PAGES / 100


def test_large_blocks_that_are_returned_are_taken_page_by_page() -> None:
    assert _faults_per_pass("return_large_blocks") >= _NUM_PAGES
