"""Runs the benchmarks: the quick ones, or all.

python -m benchmarks.run quick
python -m benchmarks.run all
"""

from __future__ import annotations

import importlib
import sys

_QUICK = ("startup",)
_LONG = (
    *("mnist_quality", "clean_clone", "store_throughput", "store_scale"),
    *("train_startup", "train_throughput", "train_checkpoint", "train_zero", "train_fashion"),
    *("compress_winner", "compress_table", "compress_fashion", "compress_peers", "compress_text"),
    *("search_regret", "search_moasha", "search_simulated", "search_overhead", "search_joint"),  # the tables are made by search_curves, by hand
)


def main() -> None:
    """Each benchmark writes its own results as soon as it has them."""
    which = sys.argv[1] if len(sys.argv) > 1 else "quick"
    if which not in ("quick", "all"):
        sys.exit(f"got {which!r}, wanted quick or all")
    for name in _QUICK + (_LONG if which == "all" else ()):
        print(f"== benchmarks.{name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
