from __future__ import annotations

import pickle

import pytest

from foundry_ray.errors import Diverged, StoreUnavailable, WorkerGroupFailed
from foundry_ray.training.failures import FailureFacts, FailureKind, RankCrashed, RankFailure, decide

BUG = 'Traceback (most recent call last):\n  File "m.py", line 3, in forward at 0x7f00\nValueError: wrong shape'
LOST = "Traceback (most recent call last):\nRuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4"


def died(rank: int) -> RankFailure:
    return RankFailure(rank=rank, kind=FailureKind.DIED, text="ActorDiedError: killed by SIGKILL")


def crashed(rank: int, text: str = BUG) -> RankFailure:
    return RankFailure(rank=rank, kind=FailureKind.CRASHED, text=text)


def diverged(rank: int, step: int) -> RankFailure:
    return RankFailure(rank=rank, kind=FailureKind.RAISED, text="nan", error=Diverged("the loss is nan.", step=step, loss=float("nan")))


def test_a_death_within_the_budget_restarts() -> None:
    decision = decide(FailureFacts(failures=(died(1),), num_restarts=2, max_failures=3))
    assert decision.is_restart
    assert decision.reason == "rank 1 died: ActorDiedError: killed by SIGKILL"


def test_a_death_beyond_the_budget_stops_with_the_rank_and_its_text() -> None:
    decision = decide(FailureFacts(failures=(died(1), crashed(0, LOST)), num_restarts=3, max_failures=3))
    assert isinstance(decision.error, WorkerGroupFailed)
    assert "rank 1 failed, and all 3 restarts are used up: ActorDiedError: killed by SIGKILL" in str(decision.error)
    assert "teacher.max_failures" in decision.error.hint
    assert decision.error.facts["failures"] == {0: LOST, 1: "ActorDiedError: killed by SIGKILL"}


def test_divergence_stops_at_once_with_the_rank_that_saw_it_first() -> None:
    decision = decide(FailureFacts(failures=(diverged(0, 12), diverged(1, 11), died(2)), max_failures=3))
    assert isinstance(decision.error, Diverged)
    assert decision.error.facts["step"] == 11


def test_the_same_traceback_twice_fails_fast_whatever_its_addresses() -> None:
    again = crashed(0, BUG.replace("0x7f00", "0xbeef"))
    assert decide(FailureFacts(failures=(crashed(0),), max_failures=3)).is_restart
    decision = decide(FailureFacts(failures=(again,), earlier_signatures=frozenset({crashed(0).signature}), num_restarts=1, max_failures=3))
    assert isinstance(decision.error, WorkerGroupFailed)
    assert "failed twice with the same error, which a restart will not mend: ValueError: wrong shape" in str(decision.error)
    assert decision.error.facts["failures"] == {0: again.text}


def test_a_rank_that_lost_its_peer_is_not_the_culprit() -> None:
    assert decide(FailureFacts(failures=(crashed(0, LOST), died(1)), max_failures=1)).reason.startswith("rank 1 died")
    assert decide(FailureFacts(failures=(crashed(0, LOST), crashed(1)), max_failures=1)).reason.startswith("rank 1 crashed: ValueError")


def test_two_deaths_in_a_row_are_not_a_bug() -> None:
    facts = FailureFacts(failures=(died(1), crashed(0, LOST)), earlier_signatures=frozenset({died(1).signature}), num_restarts=1, max_failures=3)
    assert decide(facts).is_restart


def test_a_store_that_does_not_answer_is_tried_again_and_comes_out_as_itself() -> None:
    failure = RankFailure(rank=0, kind=FailureKind.RAISED, text="away", error=StoreUnavailable("no answer.", uri="s3://b"))
    assert decide(FailureFacts(failures=(failure,), max_failures=1)).is_restart
    assert isinstance(decide(FailureFacts(failures=(failure,), num_restarts=1, max_failures=1)).error, StoreUnavailable)


def test_a_crash_travels_with_its_traceback() -> None:
    crash = pickle.loads(pickle.dumps(RankCrashed(BUG)))
    assert crash.text == BUG


@pytest.mark.parametrize("text", [LOST, "RuntimeError: Connection reset by peer", "DistBackendError: NCCL error: remote process exited"])
def test_lost_peers_are_recognised(text: str) -> None:
    assert crashed(0, text).is_witness
