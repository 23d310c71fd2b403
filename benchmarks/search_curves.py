"""Makes the table that `search_moasha` plays on: 216 students of Fashion-MNIST, each really measured and trained for 9 epochs.

python -m benchmarks.search_curves                about 90 minutes on two quiet cores; `--minutes 55` stops early, the same command goes on
python -m benchmarks.search_curves --quick        two students, and what the whole would take; writes no table

A student is a quasi-random point of `tables/fashion_space.yaml`, and is trained by the product's TrialRunner: on 6,000 images, judged on 4,000 others
after each epoch, with the product's default settings and the shipped example's teacher, who saw the same 6,000 images. Two processes with one thread
each; while one measures a latency the other pauses. Each student is kept as soon as it is done. A student that equals an earlier one, or cannot be
made, is left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from benchmarks.record import Claim, hardware, work_folder
from benchmarks.search_table import students
from benchmarks.search_table.points import quasi_random
from benchmarks.search_table.table import FASHION, SPACE, Row, Table, save, space
from foundry_ray.clock import SystemClock
from foundry_ray.config import load_config
from foundry_ray.observability import ConsoleReporter
from foundry_ray.search.events import Job
from foundry_ray.stages import library_versions
from foundry_ray.types import Json, Scalar, from_json, to_json

_NUM_STUDENTS, _SEED, _NUM_EPOCHS, _NUM_PROCESSES = 216, 0, 9, 2
_NUM_WANTED = 200


class _Worker:
    """One process that trains student after student."""

    current: _Worker

    def __init__(self, made: students.Students) -> None:
        import torch

        torch.set_num_threads(1)
        reporter = ConsoleReporter(quiet=True, clock=SystemClock())
        context = students.shared_context(made, reporter=reporter)
        self._run = students.runner(made, context, reporter=reporter)
        self._store, self._seed = made.open_store(), context.seed

    def train(self, number: int, params: Mapping[str, Scalar]) -> Row | str:
        """The row, or why there is none."""
        began_s, known, errors, effective = time.perf_counter(), dict[str, float](), list[float](), ""
        for event in self._run(Job(number=number, params=params, seed=self._seed, rung=0, from_epoch=0, to_epoch=_NUM_EPOCHS)):
            if event.kind in ("infeasible", "failed"):
                return event.error
            if event.kind == "prepared":
                known, effective = dict(event.values), event.effective
            if event.kind == "epoch":
                errors.append(round(1 - event.values["accuracy"], 6))
            if event.checkpoint is not None:
                self._store.delete(event.checkpoint)
        return Row(
            params=params,
            errors=tuple(errors),
            latency_ms=known["latency_p50_ms"],
            latency_p95_ms=known["latency_p95_ms"],
            size_bytes=int(known["size_bytes"]),
            num_params=int(known["num_params"]),
            num_macs=int(known["num_macs"]),
            seconds=round(time.perf_counter() - began_s, 2),
            effective=effective,
        )


def _begin(made: students.Students) -> None:
    _Worker.current = _Worker(made)


def _train(task: tuple[int, dict[str, Scalar]]) -> tuple[int, Row | str]:
    number, params = task
    return number, _Worker.current.train(number, params)


def _fill(made: students.Students, tasks: Sequence[tuple[int, dict[str, Scalar]]], *, until_s: float) -> Iterator[tuple[int, Row | str]]:
    """Results as they come, until there is no time for another."""
    with multiprocessing.get_context("spawn").Pool(_NUM_PROCESSES, initializer=_begin, initargs=(made,)) as pool:
        for result in pool.imap_unordered(_train, tasks):
            yield result
            if time.monotonic() > until_s:
                return


def _read(log: Path) -> dict[int, Row | str]:
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {line["number"]: line["error"] or from_json(Row, line["row"], what=log.name) for line in lines}


def _table(found: Mapping[int, Row | str], made: students.Students, *, minutes: float) -> Table:
    rows: dict[str, Row] = {}
    for number in sorted(found):
        row = found[number]
        if isinstance(row, Row):
            rows.setdefault(row.effective, row)
    teacher, config = made.teacher, load_config(students.PIPELINE)
    provenance: dict[str, Json] = {
        "made": "python -m benchmarks.search_curves",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "hardware": hardware(),
        "versions": dict(library_versions()),
        "minutes_on_two_cores": round(minutes, 1),
        "points": {"space": SPACE.name, "seed": _SEED, "asked": len(found), "left_out": len(found) - len(rows)},
        "data": {"source": config.data.source, "train": students.NUM_TRAIN, "val": students.NUM_VAL, "fingerprint": made.dataset.fingerprint},
        "teacher": {"family": teacher.family, "num_params": teacher.num_params, "val_accuracy": teacher.val_metrics["accuracy"]},
        "student": students.STUDENT.model_dump(mode="json"),
        "latency": students.LATENCY.model_dump(mode="json"),
    }
    return Table(provenance=provenance, rows=tuple(rows.values()))


def _claim(table: Table, minutes: float) -> Claim:
    seconds = [row.seconds for row in table.rows]
    return Claim(
        name="search_table_minutes",
        claim=f"the table of {len(table.rows)} students x {table.num_epochs} epochs on {students.NUM_TRAIN:,} images, two processes on 2 cores",
        value=minutes,
        unit="min",
        runs=seconds,
        peers={"students": float(len(table.rows)), "slowest_student_s": max(seconds), "mean_student_s": sum(seconds) / len(seconds)},
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Train who is missing; write the table when nobody is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two students, no table")
    parser.add_argument("--minutes", type=float, default=100.0, help="no student is begun after these")
    options = parser.parse_args(arguments)
    began_s, folder = time.monotonic(), work_folder("search_curves")
    log = folder / ("look.jsonl" if options.quick else "students.jsonl")
    if options.quick:
        log.unlink(missing_ok=True)
    reporter = ConsoleReporter(clock=SystemClock())
    made, found = students.prepared(folder, reporter=reporter), _read(log)
    wanted = list(enumerate(islice(quasi_random(space(), seed=_SEED), 2 if options.quick else _NUM_STUDENTS)))
    missing = [task for task in wanted if task[0] not in found]
    for number, result in _fill(made, missing, until_s=began_s + 60 * options.minutes):
        found[number] = result
        is_row = isinstance(result, Row)
        with log.open("a") as stream:
            stream.write(json.dumps({"number": number, "row": to_json(result) if is_row else None, "error": "" if is_row else result}) + "\n")
        print(f"{len(found)} of {len(wanted)}: {_said(result)}", flush=True)
    seconds = [row.seconds for row in found.values() if isinstance(row, Row)]
    minutes = sum(seconds) / _NUM_PROCESSES / 60
    print(f"{minutes:.1f} minutes of both cores for {len(seconds)}; {_NUM_STUDENTS} take {minutes / len(seconds) * _NUM_STUDENTS:.0f}", flush=True)
    if options.quick or len(found) < len(wanted):
        return
    table = _table(found, made, minutes=minutes)
    assert len(table.rows) >= _NUM_WANTED, f"{len(table.rows)} distinct students, wanted {_NUM_WANTED}"
    save(table, FASHION)
    _claim(table, minutes).write()


def _said(result: Row | str) -> str:
    if isinstance(result, str):
        return f"left out: {result}"
    curve = " ".join(f"{error:.3f}" for error in result.errors)
    return f"{result.num_params:,} parameters, {result.size_bytes:,} bytes, {result.latency_ms:.3f} ms, errors {curve}, {result.seconds:.0f} s"


if __name__ == "__main__":
    main(sys.argv[1:])
