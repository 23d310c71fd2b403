"""How many workers train with which shape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_ray.config import DeepSpeedConfig, TeacherConfig, TrainConfig
from foundry_ray.training.elastic import GROW_AFTER_S, MemoryLimit, larger, num_fitting, request_of, shape_within, too_few
from foundry_ray.training.shape import usable_workers


def config(workers: int = 4, batch_size: int = 64, **fields: object) -> TeacherConfig:
    return TeacherConfig.model_validate({"workers": workers, "min_workers": 1, "train": TrainConfig(batch_size=batch_size), **fields})


def test_what_is_left_over_on_two_nodes_makes_no_worker() -> None:
    nodes = [{"CPU": 3.0, "GPU": 1.0}, {"CPU": 3.0, "GPU": 1.0}, {"CPU": 64.0}]
    assert num_fitting(nodes, {"CPU": 2.0}) == 34
    assert num_fitting(nodes, {"CPU": 2.0, "GPU": 1.0}) == 2
    assert num_fitting(nodes, {"CPU": 1.0, "GPU": 0.3}) == 6
    assert num_fitting([], {"CPU": 1.0}) == 0


def test_fewer_workers_make_more_passes_of_the_same_size() -> None:
    assert str(shape_within(config(), 4, MemoryLimit())) == "4 workers x 16 samples x 1 passes, ZeRO 1"
    assert str(shape_within(config(), 2, MemoryLimit())) == "2 workers x 16 samples x 2 passes, ZeRO 1"
    assert str(shape_within(config(micro_batch_size=8), 1, MemoryLimit())) == "1 workers x 8 samples x 8 passes, ZeRO 1"


def test_what_memory_has_taught_holds_for_every_size() -> None:
    limit = MemoryLimit(micro_batch_size=4, zero_stage=2)
    assert str(shape_within(config(), 2, limit)) == "2 workers x 4 samples x 8 passes, ZeRO 2"
    assert MemoryLimit.of(limit.to_json()) == limit
    assert MemoryLimit.of(None) == MemoryLimit()
    assert not MemoryLimit().is_known


def test_a_higher_configured_stage_stays() -> None:
    asked = config(deepspeed=DeepSpeedConfig(zero_stage=3))
    assert shape_within(asked, 4, MemoryLimit(zero_stage=2)).zero_stage == 3


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 16), st.one_of(st.none(), st.integers(1, 40)), st.one_of(st.none(), st.integers(1, 40)))
def test_every_group_that_is_started_trains_the_whole_batch(workers: int, share: int, available: int, micro: int | None, learnt: int | None) -> None:
    asked = config(workers, workers * share, micro_batch_size=micro)
    count = usable_workers(asked, available)
    if count is None:
        assert available < 1
        return
    shape = shape_within(asked, count, MemoryLimit(micro_batch_size=learnt))
    assert shape.batch_size == workers * share
    assert shape.num_workers == count <= min(available, workers)
    assert shape.micro_batch_size <= min(share, micro or share, learnt or share)


def test_a_group_grows_only_where_more_are_free_and_only_after_a_while() -> None:
    def grown(num_workers: int, num_fit: int, num_free: int, running_s: float = GROW_AFTER_S) -> int | None:
        return larger(config(), num_workers=num_workers, num_fit=num_fit, num_free=num_free, running_s=running_s)

    assert grown(1, 2, 1) == 2
    assert grown(1, 8, 7) == 4
    assert grown(2, 3, 1) is None, "three do not divide the batch"
    assert grown(1, 4, 0) is None, "others use them"
    assert grown(4, 8, 4) is None
    assert grown(1, 4, 3, running_s=GROW_AFTER_S - 1) is None


def test_a_worker_asks_for_its_share_of_a_gpu() -> None:
    asked = config(cpus_per_worker=2, gpus_per_worker=0.25)
    assert request_of(asked, use_gpu=True) == {"CPU": 2.0, "GPU": 0.25}
    assert request_of(asked, use_gpu=False) == {"CPU": 2.0}


def test_the_end_of_waiting_says_what_was_wanted_and_found() -> None:
    error = too_few(config(min_workers=2), {"CPU": 2.0}, num_fit=1, waited_s=600.0)
    with pytest.raises(type(error), match=r"needs 2 workers with 2 CPU each, and for 600 s no more than 1 fit what is free"):
        raise error
    assert error.facts == {"requested": {"CPU": 4.0}, "available": {"CPU": 2.0}}
