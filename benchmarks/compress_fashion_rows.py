"""The rows of `benchmarks.compress_fashion`, and what is claimed of them: means of paired differences with 95 % intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from scipy import stats

from benchmarks.record import Claim

CALIBRATIONS = ("minmax", "entropy", "percentile")
"""The first is the default."""
INT8, QAT, PRUNED, MILLION, ALL, TENTH, TAUGHT = "int8", "qat", "pruned", "million", "all labels", "tenth of labels", ", distilled"
LABELLED_RATIO = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A student on val, beside the teacher (`before`): accuracies as shares, MACs per image, bytes of the served file."""

    arm: str
    seed: int
    before: float
    accuracy: float
    before_params: int
    num_params: int
    before_macs: int
    num_macs: int
    before_bytes: int
    size_bytes: int
    minutes: float

    @property
    def drop_points(self) -> float:
        """Points below the teacher."""
        return 100 * (self.before - self.accuracy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean of paired differences with its two-sided 95 % t-interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Of independent values; of one alone nothing is known but itself."""
        mean = statistics.mean(values)
        if len(values) < 2:
            return cls(mean=mean, low=-math.inf, high=math.inf)
        half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
        return cls(mean=mean, low=mean - half, high=mean + half)


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Means over the seeds, with their intervals."""
    by_arm = {name: sorted((row for row in rows if row.arm == name), key=lambda row: row.seed) for name in {row.arm for row in rows}}
    num_seeds = len({row.seed for row in rows})
    return [
        *_pruned(by_arm[PRUNED], num_seeds),
        _int8(by_arm, num_seeds),
        _dropped("compress_fashion_qat_drop_points", f"static int8 with training for it, {_seeds(num_seeds)}", by_arm[QAT]),
        *_distilled(by_arm, num_seeds),
        *_million(by_arm[MILLION]),
    ]


def _seeds(num_seeds: int) -> str:
    return f"mean of {num_seeds} seeds on val"


def _dropped(name: str, what: str, rows: Sequence[Row], **peers: float) -> Claim:
    """Points that students lost."""
    drop = Interval.of([row.drop_points for row in rows])
    bounds = {"ci_low": drop.low, "ci_high": drop.high} if len(rows) > 1 else {}
    seen = {**bounds, "accuracy": statistics.mean(row.accuracy for row in rows), "teacher": statistics.mean(row.before for row in rows), **peers}
    return Claim(name=name, claim=f"Fashion-MNIST, points lost: {what}", value=drop.mean, unit="points", runs=_runs(rows), peers=seen)


def _pruned(rows: Sequence[Row], num_seeds: int) -> list[Claim]:
    ratios = [row.before_macs / row.num_macs for row in rows]
    params = statistics.mean(row.before_params / row.num_params for row in rows)
    return [
        Claim(
            name="compress_fashion_macs_ratio",
            claim=f"Fashion-MNIST: MACs, teacher / pruned student, the smallest of {num_seeds} seeds",
            value=min(ratios),
            unit="x",
            runs=ratios,
            peers={"params_ratio": params},
        ),
        _dropped("compress_fashion_pruned_drop_points", f"that pruned student, recovered with distillation, {_seeds(num_seeds)}", rows),
    ]


def _int8(by_arm: Mapping[str, Sequence[Row]], num_seeds: int) -> Claim:
    """The default calibration is claimed, all are shown."""
    others: dict[str, float] = {}
    for kind in CALIBRATIONS:
        drop = Interval.of([row.drop_points for row in by_arm[f"{INT8} {kind}"]])
        others |= {kind: drop.mean, f"{kind}_ci_low": drop.low, f"{kind}_ci_high": drop.high}
    default = by_arm[f"{INT8} {CALIBRATIONS[0]}"]
    file_ratio = statistics.mean(row.before_bytes / row.size_bytes for row in default)
    what = f"static int8 after training, {CALIBRATIONS[0]}, {_seeds(num_seeds)}"
    return _dropped("compress_fashion_int8_drop_points", what, default, file_ratio=file_ratio, **others)


def _distilled(by_arm: Mapping[str, Sequence[Row]], num_seeds: int) -> list[Claim]:
    """With and without a teacher: the same student before its first step, rows and number of steps."""
    found, ratio = [], min(row.before_params / row.num_params for row in by_arm[ALL])
    student = f"a {ratio:.1f}x smaller student, distilled minus not distilled"
    for name, labels, arm in (
        ("compress_fashion_distilled_bound", "all labels", ALL),
        ("compress_fashion_distilled_tenth_points", f"{LABELLED_RATIO:.0%} of the labels, the rest unlabelled", TENTH),
    ):
        alone, taught = by_arm[arm], by_arm[f"{arm}{TAUGHT}"]
        gain = Interval.of([100 * (one.accuracy - other.accuracy) for one, other in zip(taught, alone, strict=True)])
        is_bound = name.endswith("bound")
        what = "lower end of the 95 % interval over" if is_bound else "mean of"
        found.append(
            Claim(
                name=name,
                claim=f"Fashion-MNIST, {student}, {labels}: {what} {num_seeds} seeds on val",
                value=gain.low if is_bound else gain.mean,
                unit="points",
                runs=[*_runs(alone), *_runs(taught)],
                peers={
                    "mean": gain.mean,
                    "ci_low": gain.low,
                    "ci_high": gain.high,
                    "alone": statistics.mean(row.accuracy for row in alone),
                    "distilled": statistics.mean(row.accuracy for row in taught),
                    "teacher": statistics.mean(row.before for row in taught),
                },
            )
        )
    return found


def _million(rows: Sequence[Row]) -> list[Claim]:
    ratios = [row.before_params / row.num_params for row in rows]
    sizes = f"a {rows[0].num_params / 1e3:.1f} k student of a {rows[0].before_params / 1e6:.2f} M teacher"
    return [
        Claim(
            name="compress_fashion_million_params_ratio",
            claim=f"Fashion-MNIST: parameters, teacher / student, for {sizes}",
            value=min(ratios),
            unit="x",
            runs=ratios,
        ),
        _dropped("compress_fashion_million_drop_points", f"{sizes}, on val", rows),
    ]


def _runs(rows: Sequence[Row]) -> list[object]:
    return [asdict(row) for row in rows]
