"""Makes the environment that the peers live in, and runs a contestant to its end."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

from benchmarks.record import ROOT, work_folder

_PACKAGES = ("torchao==0.18.0", "nncf==3.4.0")
_INSTALL_TIMEOUT_S = 1_800.0


def peers_python() -> str:
    """The interpreter of a virtual environment with the peers in it, made where it is not. It sees the project's packages, torch among them."""
    folder = work_folder("compress_peers") / "venv"
    python, made = folder / "bin" / "python", folder / "made"
    if not made.is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=_INSTALL_TIMEOUT_S)
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages() if Path(path).is_dir()]
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        (folder / "lib" / version / "site-packages" / "project.pth").write_text("\n".join(lines) + "\n")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *_PACKAGES], check=True, timeout=_INSTALL_TIMEOUT_S)
        build = "import nncf.torch; nncf.torch.force_build_cpu_extensions()"
        subprocess.run([python, "-c", build], env={**os.environ, **_variables(python)}, check=True, timeout=_INSTALL_TIMEOUT_S)
        made.touch()
    return str(python)


def _variables(python: Path) -> dict[str, str]:
    """What a contestant finds in its environment. NNCF's C++ is compiled once, with the ninja of its environment, which may take minutes."""
    return {
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "TORCH_EXTENSIONS_DIR": str(work_folder("compress_peers") / "venv" / "extensions"),
        "NNCF_EXTENSION_LOAD_TIMEOUT": "0",
    }


def run(module: str, *arguments: str, log: Path, timeout_s: float, is_ours: bool = False) -> None:
    """Run a module of this package on one thread: ours in the project's environment, all else in the peers'.

    Raises:
        RuntimeError: It failed; the end of what it wrote is the text.
    """
    python = Path(sys.executable if is_ours else peers_python())
    command = [str(python), "-m", f"benchmarks.peers_compress.{module}", *arguments]
    with log.open("w") as stream:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **_variables(python)}, stdout=stream, stderr=stream, timeout=timeout_s, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{log.read_text()[-4000:]}")
