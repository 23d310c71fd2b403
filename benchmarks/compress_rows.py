"""The rows of `benchmarks.compress_table`, what is claimed of them, and how the README shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.compress_families import AS_GIVEN, INT8, PRUNED, PRUNED_IN_SLICES
from benchmarks.record import Claim

_CONVOLUTIONAL = ("cnn", "resnet")
_COUNTED = ("num_params", "num_macs", "size_bytes")
RESULT = "compress_cost_difference"
"""The claim whose runs are all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One technique on one model.

    Attributes:
        size: `large` (half a million parameters or more) or `small`.
        refused: Why the product does not do it; then there is nothing else.
        measured: Parameters, MACs and bytes counted in the exported file, and bytes of its constants.
        predicted: The first three as the cost model and the file of the student before its first step have them.
        accuracy: On val, of the model as it was (`before`), of the student before its first step (`at_once`), and of what is shipped (`after`).
        notes: What the toolbox says of the artifact.
        latencies: Runtime -> batch -> (p50, p95) in ms.
    """

    family: str
    size: str
    technique: str
    refused: str = ""
    measured: Mapping[str, int] = field(default_factory=dict)
    predicted: Mapping[str, int] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    seconds: float = 0.0
    latencies: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    @property
    def differences(self) -> dict[str, float]:
        """How far what was measured is from what was said, relative to the latter."""
        return {name: abs(self.measured[name] - self.predicted[name]) / self.predicted[name] for name in _COUNTED} if self.measured else {}


def claims(rows: Sequence[Row]) -> list[Claim]:
    """The smallest ratios over the families, and the largest difference over all rows."""
    files = {_label(row): _ratio(rows, row, "size_bytes") for row in rows if row.measured and row.technique in INT8 and row.size == "large"}
    weights = {_label(row): _ratio(rows, row, "weight_bytes") for row in rows if row.measured and row.technique in INT8 and row.size == "small"}
    macs = {_label(row): _ratio(rows, row, "num_macs") for row in rows if row.measured and row.technique in (PRUNED, PRUNED_IN_SLICES)}
    widest = {f"{name} of {_label(row)}": value for row in rows for name, value in row.differences.items()}
    of_convolutions = [value for name, value in macs.items() if name.startswith(_CONVOLUTIONAL)]
    large, small = (
        _range([row.measured["num_params"] for row in rows if row.technique == AS_GIVEN and row.size == size]) for size in ("large", "small")
    )
    return [
        Claim(
            name="compress_int8_file_ratio",
            claim=f"Served file, fp32 / int8: the smallest over all families and both int8 forms, {large} parameters",
            value=min(files.values()),
            unit="x",
            runs=[files],
        ),
        Claim(
            name="compress_int8_weight_ratio",
            claim=f"Bytes of weights, fp32 / int8: the smallest over all families and both int8 forms, {small} parameters",
            value=min(weights.values()),
            unit="x",
            runs=[weights],
        ),
        Claim(
            name="compress_prune_macs_ratio",
            claim="MACs, as given / with half of the channels pruned, by one threshold or in each group: the smallest over cnn and resnet",
            value=min(of_convolutions),
            unit="x",
            runs=[macs],
            peers={name: value for name, value in macs.items() if not name.startswith(_CONVOLUTIONAL)},
        ),
        Claim(
            name=RESULT,
            claim="Parameters, MACs and bytes counted in the exported file, against the cost model before training: the largest relative difference",
            value=max(widest.values()),
            unit="share",
            runs=[asdict(row) for row in rows],
            peers=dict(sorted(widest.items(), key=lambda item: -item[1])[:3]),
        ),
    ]


def _range(sizes: Sequence[int]) -> str:
    return f"{min(sizes) / 1e6:.2f}-{max(sizes) / 1e6:.2f} M"


def _label(row: Row) -> str:
    return f"{row.family} {row.size}, {row.technique}"


def _ratio(rows: Sequence[Row], row: Row, name: str) -> float:
    """Of the same model as given to this row."""
    [given] = [one for one in rows if (one.family, one.size, one.technique) == (row.family, row.size, AS_GIVEN)]
    return given.measured[name] / row.measured[name]


def markdown(result: Mapping[str, Any]) -> str:
    """A table per family, folded, and one of the small models."""
    rows = [Row(**one) for one in result["runs"]]
    families = list(dict.fromkeys(row.family for row in rows))
    tables = [_family([row for row in rows if row.family == family and row.size == "large"]) for family in families]
    return "\n\n".join([*tables, _small([row for row in rows if row.size == "small"])])


def _family(rows: Sequence[Row]) -> str:
    given = next(row for row in rows if row.technique == AS_GIVEN)
    lines = [
        f"<details><summary>{given.family}: {given.measured['num_params'] / 1e6:.2f} M parameters, {given.measured['num_macs'] / 1e6:.1f} M MACs, "
        f"accuracy {given.accuracy['after']:.4f}</summary>",
        "",
        "| technique | parameters | MACs | file | weights | p50 / p95, batch 1 | batch 32 | accuracy: before, at once, after |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        "",
        "</details>",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    if row.refused:
        return f"| {row.technique} | refused: {row.refused} | | | | | | |"
    measured = row.measured
    told = " | ".join(f"{measured[name]:,}" for name in ("num_params", "num_macs", "size_bytes", "weight_bytes"))
    accuracy = ", ".join(f"{row.accuracy[name]:.4f}" for name in ("before", "at_once", "after"))
    return f"| {row.technique} | {told} | {_times(row, '1')} | {_times(row, '32')} | {accuracy} |"


def _times(row: Row, batch: str) -> str:
    """The default runtime's, and where it is the better one OpenVINO's too."""
    shown = [(name, times[batch]) for name, times in row.latencies.items() if batch in times]
    first = shown[0][1][0]
    told = [f"{'OpenVINO ' if name == 'openvino' else ''}{p50:.3f} / {p95:.3f}" for name, (p50, p95) in shown if len(shown) == 1 or p50 <= first]
    return "; ".join(told)


def _small(rows: Sequence[Row]) -> str:
    lines = ["| below 0.5 M parameters | parameters | bytes of weights | fp32 / this | accuracy after |", "|---|---|---|---|---|"]
    for row in rows:
        if row.measured:
            ratio = f"{_ratio(rows, row, 'weight_bytes'):.2f}x"
            told = f"{row.measured['num_params']:,} | {row.measured['weight_bytes']:,} | {ratio} | {row.accuracy['after']:.4f}"
            lines.append(f"| {row.family}, {row.technique} | {told} |")
    return "\n".join(lines)
