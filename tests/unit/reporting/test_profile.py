from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from foundry_ray.reporting.profile import profile_table
from foundry_ray.types import ProfiledModel, Reach, SpaceProfile, StudyEffort


def _model(scale: int) -> ProfiledModel:
    return ProfiledModel(
        num_params=7000 * scale,
        num_macs=90_000 * scale,
        size_bytes=4096 * scale,
        latency_p50_ms=0.05 * scale,
        latency_p95_ms=0.06 * scale,
        params={"width": scale},
    )


EFFORT = StudyEffort(
    num_trials=16,
    num_trained=12.4,
    epochs_per_trial=2.7,
    epoch_s=9.0,
    prepare_s=1.2,
    num_workers=2,
    worker_hours=0.1,
    hours=0.05,
    price=1.5,
    cost=0.15,
)
PROFILE = SpaceProfile(
    num_sampled=60,
    num_impossible=4,
    num_duplicates=3,
    num_graphs=41,
    num_judged=50,
    num_feasible=12,
    teacher=_model(8),
    smallest=_model(1),
    median=_model(2),
    largest=_model(4),
    reaches=(
        Reach(constraint="num_params <= 20000", share="some", num_known=60, num_kept=12, nearest=7000.0),
        Reach(constraint="latency_p95_ms <= 0.01", share="none", num_known=50, num_kept=0, nearest=0.06),
        Reach(constraint="accuracy >= 0.9", share="unknown", num_known=0, num_kept=0),
    ),
    effort=EFFORT,
    device="a CPU, onnxruntime 1.31, threads 1, batch 1",
    train_device="cpu",
    warnings=("no sampled student keeps latency_p95_ms <= 0.01.",),
)


def _text(profile: SpaceProfile) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(profile_table(profile))
    return console.export_text()


def test_a_profile_shows_students_constraints_effort_and_warnings() -> None:
    text = _text(PROFILE)
    for wanted in (
        *("teacher", "largest", "median", "smallest", "56 k", "32.0 KiB", "8.0x", "width=1"),
        "60 at random: 41 different graphs, 3 the same as an earlier one, 4 more impossible, 12 of 50 keep all limits",
        "num_params <= 20000: kept by 12 of 60, and the space goes down to 7 k",
        "latency_p95_ms <= 0.01: kept by none of 50, and the space goes down to 0.060 ms",
        "accuracy >= 0.9: known after training",
        "of 16 trials about 12 are trained, 2.7 epochs each",
        "in all 6 min 00 s of work, about 3 min 00 s with 2 workers; cost 0.15 at 1.5 a worker-hour",
        "warning: no sampled student keeps latency_p95_ms <= 0.01.",
    ):
        assert wanted in text


def test_a_constraint_from_below_says_how_far_students_go_up() -> None:
    reach = Reach(constraint="num_macs > 1e+06", share="all", num_known=60, num_kept=60, nearest=2e6)
    assert "num_macs > 1e+06: kept by all of 60, and the space goes up to 2 M" in _text(replace(PROFILE, reaches=(reach,)))


def test_what_is_not_known_is_left_out() -> None:
    on_a_cluster = _text(replace(PROFILE, effort=replace(EFFORT, num_workers=None, hours=None, price=0.0, cost=0.0)))
    assert "of work, shared by the workers of the cluster" in on_a_cluster
    assert "cost" not in on_a_cluster
    nothing = replace(EFFORT, epoch_s=None, worker_hours=None, hours=None, cost=None)
    assert "of work" not in _text(replace(PROFILE, effort=nothing))
