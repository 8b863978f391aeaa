"""Who dies or leaves is known to the others at once, by name; who is only slow is waited for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from switchml.control import embedded
from switchml.errors import CollectiveError, JobAbortedError
from switchml.switch_emulator import Emulator
from switchml.worker import Worker

F32 = np.float32
# Promised is a second. A test process may wait that long for a core; what was before (a lease or a timeout) takes longer.
NEWS = 5.0
LEASE = 60.0
WAIT = 90.0  # seconds for whatever must happen: compiling, a loaded machine

_VICTIM = """
import ctypes, os, signal, subprocess, sys, threading, time
import numpy as np
from switchml.worker import Worker

address, job, transport, how = sys.argv[1:]

def add():
    worker.allreduce(np.ones(1000, np.float32)).wait()

def die():
    os.kill(os.getpid(), signal.SIGKILL)

with Worker.join(address, job=job, rank=1, world_size=3, transport=transport, join_timeout=90) as worker:
    add()
    print("ready", flush=True)
    sys.stdin.readline()
    if how == "exception":
        raise ValueError("no such file")
    if how == "sys.exit":
        sys.exit(3)
    if how == "leave":
        worker.leave()
        time.sleep(60)
    if how == "kill":
        die()
    if how == "kill a parent":
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        subprocess.Popen(["sleep", "60"])
        die()
    if how == "exec":
        os.execvp("sleep", ["sleep", "60"])
    if how == "hold the GIL":
        ctypes.PyDLL(None).sleep(int(sys.stdin.readline()))
    add()
"""


@pytest.fixture(scope="module")
def switch() -> Iterator[Emulator]:
    """With leases so long that they explain nothing here."""
    with Emulator(lease=LEASE) as running:
        yield running


def join(switch: Emulator, job: str, rank: int, world_size: int, transport: str) -> Worker:
    return Worker.join(
        switch.control_address, job=job, rank=rank, world_size=world_size, transport=transport,
        join_timeout=WAIT, timeout=WAIT,
    )  # fmt: skip


class Trio:
    """Ranks 0 and 2 of a job in this process, and rank 1 in one that is to go wrong."""

    def __init__(self, switch: Emulator, how: str, transport: str) -> None:
        job = f"{how}-{transport}-{time.monotonic_ns()}"
        command = [sys.executable, "-c", _VICTIM, switch.control_address, job, transport, how]
        self.victim = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.how = how
        self.timer: threading.Timer | None = None
        self.workers: list[Worker] = []
        try:
            self._each((0, 2), lambda rank: self.workers.append(join(switch, job, rank, 3, transport)))
            self.together(lambda worker: worker.allreduce(np.ones(1000, F32)).wait(WAIT))
            assert self.victim.stdout is not None
            assert self.victim.stdout.readline() == "ready\n"
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _each(items: Any, body: Callable[[Any], Any]) -> None:
        threads = [threading.Thread(target=body, args=(item,)) for item in items]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def say(self, line: str) -> None:
        """To the victim."""
        assert self.victim.stdin is not None
        self.victim.stdin.write(line + "\n")
        self.victim.stdin.flush()

    def pause(self, seconds: int) -> None:
        """The victim falls silent for so long, then goes on; it is one that was told to "stop" or to "hold the GIL"."""
        if self.how == "stop":
            self.victim.send_signal(signal.SIGSTOP)
            self.timer = threading.Timer(seconds, self.victim.send_signal, [signal.SIGCONT])
            self.timer.start()
            self.say("")
        else:
            self.say("")
            self.say(str(seconds))

    def together(self, body: Callable[[Worker], Any]) -> list[Any]:
        """What `body` returns or raises, for both survivors."""
        results: list[Any] = []

        def call(worker: Worker) -> None:
            try:
                results.append(body(worker))
            except CollectiveError as error:
                results.append(error)

        self._each(self.workers, call)
        return results

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for worker in self.workers:
            worker.leave()
        # Its whole session: it may have children.
        subprocess.run(["kill", "-KILL", "--", f"-{self.victim.pid}"], check=False, stderr=subprocess.DEVNULL)
        self.victim.communicate()


@pytest.fixture
def make_trio() -> Iterator[Callable[..., Trio]]:
    trios: list[Trio] = []

    def make(switch: Emulator, how: str, transport: str = "shm") -> Trio:
        trios.append(Trio(switch, how, transport))
        return trios[-1]

    yield make
    for each in trios:
        each.close()


ENDS = {
    "exception": r"rank 1 has left \(ValueError: no such file\)",
    "sys.exit": r"rank 1 has left",
    "leave": r"rank 1 has left",
    "kill": r"rank 1 has died",
    "kill a parent": r"rank 1 has died",
    "exec": r"rank 1 has died",
}


@pytest.mark.parametrize(
    ("how", "transport"), [*((how, "shm") for how in ENDS), ("exception", "udp"), ("kill", "udp")]
)
def test_an_end_ends_the_collectives_of_the_others(
    switch: Emulator, make_trio: Callable[..., Trio], how: str, transport: str
) -> None:
    world = make_trio(switch, how, transport)
    took: list[float] = []

    def wait(worker: Worker) -> None:
        try:
            worker.allreduce(np.ones(1000, F32)).wait(WAIT)
        finally:
            took.append(time.monotonic() - begun)

    begun = time.monotonic()
    threading.Timer(0.3, world.say, [""]).start()  # by then both wait
    errors = world.together(wait)
    for error in errors:
        assert isinstance(error, JobAbortedError), error
        assert re.search(ENDS[how], str(error)), error
    assert max(took) < 0.3 + NEWS


def test_ranks_that_are_done_leave_one_after_another_in_silence(switch: Emulator) -> None:
    """Only a collective that the one that left has not finished is an error."""
    job = f"done-{time.monotonic_ns()}"
    joined: dict[int, Worker] = {}
    each = [
        threading.Thread(target=lambda rank=rank: joined.update({rank: join(switch, job, rank, 2, "udp")}))
        for rank in range(2)
    ]
    for thread in each:
        thread.start()
    for thread in each:
        thread.join()
    with joined[0] as first, joined[1] as second:
        works = [[worker.allreduce(np.ones(50_000, F32)) for _ in range(3)] for worker in (first, second)]
        for work in works[0]:
            work.wait(WAIT)
        first.leave()
        heard = time.monotonic() + WAIT
        while second._tally.limit is None:
            assert time.monotonic() < heard
            time.sleep(0.01)
        assert all((work.wait(WAIT) == 2).all() for work in works[1])
        with pytest.raises(JobAbortedError, match="rank 0 has left after 3 collectives"):
            second.barrier().wait(WAIT)


@pytest.mark.parametrize(("how", "transport", "lease"), [("stop", "udp", 16.0), ("hold the GIL", "shm", 2.0)])
def test_a_rank_that_is_only_slow_is_waited_for(
    make_trio: Callable[..., Trio], how: str, transport: str, lease: float
) -> None:
    """Stopped for less than a lease, by far, or without its interpreter for three leases."""
    with Emulator(lease=lease) as switch:
        world = make_trio(switch, how, transport)
        world.pause(6)
        began = time.monotonic()
        results = world.together(lambda worker: worker.allreduce(np.ones(1000, F32)).wait(WAIT))
        assert time.monotonic() - began > 3  # it was silent
        assert all((result == 3).all() for result in results)
        assert world.victim.wait(WAIT) == 0


def test_a_rank_that_is_stopped_for_a_lease_is_told_from_a_dead_one(make_trio: Callable[..., Trio]) -> None:
    with Emulator(lease=3.0) as switch:
        world = make_trio(switch, "stop")
        world.pause(60)
        for error in world.together(lambda worker: worker.barrier().wait(WAIT)):
            assert isinstance(error, JobAbortedError)
            assert "rank 1 has not been heard for 3.0 s, though connected: stopped?" in str(error)


def test_half_a_minute_of_silence_is_nothing_by_default() -> None:
    with Emulator() as switch:
        assert switch.controller.lease == 30.0


def add_for_ever(worker: Worker) -> None:
    while True:
        worker.allreduce(np.ones(1000, F32), timeout=WAIT).wait()


def test_a_switch_that_is_killed_is_known_at_once() -> None:
    with embedded.start() as switch:
        worker = Worker.join(
            switch.address, token=switch.token, job="killed", rank=0, world_size=1, join_timeout=WAIT
        )
        with worker:
            worker.barrier().wait(WAIT)
            os.kill(switch.pid, signal.SIGKILL)
            begun = time.monotonic()
            with pytest.raises(JobAbortedError, match="has ended"):
                add_for_ever(worker)
            assert time.monotonic() - begun < NEWS
