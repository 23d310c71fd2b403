"""What is done under which stage key, by which run; and leases on work in progress.

Reuse, resume and caching are this one mechanism: a stage's result lies under a key that is made of everything that could change it.
"""

from foundry_ray.runlog.claims import outlast_collections
from foundry_ray.runlog.keys import plugin_source_sha256, stage_key
from foundry_ray.runlog.leases import Lease, hold
from foundry_ray.runlog.records import delete_run, find_run, find_run_id, list_runs, load_run, new_run_id, record_key, save_run
from foundry_ray.runlog.results import StageResult, commit_result, forget_result, read_result, result_key

__all__ = [
    "Lease",
    "StageResult",
    "commit_result",
    "delete_run",
    "find_run",
    "find_run_id",
    "forget_result",
    "hold",
    "list_runs",
    "load_run",
    "new_run_id",
    "outlast_collections",
    "plugin_source_sha256",
    "read_result",
    "record_key",
    "result_key",
    "save_run",
    "stage_key",
]
