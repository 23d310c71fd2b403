"""Asking about jobs and clusters costs no heavy library."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import sys
import foundry_ray.runtime.jobs, foundry_ray.runtime.local_head, foundry_ray.runtime.session, foundry_ray.runtime.place
print(sorted({name.partition('.')[0] for name in sys.modules} & {'ray', 'torch', 'numpy', 'grpc', 'boto3'}))
"""


def test_importing_runtime_loads_no_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
