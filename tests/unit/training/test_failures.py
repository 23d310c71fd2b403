"""The failure policy: what each end of a group leads to, and that no budget is ever exceeded."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_ray.errors import ConfigError, Diverged, FoundryError, Preempted, ResourcesUnavailable, StoreUnavailable, WorkerGroupFailed
from foundry_ray.training.failures import Budgets, Decision, FailureFacts, FailureKind, RankCrashed, RankFailure, Spent, decide, last_line
from foundry_ray.training.shape import Shape

HEAD = "Traceback (most recent call last):\n  File"
BUG = f'{HEAD} "m.py", line 3, in forward at 0x7f00\nValueError: wrong shape'
ODD = f'{HEAD} "m.py", line 3, in forward at 0x7f00\nRuntimeError: something odd'
LOST = f"{HEAD}\nRuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4"
FULL = f"{HEAD}\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
SHAPE = Shape(num_workers=2, micro_batch_size=8, accumulation=2, zero_stage=1)
BUDGETS = Budgets(max_failures=3, max_preemptions=5, max_memory_retries=4)


def died(rank: int, text: str = "ActorDiedError: killed by SIGKILL") -> RankFailure:
    return RankFailure(rank=rank, kind=FailureKind.DIED, text=text)


def crashed(rank: int, text: str = BUG, step: int | None = None, first_step: int | None = None) -> RankFailure:
    return RankFailure(rank=rank, kind=FailureKind.CRASHED, text=text, step=step, first_step=first_step)


def raised(rank: int, error: FoundryError) -> RankFailure:
    return RankFailure(rank=rank, kind=FailureKind.RAISED, text=str(error), error=error)


def diverged(rank: int, step: int) -> RankFailure:
    return raised(rank, Diverged("the loss is nan.", step=step, loss=float("nan")))


def after(*failures: RankFailure, spent: Spent | None = None, shape: Shape = SHAPE, **known: Any) -> Decision:
    return decide(FailureFacts(failures=failures, shape=shape, budgets=BUDGETS, spent=spent or Spent(), **{"max_zero_stage": 3, **known}))


def test_a_new_checkpoint_fills_the_budgets_of_what_goes_wrong_now_and_then() -> None:
    spent = Spent(num_failures=3, num_preemptions=5, num_memory_retries=2, checkpoint_step=40)
    assert after(died(1), spent=spent, checkpoint_step=40).error is not None, "it has come no further"
    assert after(died(1), spent=spent, checkpoint_step=41).spent == Spent(num_failures=1, num_memory_retries=2, checkpoint_step=41)


def test_a_store_that_does_not_answer_fills_no_budget() -> None:
    assert after(died(1), spent=Spent(num_failures=3, checkpoint_step=40)).error is not None


def test_a_death_within_the_budget_restarts_with_the_same_shape() -> None:
    decision = after(died(1), spent=Spent(num_failures=2))
    assert decision.error is None
    assert (decision.reason, decision.counted) == ("rank 1 died: ActorDiedError: killed by SIGKILL", "3 of 3")
    assert decision.shape == SHAPE


def test_a_death_beyond_the_budget_stops_with_the_rank_and_its_text() -> None:
    decision = after(died(1), crashed(0, LOST), spent=Spent(num_failures=3))
    assert isinstance(decision.error, WorkerGroupFailed)
    assert "rank 1 failed, and all 3 restarts are used up: ActorDiedError: killed by SIGKILL" in str(decision.error)
    assert "teacher.max_failures" in decision.error.hint
    assert decision.error.facts["failures"] == {0: LOST, 1: "ActorDiedError: killed by SIGKILL"}


def test_divergence_stops_at_once_with_the_rank_that_saw_it_first() -> None:
    decision = after(diverged(0, 12), diverged(1, 11), died(2))
    assert isinstance(decision.error, Diverged)
    assert decision.error.facts["step"] == 11


@pytest.mark.parametrize("step", [None, 0, 5000])
def test_a_bug_stops_at_once_with_its_own_traceback_however_far_training_was(step: int | None) -> None:
    decision = after(crashed(1, step=step, first_step=0), crashed(0, LOST))
    assert isinstance(decision.error, WorkerGroupFailed)
    assert "rank 1 failed with an error that a restart would only repeat: ValueError: wrong shape" in str(decision.error)
    assert decision.error.facts["failures"] == {0: LOST, 1: BUG}
    assert decision.spent == Spent()


def test_an_unknown_error_before_the_first_step_is_a_bug() -> None:
    decision = after(crashed(0, ODD, step=40, first_step=40))
    assert "failed before its first step: RuntimeError: something odd" in str(decision.error)


def test_an_unknown_error_after_good_steps_gets_another_attempt_until_it_comes_at_the_same_step() -> None:
    first = after(crashed(0, ODD, step=90, first_step=40))
    assert first.error is None
    later = after(crashed(0, ODD, step=150, first_step=40), spent=first.spent)
    assert later.error is None
    again = after(crashed(0, ODD.replace("0x7f00", "0xbeef"), step=150, first_step=140), spent=later.spent)
    assert "failed twice with the same error at the same step" in str(again.error)


@pytest.mark.parametrize("line", ["ConnectionResetError: peer", "OSError: [Errno 5] Input/output error", "RuntimeError: CUDA error: ECC"])
def test_errors_of_the_surroundings_are_tried_again_even_before_the_first_step(line: str) -> None:
    assert after(crashed(0, f"{HEAD}\n{line}")).error is None


ADVICE = "CUDA kernel errors might be asynchronously reported.\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."


def test_what_cuda_says_after_an_error_does_not_hide_it() -> None:
    fault = after(crashed(0, f"{HEAD}\ntorch.AcceleratorError: CUDA error: uncorrectable ECC error encountered\n{ADVICE}"))
    assert fault.reason == "rank 0 crashed: torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"
    bug = after(crashed(0, f"{HEAD}\ntorch.AcceleratorError: CUDA error: device-side assert triggered\n{ADVICE}", step=9, first_step=0))
    assert "failed with an error that a restart would only repeat: torch.AcceleratorError: CUDA error: device-side assert" in str(bug.error)


def test_a_rank_that_lost_its_peer_is_not_the_culprit() -> None:
    assert after(crashed(0, LOST), died(1)).reason.startswith("rank 1 died")
    assert after(crashed(0, LOST), crashed(1)).reason.startswith("rank 1 failed with an error")
    assert after(crashed(0, LOST), crashed(1, LOST)).error is None


@pytest.mark.parametrize("text", [LOST, "RuntimeError: Connection reset by peer", "DistBackendError: NCCL error: remote process exited"])
def test_lost_peers_are_recognised(text: str) -> None:
    assert crashed(0, text).is_witness


@pytest.mark.parametrize(
    "failure",
    [
        crashed(1, FULL, step=7),
        crashed(1, f"{HEAD}\nRuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        crashed(1, f"{HEAD}\nMemoryError: Unable to allocate 2 GiB"),
        crashed(1, f"{HEAD}\ntorch.AcceleratorError: CUDA error: out of memory", step=7),
        crashed(1, f"{HEAD}\ntorch.distributed.DistBackendError: NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
        died(1, "OutOfMemoryError: 1 worker(s) were killed due to the node running low on memory."),
    ],
)
def test_a_rank_out_of_memory_halves_the_passes_and_keeps_the_batch(failure: RankFailure) -> None:
    decision = after(crashed(0, LOST), failure)
    assert decision.shape == Shape(num_workers=2, micro_batch_size=4, accumulation=4, zero_stage=1)
    assert "rank 1 was out of memory with 2 workers x 8 samples x 2 passes, ZeRO 1; now 2 workers x 4 samples x 4 passes" in decision.reason
    assert decision.spent == Spent(num_memory_retries=1)


def test_the_kernels_own_killer_counts_as_a_death() -> None:
    text = "ActorDiedError: (1) the process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
    assert after(died(0, text)).spent == Spent(num_failures=1)


def test_at_one_sample_per_pass_a_higher_stage_is_next_and_then_the_end() -> None:
    one = Shape(num_workers=2, micro_batch_size=1, accumulation=16, zero_stage=1)
    assert after(crashed(0, FULL), shape=one, max_zero_stage=2).shape.zero_stage == 2
    end = after(crashed(0, FULL), shape=one, max_zero_stage=1)
    assert isinstance(end.error, ResourcesUnavailable)
    assert "out of memory with 2 workers x 1 samples x 16 passes, ZeRO 1, and nothing smaller is left: torch.OutOfMemoryError" in str(end.error)
    assert "activation_checkpointing" in end.error.hint


def test_a_single_worker_gains_nothing_from_a_higher_stage() -> None:
    assert after(crashed(0, FULL), shape=Shape(num_workers=1, micro_batch_size=1, accumulation=32, zero_stage=0)).error is not None


def test_the_budget_of_smaller_attempts_ends_too() -> None:
    decision = after(crashed(0, FULL), spent=Spent(num_memory_retries=4))
    assert "and all 4 smaller attempts are used up" in str(decision.error)


@pytest.mark.parametrize(
    "failure",
    [
        died(1, "ActorDiedError: The actor died because its node has died. Node Id: 12"),
        RankFailure(rank=1, kind=FailureKind.LOST_NODE, text="ActorDiedError: preempted"),
        raised(1, Preempted("a node of this group is to be taken away.")),
    ],
)
def test_a_lost_node_costs_a_preemption_and_no_failure(failure: RankFailure) -> None:
    decision = after(crashed(0, LOST), failure, spent=Spent(num_failures=3))
    assert decision.error is None
    assert decision.spent == Spent(num_failures=3, num_preemptions=1)
    assert after(failure, spent=Spent(num_preemptions=5)).error is not None


def test_growing_costs_nothing() -> None:
    decision = after(raised(0, Preempted("more fit.")), raised(1, Preempted("more fit.")), asked="resize", spent=Spent(num_preemptions=5))
    assert decision.error is None
    assert decision.spent == Spent(num_preemptions=5)
    assert after(died(0), asked="resize").spent == Spent(num_failures=1)


def test_a_store_that_does_not_answer_is_tried_again_and_comes_out_as_itself() -> None:
    failure = raised(0, StoreUnavailable("no answer.", uri="s3://b"))
    assert after(failure).error is None
    assert isinstance(after(failure, spent=Spent(num_failures=3)).error, StoreUnavailable)


def test_a_crash_travels_with_its_traceback_and_its_step() -> None:
    crash = pickle.loads(pickle.dumps(RankCrashed(BUG, 12, 3)))
    assert (crash.text, crash.step, crash.first_step) == (BUG, 12, 3)


def test_the_last_line_of_a_traceback_is_the_error_although_its_text_goes_on() -> None:
    assert last_line(f"{HEAD} x\nValueError: two lines:\n    of text") == "ValueError: two lines:"
    assert last_line(f"{HEAD} x\nKeyError: 1\n\nDuring handling of it:\n\n{HEAD} y\nValueError: two lines\nof text") == "ValueError: two lines"
    assert last_line("ActorDiedError: the actor died.\n\tpid: 7\nIts worker has died.") == "Its worker has died."


_TEXTS = st.sampled_from([BUG, ODD, LOST, FULL, "ActorDiedError: its node has died", "OSError: gone", "killed"])
_ERRORS = st.sampled_from([Preempted("p"), StoreUnavailable("s", uri="u"), Diverged("d", step=1, loss=0.0), ConfigError("c")])
_FAILURES = st.one_of(
    st.builds(crashed, st.integers(0, 3), _TEXTS, st.integers(0, 9), st.integers(0, 9)),
    st.builds(died, st.integers(0, 3), _TEXTS),
    st.builds(raised, st.integers(0, 3), _ERRORS),
)
_SHAPES = st.builds(
    Shape, num_workers=st.integers(1, 4), micro_batch_size=st.integers(1, 48), accumulation=st.integers(1, 4), zero_stage=st.integers(0, 3)
)
_BUDGETS = st.builds(Budgets, max_failures=st.integers(0, 3), max_preemptions=st.integers(0, 3), max_memory_retries=st.integers(0, 4))


@given(st.lists(st.lists(_FAILURES, min_size=1, max_size=4).map(tuple), max_size=16), _SHAPES, _BUDGETS, st.integers(0, 3))
def test_whatever_happens_no_budget_is_exceeded_and_the_batch_stays(
    ends: list[tuple[RankFailure, ...]], shape: Shape, budgets: Budgets, max_zero_stage: int
) -> None:
    spent, batch_size, num_restarts = Spent(), shape.batch_size, 0
    for failures in ends:
        facts = FailureFacts(failures=failures, shape=shape, budgets=budgets, spent=spent, max_zero_stage=max_zero_stage)
        decision = decide(facts)
        final = [one for one in failures if one.error is not None and not one.error.retryable]
        assert not (final and decision.error is None), "an error that foundry raised on purpose is the end"
        if decision.error is not None:
            break
        num_restarts += 1
        shape, spent = decision.shape, decision.spent
        assert shape.batch_size == batch_size
        assert shape.num_workers == facts.shape.num_workers
        assert spent.num_failures <= budgets.max_failures
        assert spent.num_preemptions <= budgets.max_preemptions
        assert spent.num_memory_retries <= budgets.max_memory_retries
    assert num_restarts <= budgets.max_failures + budgets.max_preemptions + budgets.max_memory_retries
