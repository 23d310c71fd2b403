"""Which claims hold: results against targets, one table, exit code 1 where one does not hold or was never measured.

python -m benchmarks.claims            print the table
python -m benchmarks.claims --readme   and write it into README.md, and what the joint sweep, the winner and the table of techniques are with it
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks import compress_rows
from benchmarks.record import RESULTS, ROOT

_CLAIMS, _SWEEP = ("<!-- claims: written by `make claims` -->", "<!-- /claims -->"), ("<!-- sweep: written by `make claims` -->", "<!-- /sweep -->")
_WINNER = ("<!-- winner: written by `make claims` -->", "<!-- /winner -->")
_TECHNIQUES = ("<!-- techniques: written by `make claims` -->", "<!-- /techniques -->")


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


def winner(result: Mapping[str, Any]) -> str:
    """Teacher and students of the whole toolbox, a seed after the other, as Markdown."""
    lines = [
        "| seed | model | parameters | MACs | served bytes | val | test | points below (95 %) | p50 onnxruntime | p50 OpenVINO |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for seed in result["runs"]:
        size = f"{seed['num_params']:,} | {seed['num_macs']:,}"
        accuracy = f"{seed['val_accuracy']:.4f} | {seed['test_accuracy']:.4f} | |"
        lines.append(f"| {seed['seed']} | teacher, fp32 | {size} | {seed['size_bytes']:,} | {accuracy} {_times(seed['p50_ms'])} |")
        rounded = f"{seed['int8_size_bytes']:,} | {seed['int8_val_accuracy']:.4f} | | |"
        lines.append(f"| | teacher, int8 | {size} | {rounded} {_times(seed['int8_p50_ms'])} |")
        for name, one in seed["points"].items():
            low, high = one["drop_interval"]
            told = f"{one['num_params']:,} | {one['num_macs']:,} | {one['size_bytes']:,} | {one['val_accuracy']:.4f} | {one['test_accuracy']:.4f}"
            drop = f"{one['drop_points']:.2f} ({low:.2f} to {high:.2f})"
            lines.append(f"| | {name}, ships with {one['runtime']} | {told} | {drop} | {_times(one['p50_ms'])} |")
    return "\n".join(lines)


def _times(p50_ms: Mapping[str, float]) -> str:
    return f"{p50_ms['onnxruntime']:.3f} ms | {p50_ms['openvino']:.3f} ms"


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
        if (RESULTS / "winner_accuracy.json").is_file():
            write_between(ROOT / "README.md", _WINNER, winner(json.loads((RESULTS / "winner_accuracy.json").read_text())))
        techniques = RESULTS / f"{compress_rows.RESULT}.json"
        if techniques.is_file():
            write_between(ROOT / "README.md", _TECHNIQUES, compress_rows.markdown(json.loads(techniques.read_text())))
    sys.exit(0 if all(row[-1] for row in table) else 1)


if __name__ == "__main__":
    main()
