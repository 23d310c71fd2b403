"""How long the command line takes to answer: `foundry --help` and `foundry plan`.

python -m benchmarks.startup
"""

from __future__ import annotations

import statistics

from benchmarks.record import Claim, foundry, timed, work_folder

_REPEATS = 7


def main() -> None:
    """Median of seven runs each, after one that fills the disk cache."""
    home = {"FOUNDRY_HOME": str(work_folder("startup"))}
    timed(foundry("data", "fetch", "mnist_5k"), env=home)
    for name, args, limit in (("help_s", ("--help",), 0.3), ("plan_s", ("plan", "pipeline.yaml"), 2.0)):
        runs = [timed(foundry(*args), env=home) for _ in range(_REPEATS + 1)][1:]
        assert all(run.code == 0 for run in runs), f"foundry {' '.join(args)} failed"
        seconds = [run.seconds for run in runs]
        Claim(
            name=name, claim=f"`foundry {' '.join(args)}` answers in under {limit:g} s", value=statistics.median(seconds), unit="s", runs=seconds
        ).write()


if __name__ == "__main__":
    main()
