"""`make run` as a newcomer meets it: from a clean clone, installation included; then once more.

python -m benchmarks.clean_clone
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.record import ROOT, Claim, timed


def main() -> None:
    """Clone what is committed, run, run again, and clean up what ran."""
    folder = Path(tempfile.mkdtemp(prefix="foundry-clone-"))
    clone = folder / "foundry_ray"
    try:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        first = timed(["make", "run"], cwd=clone)
        assert first.code == 0, first.stdout[-2000:]
        Claim(
            name="make_run_first_s", claim="`make run` from a clean clone, installation included", value=first.seconds, unit="s", runs=[first.seconds]
        ).write()
        seconds = []
        for _ in range(3):
            again = timed(["make", "run"], cwd=clone)
            assert again.code == 0, again.stdout[-2000:]
            seconds.append(again.seconds)
        Claim(name="make_run_again_s", claim="a further `make run`, every stage reused", value=sorted(seconds)[1], unit="s", runs=seconds).write()
    finally:
        subprocess.run(["make", "clean"], cwd=clone, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
