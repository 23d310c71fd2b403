"""Which claims hold: results against targets, one table, exit code 1 where one does not hold or was never measured.

python -m benchmarks.claims            print the table
python -m benchmarks.claims --readme   and write it into README.md, and what the joint sweep found with it
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.record import RESULTS, ROOT

_CLAIMS, _SWEEP = ("<!-- claims: written by `make claims` -->", "<!-- /claims -->"), ("<!-- sweep: written by `make claims` -->", "<!-- /sweep -->")


def rows(targets: Path, results: Path) -> list[tuple[str, str, str, str, bool]]:
    """(claim, measured, wanted, command, holds) for each target."""
    found = []
    for name, target in yaml.safe_load(targets.read_text()).items():
        wanted = f"{target['relation']} {target['value']:g}"
        path = results / f"{name}.json"
        if not path.is_file():
            found.append((name, "not measured", wanted, "", False))
            continue
        result = json.loads(path.read_text())
        value = float(result["value"])
        holds = value <= target["value"] if target["relation"] == "<=" else value >= target["value"]
        found.append((result["claim"], f"{value:.4g} {result['unit']}", f"{wanted} {result['unit']}", result["command"], holds))
    return found


def markdown(table: list[tuple[str, str, str, str, bool]]) -> str:
    """The table as Markdown."""
    lines = ["| claim | measured | wanted | holds | command |", "|---|---|---|---|---|"]
    lines += [f"| {claim} | {value} | {wanted} | {'yes' if holds else '**no**'} | `{command}` |" for claim, value, wanted, command, holds in table]
    return "\n".join(lines)


def sweep(result: Mapping[str, Any]) -> str:
    """What the joint sweep cost and found, as Markdown: the front, and the hypervolume as it grew."""
    seen = result["peers"]
    volumes = {int(name.split("_")[2]): value for name, value in seen.items() if name.startswith("hypervolume_at_")}
    lines = [
        f"{result['claim']}: **{result['value']:.0f} minutes**, {seen['worker_hours']:.2f} worker-hours, {seen['epochs']:.0f} epochs instead of "
        f"{seen['epochs_without_stopping']:.0f} (`{result['command']}`).",
        "",
        "| on the front | epochs | accuracy on val | p50, batch 1 | served bytes | parameters |",
        "|---|---|---|---|---|---|",
    ]
    for one in sorted(result["runs"], key=lambda one: -one["accuracy"]):
        measured = f"{one['accuracy']:.4f} | {one['latency_p50_ms']:.3f} ms | {one['size_bytes']:,.0f} | {one['num_params']:,.0f}"
        lines.append(f"| trial {one['trial']} | {one['epochs']} | {measured} |")
    lines += ["", "Hypervolume after so many minutes: " + ", ".join(f"{minute}: {volume:.3f}" for minute, volume in sorted(volumes.items())) + "."]
    return "\n".join(lines)


def write_between(readme: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what stands between the marks."""
    begin, end = marks
    before, _, rest = readme.read_text().partition(begin)
    _, _, after = rest.partition(end)
    readme.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main() -> None:
    """Print, and exit 1 where a claim does not hold."""
    table = rows(ROOT / "benchmarks" / "targets.yaml", RESULTS)
    print(markdown(table))
    if "--readme" in sys.argv[1:]:
        write_between(ROOT / "README.md", _CLAIMS, markdown(table))
        write_between(ROOT / "README.md", _SWEEP, sweep(json.loads((RESULTS / "joint_sweep_minutes.json").read_text())))
    sys.exit(0 if all(row[-1] for row in table) else 1)


if __name__ == "__main__":
    main()
