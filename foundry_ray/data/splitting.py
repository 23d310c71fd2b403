"""Which rows are train, val and test: pure functions of labels, counts and a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from foundry_ray.config import SplitConfig
from foundry_ray.data.hashing import mix, permutation
from foundry_ray.errors import OutOfRange

if TYPE_CHECKING:
    import numpy as np

NAMES = ("train", "val", "test")


def split_counts(
    config: SplitConfig, *, num_rows: int, num_test_rows: int | None, num_dropped: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """Rows per split, and a note for each number that was lowered.

    Args:
        config: Counts, or fractions of `num_rows` (of `max_rows` where that is less). Fractions that add up to 1 use all of these.
        num_rows: Rows left after cleaning.
        num_test_rows: Rows of the official test set among them; None where there is none.
        num_dropped: Duplicates that cleaning dropped, "test" (of the official test set) and "rest". A shortage that they explain
            is made good by a smaller train (or official test) split; any other is an error.

    Raises:
        OutOfRange: More rows are asked for than there are, or none is left to train.
    """
    shared = min(num_rows, config.max_rows or num_rows)
    counts = {name: _count(getattr(config, name), shared, name) for name in NAMES}
    if config.train < 1 and abs(config.train + config.val + config.test - 1) < 1e-9:
        counts["train"] = shared - counts["val"] - counts["test"]
    if counts["train"] < 1:
        message = f"data.split leaves {counts['train']} of {shared} rows to train, wanted at least 1."
        raise OutOfRange(message, hint="give more rows, or lower `data.split.val` and `data.split.test`.", key="data.split.train", value=config.train)
    notes: list[str] = []
    if num_test_rows is None:
        _fit(counts, NAMES, "train", num_rows, num_dropped["rest"], notes)
        return counts, notes
    if config.test < 1 and counts["test"] > num_test_rows:
        notes.append(f"data.split.test is {config.test:g} of {num_rows} rows; the official test set has {num_test_rows}, all are used")
        counts["test"] = num_test_rows
    _fit(counts, ("test",), "test", num_test_rows, num_dropped["test"], notes)
    _fit(counts, ("train", "val"), "train", num_rows - num_test_rows, num_dropped["rest"], notes)
    return counts, notes


def stratified(labels_N: np.ndarray, rows_N: np.ndarray, counts: Mapping[str, int], *, seed: int) -> dict[str, np.ndarray]:
    """Disjoint row numbers per split, each with the classes in proportion (largest remainder), in a random order.

    Args:
        labels_N: Labels of all rows.
        rows_N: The rows to draw from.
        counts: Rows per split; their sum is at most len(rows_N).
        seed: Equal seeds give equal splits.
    """
    import numpy as np

    shuffled_N = rows_N[permutation(len(rows_N), seed)]
    pools = {int(label): shuffled_N[labels_N[shuffled_N] == label] for label in np.unique(labels_N[rows_N])}
    chosen: dict[str, np.ndarray] = {}
    for name in sorted(counts, key=NAMES.index, reverse=True):
        quotas = _quotas({label: len(pool) for label, pool in pools.items()}, counts[name])
        taken = np.concatenate([pools[label][:quota] for label, quota in quotas.items()])
        pools = {label: pool[quotas[label] :] for label, pool in pools.items()}
        chosen[name] = taken[permutation(len(taken), seed, NAMES.index(name))]
    return {name: chosen[name] for name in counts}


def split_seed(seed: int) -> int:
    """The split's own seed, derived from the run's."""
    return mix(seed, 0x73706C6974)


def _count(value: float, num_rows: int, name: str) -> int:
    if value < 1:
        return max(1, int(value * num_rows + 1e-9))
    if value != int(value):
        message = f"data.split.{name} is {value}, but must be a whole number of rows, or a fraction below 1."
        raise OutOfRange(message, hint=f"set `data.split.{name}` to {int(value)}.", key=f"data.split.{name}", value=value)
    return int(value)


def _fit(counts: dict[str, int], names: tuple[str, ...], smaller: str, available: int, num_dropped: int, notes: list[str]) -> None:
    """Lower `counts[smaller]` where duplicates explain that `names` ask for more than there is."""
    wanted = sum(counts[name] for name in names)
    shortage = wanted - available
    if shortage <= 0:
        return
    keys = " + ".join(names)
    if shortage > num_dropped or counts[smaller] - shortage < 1:
        message = f"data.split asks for {wanted} rows ({keys}), but there are {available} after cleaning."
        raise OutOfRange(message, hint=f"lower `data.split.{smaller}` by {shortage} or more.", key=f"data.split.{smaller}", value=counts[smaller])
    counts[smaller] -= shortage
    notes.append(f"the {smaller} split has {counts[smaller]} rows, {shortage} fewer than asked for, because duplicates were dropped")


def _quotas(sizes: Mapping[int, int], total: int) -> dict[int, int]:
    """`total` shared in proportion to `sizes` by largest remainder; never more than a class has, as total <= sum(sizes)."""
    num_rows = sum(sizes.values())
    assert total <= num_rows, "split_counts refuses more"
    quotas = {label: size * total // num_rows for label, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda label: (-(sizes[label] * total % num_rows), label))
    for label in by_remainder[: total - sum(quotas.values())]:
        quotas[label] += 1
    return quotas
