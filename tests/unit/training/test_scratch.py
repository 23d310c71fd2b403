"""Where Ray Train writes: a folder for one machine, the store for several."""

from __future__ import annotations

from foundry_ray.config import Settings
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.training.scratch import scratch_for


def test_on_one_machine_it_is_a_folder(store: MemoryStore, settings: Settings) -> None:
    assert scratch_for(store, settings.home, is_here=True).storage() == {"storage_path": str(settings.home / "ray-train")}


def test_on_several_machines_it_is_the_store(store: MemoryStore, settings: Settings) -> None:
    storage = scratch_for(store, settings.home, is_here=False).storage()
    with storage["storage_filesystem"].open_output_stream(f"{storage['storage_path']}/run/file") as stream:
        stream.write(b"1")
    assert store.objects == {"ray-train/run/file": b"1"}


def test_only_runs_of_the_prefix_are_cleared(store: MemoryStore, settings: Settings) -> None:
    for key in ("ray-train/mine-1/a", "ray-train/mine-2/b", "ray-train/other/c", "runs/mine-1"):
        store.put(key, b"1")
        (settings.home / key).parent.mkdir(parents=True, exist_ok=True)
        (settings.home / key).write_bytes(b"1")
    for is_here in (True, False):
        scratch_for(store, settings.home, is_here=is_here).clear("mine-")
    assert sorted(store.objects) == ["ray-train/other/c", "runs/mine-1"]
    assert sorted(path.name for path in settings.home.rglob("*") if path.is_file()) == ["c", "mine-1"]
