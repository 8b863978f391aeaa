"""Jobs whose ranks die, are late or come anew, and that go on in the same processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from switchml.errors import JobAbortedError, LeftBehindError, UsageError, WorkerClosedError
from switchml.switch_emulator import Emulator
from switchml.worker import Worker
from tests.worker.conftest import all_well, at_once, new_job

Worlds = Callable[..., Any]
WAIT = 90.0
NEWS = 5.0  # seconds, as in test_lives_end_to_end.py

_VICTIM = """
import os, signal, sys
import numpy as np
from switchml.worker import Worker
address, job, transport = sys.argv[1:]
worker = Worker.join(address, job=job, rank=1, world_size=3, transport=transport, timeout=90.0)
print("joined", flush=True)
while True:
    worker.allreduce(np.ones(30_000, np.float32)).wait()
"""


def _sum(worker: Worker) -> npt.NDArray[Any]:
    values = np.full(5000, worker.rank + 1, np.float32)
    worker.allreduce(values).wait()
    return values


def _right(worker: Worker) -> bool:
    total = worker.world_size * (worker.world_size + 1) // 2
    return bool((_sum(worker) == total).all())


def _place(worker: Worker) -> tuple[int, int, int, int]:
    return worker.rank, worker.world_size, worker.epoch, worker.survivors


def _until_somebody_dies(worker: Worker, begun: threading.Barrier) -> Worker:
    """All-reduces; the worker of the next epoch."""
    begun.wait(WAIT)
    while True:
        try:
            worker.allreduce(np.ones(30_000, np.float32)).wait()
        except JobAbortedError:
            return worker.regroup(within=WAIT)


def _let_in(worker: Worker) -> Worker:
    """All-reduces until all ranks know that a new one waits; the worker of the next epoch."""
    until = time.monotonic() + WAIT
    seen = np.zeros(1, np.int64)
    while not seen[0]:
        assert time.monotonic() < until
        time.sleep(0.01)
        seen[0] = worker.newcomers
        worker.allreduce(seen, "max").wait()
    return worker.regroup(within=WAIT)


@pytest.mark.parametrize("transport", ["udp", "memory"])
def test_a_rank_that_is_killed_and_one_that_comes_in_its_place(emulator: Emulator, transport: str) -> None:
    """Nobody waits longer than a death takes to be known; `within` is far away."""
    job, address = new_job(), emulator.control_address
    command = [sys.executable, "-c", _VICTIM, address, job, transport]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        options: dict[str, Any] = {"job": job, "transport": transport, "timeout": WAIT}
        try:
            workers = all_well(
                at_once(
                    [
                        lambda: Worker.join(address, rank=0, world_size=3, **options),
                        lambda: Worker.join(address, rank=2, world_size=3, **options),
                    ]
                )
            )
            begun = threading.Barrier(3)

            def kill() -> float:
                assert victim.stdout is not None
                assert victim.stdout.readline() == "joined\n"
                begun.wait(WAIT)
                victim.send_signal(signal.SIGKILL)
                return time.monotonic()

            *went_on, killed = all_well(
                at_once([*(lambda each=each: _until_somebody_dies(each, begun) for each in workers), kill])
            )
            assert time.monotonic() - killed < NEWS
        finally:
            victim.kill()
    assert [_place(worker) for worker in went_on] == [(0, 2, 1, 2), (1, 2, 1, 2)]
    assert all_well(at_once([lambda each=each: _right(each) for each in went_on])) == [True] * 2
    with pytest.raises(JobAbortedError, match="rank 1 has died"):
        workers[0].barrier()
    workers[0].leave()  # the membership is the next epoch's

    three = all_well(
        at_once(
            [
                *(lambda each=each: _let_in(each) for each in went_on),
                lambda: Worker.join(address, rank=None, world_size=None, **options),
            ]
        )
    )
    assert [_place(worker) for worker in three] == [(0, 3, 2, 2), (1, 3, 2, 2), (2, 3, 2, 2)]
    assert all_well(at_once([lambda each=each: _right(each) for each in three])) == [True] * 3
    assert {worker.transport for worker in three} == {transport}
    for worker in three:
        worker.leave()


def test_the_past_epochs_packets_are_a_strangers(worlds: Worlds, emulator: Emulator) -> None:
    world = worlds(2, transport="udp")
    sent = [worker._seats[0]._way.connection._socket.dup() for worker in world.workers]
    went_on = world.run(lambda worker: worker.regroup(within=WAIT))
    before = emulator.counters()
    old = bytes.fromhex("1301000000000000") + bytes(2 + 1024)  # the first chunk of the first epoch's stream
    for sock in sent:
        sock.send(old)
        sock.close()
    assert all_well(at_once([lambda each=each: _right(each) for each in went_on])) == [True] * 2
    after = emulator.counters()
    assert after["dropped_unknown_sender"] - before["dropped_unknown_sender"] == 2
    for worker in went_on:
        worker.leave()


def test_a_rank_that_calls_too_late_is_left_behind_and_comes_in_anew(
    worlds: Worlds, emulator: Emulator
) -> None:
    first, late = worlds(2, transport="udp").workers
    alone = first.regroup(within=0.1)
    assert _place(alone) == (0, 1, 1, 1)
    with pytest.raises(JobAbortedError, match="gone on as epoch 1, of world size 1, without rank 1"):
        _sum(late)
    with pytest.raises(LeftBehindError, match="epoch 1 without rank 1"):
        late.regroup()
    both = all_well(
        at_once(
            [
                lambda: _let_in(alone),
                lambda: Worker.join(
                    emulator.control_address, job=late.job, rank=None, world_size=None, transport="udp"
                ),
            ]
        )
    )
    assert [_place(worker) for worker in both] == [(0, 2, 2, 1), (1, 2, 2, 1)]
    assert all_well(at_once([lambda each=each: _right(each) for each in both])) == [True] * 2
    for worker in both:
        worker.leave()


def test_the_last_rank_goes_on_alone(worlds: Worlds) -> None:
    world = worlds(2, transport="memory")
    world.workers[1].leave("no such file")
    alone = world.workers[0].regroup()
    assert _place(alone) == (0, 1, 1, 1)
    assert _right(alone)
    alone.leave()


def test_each_epoch_has_its_own_capture(
    worlds: Worlds, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHML_CAPTURE", str(tmp_path / "wire.pcap"))
    world = worlds(2, transport="udp")
    went_on = world.run(lambda worker: worker.regroup(within=WAIT))
    assert all_well(at_once([lambda each=each: _right(each) for each in went_on])) == [True] * 2
    for worker in went_on:
        worker.leave()
    names = {re.sub(r"job-\d+", "JOB", name) for name in os.listdir(tmp_path)}
    assert names == {f"wire.JOB{epoch}.rank{rank}.pcap" for epoch in ("", ".epoch1") for rank in (0, 1)}


def test_arguments_that_cannot_be_meant(worlds: Worlds, emulator: Emulator) -> None:
    address = emulator.control_address
    with pytest.raises(UsageError, match="give both, or None for both"):
        Worker.join(address, job="x", rank=None, world_size=2)
    with pytest.raises(UsageError, match="at one switch"):
        Worker.join(f"{address},localhost:1", job="x", rank=None, world_size=None)
    worker = worlds(1).workers[0]
    with pytest.raises(UsageError, match="within 0"):
        worker.regroup(within=0)
    worker.leave()
    with pytest.raises(WorkerClosedError):
        worker.regroup()
