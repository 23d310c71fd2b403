"""What all benchmark scripts share: running commands, and writing a result with everything that is needed to doubt it."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from foundry_ray.types import from_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One measured number. `runs` are the single measurements that `value` sums up; `peers` what stands beside it."""

    name: str
    claim: str
    value: float
    unit: str
    runs: Sequence[object]
    peers: Mapping[str, float] = field(default_factory=dict)

    def write(self) -> None:
        """Write `benchmarks/results/NAME.json` and say so."""
        document = {
            "claim": self.claim,
            "value": self.value,
            "unit": self.unit,
            "peers": dict(self.peers),
            "runs": list(self.runs),
            "hardware": hardware(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": shlex.join(["python", "-m", *_module(), *sys.argv[1:]]),
            "commit": _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}") else ""),
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(document, indent=2) + "\n")
        print(f"{self.name}: {self.value:.4g} {self.unit}", flush=True)


def tell(claims: Iterable[Claim], *, is_quick: bool = False) -> None:
    """Write the claims; those of a quick look are printed alone."""
    for claim in claims:
        if is_quick:
            print(f"{claim.name}: {claim.value:.4g} {claim.unit}", flush=True)
        else:
            claim.write()


@dataclass(frozen=True, slots=True, kw_only=True)
class Log(Generic[T]):
    """What was measured already, a JSON line for each row (a dataclass): an interrupted benchmark goes on behind the last one."""

    path: Path
    rows: list[T]

    @classmethod
    def of(cls, path: Path, kind: type[T], *, is_new: bool = False) -> Log[T]:
        """With the rows that the file holds; `is_new` begins without them."""
        if is_new:
            path.unlink(missing_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        return cls(path=path, rows=[from_json(kind, json.loads(line), what=path.name) for line in lines])

    def add(self, row: T) -> None:
        """Write it down."""
        row_of: Any = row
        with self.path.open("a") as stream:
            stream.write(json.dumps(asdict(row_of)) + "\n")
        self.rows.append(row)


class Handed:
    """A dataclass that travels to another process as a file of JSON."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote."""
        return from_json(cls, json.loads(path.read_text()), what=path.name)

    def write(self, path: Path) -> None:
        """For the other process."""
        itself: Any = self
        path.write_text(json.dumps(asdict(itself)))


def _module() -> list[str]:
    spec = sys.modules["__main__"].__spec__
    return [spec.name] if spec is not None else [sys.argv[0]]


def _git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def hardware() -> str:
    """Processor, cores and memory of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A command's end: wall time, exit code, output."""

    seconds: float
    code: int
    stdout: str


def timed(command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout_s: float = 3600.0) -> Finished:
    """Run a command and measure its wall time. Its stderr goes to ours."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=False)
    return Finished(seconds=time.perf_counter() - began, code=done.returncode, stdout=done.stdout)


def foundry(*args: str) -> list[str]:
    """The command line of this interpreter's foundry."""
    return [sys.executable, "-m", "foundry_ray.cli", *args]


def work_folder(name: str) -> Path:
    """A folder that survives between runs of a script, so that an interrupted one resumes."""
    folder = ROOT / ".foundry" / "benchmarks" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
