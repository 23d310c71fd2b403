"""What the benchmark of peers says of two fronts of accuracy and latency."""

from __future__ import annotations

import pytest

from benchmarks.peers_compress.front import Noise, Student, compare, noise

_NONE = Noise(deviation=0.0, freedom=0)


def _student(point: str, p50_ms: float, *accuracies: float, is_trained: bool = True) -> Student:
    return Student(
        contestant="one",
        point=point,
        is_trained=is_trained,
        accuracies=accuracies,
        p50_ms=p50_ms,
        p95_ms=p50_ms,
        runtime="onnxruntime",
        size_bytes=1,
        num_params=1,
        p50_by_runtime={"onnxruntime": p50_ms},
        seconds=1.0,
        note="",
    )


def test_a_peer_is_held_against_the_most_accurate_of_ours_that_is_no_slower() -> None:
    ours = [_student("large", 1.2, 0.99), _student("middle", 1.0, 0.93), _student("small", 0.5, 0.92)]
    found = compare(_student("peer", 1.0, 0.92), ours, trained=_NONE, calibrated=_NONE)
    assert found.ours == "middle"
    assert found.difference == pytest.approx(1.0)
    assert found.faster == pytest.approx(2.0)


def test_a_peer_that_is_faster_than_all_of_ours_stops_the_comparison() -> None:
    with pytest.raises(ValueError, match="add a smaller recipe"):
        compare(_student("peer", 0.4, 0.9), [_student("small", 0.5, 0.92)], trained=_NONE, calibrated=_NONE)


def test_none_of_ours_is_as_accurate_as_a_better_peer() -> None:
    assert compare(_student("peer", 1.0, 0.95), [_student("small", 0.5, 0.92)], trained=_NONE, calibrated=_NONE).faster == 0


def test_noise_is_pooled_over_students_with_several_seeds() -> None:
    found = noise([_student("a", 1.0, 0.90, 0.92), _student("b", 1.0, 0.80, 0.84), _student("c", 1.0, 0.7)])
    assert found.freedom == 2
    assert found.deviation == pytest.approx(((2 * 0.01**2 + 2 * 0.02**2) / 2) ** 0.5)


def test_an_interval_takes_the_noise_of_either_side() -> None:
    trained, calibrated = Noise(deviation=0.001, freedom=10), Noise(deviation=0.0, freedom=3)
    ours = [_student("ours", 1.0, 0.92, 0.92)]
    of_both = compare(_student("peer", 1.0, 0.92, 0.92), ours, trained=trained, calibrated=calibrated)
    of_one = compare(_student("peer", 1.0, 0.92, 0.92, is_trained=False), ours, trained=trained, calibrated=calibrated)
    assert of_both.half_width == pytest.approx(2.228 * 0.1, rel=1e-3)  # t of 10 degrees of freedom times sqrt(2 s^2 / 2), in points
    assert of_one.half_width == pytest.approx(of_both.half_width / 2**0.5)
