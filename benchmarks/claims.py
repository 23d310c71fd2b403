"""Which claims hold: results against targets, one table, exit code 1 where one does not hold or was never measured.

python -m benchmarks.claims            print the table
python -m benchmarks.claims --readme   and write it into README.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from benchmarks.record import RESULTS, ROOT

_BEGIN, _END = "<!-- claims: written by `make claims` -->", "<!-- /claims -->"


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


def write_readme(readme: Path, table: str) -> None:
    """Replace what stands between the marks."""
    text = readme.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    readme.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}")


def main() -> None:
    """Print, and exit 1 where a claim does not hold."""
    table = rows(ROOT / "benchmarks" / "targets.yaml", RESULTS)
    print(markdown(table))
    if "--readme" in sys.argv[1:]:
        write_readme(ROOT / "README.md", markdown(table))
    sys.exit(0 if all(row[-1] for row in table) else 1)


if __name__ == "__main__":
    main()
