"""The gate: closed while somebody measures, open again whatever happens to them."""

from __future__ import annotations

import fcntl
import pickle
import subprocess
import sys

from foundry_ray.evaluation import QuietGate
from foundry_ray.testing.clock import FakeClock

HOLD = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"


def test_a_gate_is_closed_during_a_measurement_only(tmp_path, clock):
    gate = QuietGate(home=tmp_path / "home")
    assert not gate.is_closed()
    with gate.closed(clock) as is_quiet:
        assert is_quiet
        assert gate.is_closed()
        assert pickle.loads(pickle.dumps(gate)).is_closed()
    assert not gate.is_closed()
    assert clock.sleeps == [gate.settle_s]


def test_trials_that_look_at_once_do_not_take_each_other_for_a_measurement(tmp_path):
    gate = QuietGate(home=tmp_path)
    gate.path.touch()
    with gate.path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not gate.is_closed()


def test_a_node_that_cannot_have_the_drivers_home_has_a_gate_all_the_same(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    gate = QuietGate(home=tmp_path / "file" / "home")
    with gate.closed(clock) as is_quiet:
        assert is_quiet
        assert gate.is_closed()
    assert not gate.is_closed()


def test_a_trial_waits_until_the_measurement_ends_and_knows_how_long(tmp_path):
    gate = QuietGate(home=tmp_path)

    class EndsAfterThree(FakeClock):
        def sleep(self, seconds):
            super().sleep(seconds)
            if len(self.sleeps) == 3:
                measuring.__exit__(None, None, None)

    measuring = gate.closed(FakeClock())
    measuring.__enter__()
    assert 0.0149 < gate.wait(EndsAfterThree()) < 0.0151
    assert gate.wait(FakeClock()) == 0.0


def test_two_measurements_exclude_each_other_and_the_second_gives_up_in_time(tmp_path, clock):
    gate = QuietGate(home=tmp_path, timeout_s=1.0)
    with gate.closed(FakeClock()), gate.closed(clock) as is_quiet:
        assert not is_quiet
    assert 1.0 <= sum(clock.sleeps) < 1.1


def test_a_measurement_whose_process_dies_opens_the_gate(tmp_path, clock):
    gate = QuietGate(home=tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(gate.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert gate.is_closed()
        holder.kill()
        holder.wait(timeout=10)
        assert not gate.is_closed()
    finally:
        holder.kill()
        holder.communicate()
