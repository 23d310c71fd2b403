"""What happens when nobody listens at a head's address any more: the main thread is interrupted, and where it hangs, the process ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from foundry_ray.runtime import head_watch
from foundry_ray.runtime.head_watch import HeadWatch


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(head_watch, "_EVERY_S", 0.05)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # an earlier test may have left another one
    yield
    signal.signal(signal.SIGINT, before)


def _listening() -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0))
    server.listen(64)
    return server


def _address(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("quick")
def test_a_head_that_goes_away_interrupts_the_main_thread_and_says_why() -> None:
    with _listening() as server:
        watch = HeadWatch(_address(server), silence_s=0.2)
        watch.start()
        time.sleep(0.3)
        assert watch.lost is None
        address = _address(server)
    try:
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)
    finally:
        watch.stop()
    assert watch.lost is not None
    assert watch.lost.message == f"The Ray head at {address} has not answered for 0.2 s."


@pytest.mark.usefixtures("quick")
def test_a_head_that_comes_back_in_time_is_not_lost() -> None:
    first = _listening()
    address = first.getsockname()
    watch = HeadWatch(_address(first), silence_s=0.6)
    first.close()
    watch.start()
    time.sleep(0.2)
    with socket.create_server(address):
        time.sleep(0.8)
        watch.stop()
    assert watch.lost is None


@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "lambda *_: None"])
def test_a_command_that_does_not_come_to_its_end_is_ended_with_the_error_of_its_border(handler: str) -> None:
    script = (
        "import signal, time\n"
        "from foundry_ray.runtime import head_watch\n"
        "head_watch._EVERY_S, head_watch._TO_END_S = 0.05, 0.2\n"
        f"signal.signal(signal.SIGINT, {handler})\n"
        "head_watch.HeadWatch('127.0.0.1:1', silence_s=0.1).start()\n"
        "time.sleep(30)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-2:] == [
        "error: The Ray head at 127.0.0.1:1 has not answered for 0.1 s.",
        "hint:  finished work is kept: run the command again.",
    ]
