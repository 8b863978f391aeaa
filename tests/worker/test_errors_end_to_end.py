"""What goes wrong ends in a typed error at every rank, in time, that says what to do."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from switchml.errors import (
    CollectiveError,
    CollectiveMismatchError,
    CollectiveTimeoutError,
    DuplicateRankError,
    InvalidTokenError,
    JobAbortedError,
    JoinTimeoutError,
    LayoutMismatchError,
    PortInUseError,
    SwitchUnreachableError,
    UsageError,
    WorkerClosedError,
    WorldSizeMismatchError,
)
from switchml.switch_emulator import Emulator
from switchml.worker import Work, Worker
from switchml.worker.connection import UdpConnection

Call = Callable[[Worker], Work]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Emulator]:
    """With a token and short leases."""
    with Emulator(token="sesame", lease=1.0) as running:
        yield running


both_transports = pytest.mark.parametrize("transport", ["shm", "udp"])

F32 = np.float32
MISMATCHES: dict[str, tuple[Call, Call, str, str]] = {
    "sizes": (
        lambda w: w.allreduce(np.ones(50_000, F32)),
        lambda w: w.allreduce(np.ones(50_001, F32)),
        "allreduce(50000 x float32, sum; call 0",
        "allreduce(50001 x float32, sum; call 0",
    ),
    "very different sizes": (
        lambda w: w.allreduce(np.ones(10, F32)),
        lambda w: w.allreduce(np.ones(3_000_000, F32)),
        "allreduce(10 x float32",
        "allreduce(3000000 x float32",
    ),
    "dtypes": (
        lambda w: w.allreduce(np.ones(9, F32)),
        lambda w: w.allreduce(np.ones(9, np.int32)),
        "allreduce(9 x float32",
        "allreduce(9 x int32",
    ),
    "operations": (
        lambda w: w.allreduce(np.ones(90_000, np.float64), "max"),
        lambda w: w.allreduce(np.ones(90_000, np.float64), "min"),
        "allreduce(90000 x float64, max",
        "allreduce(90000 x float64, min",
    ),
    "collectives": (
        lambda w: w.allreduce(np.ones(9, F32)),
        lambda w: w.barrier(),
        "allreduce(9 x float32",
        "barrier(",
    ),
    "roots": (
        lambda w: w.broadcast(np.ones(9, F32), 0),
        lambda w: w.broadcast(np.ones(9, F32), 1),
        "broadcast(36 x bytes",
        "broadcast(36 x bytes",
    ),
    "empty and not": (
        lambda w: w.allreduce(np.ones(0, F32)),
        lambda w: w.allreduce(np.ones(1, F32)),
        "allreduce(0 x float32",
        "allreduce(1 x float32",
    ),
}


@both_transports
@pytest.mark.parametrize("what", MISMATCHES)
def test_a_mismatch_is_told_to_every_rank_with_names(worlds: Any, transport: str, what: str) -> None:
    first, second, one, other = MISMATCHES[what]
    world = worlds(3, transport=transport)
    started = time.monotonic()
    errors = world.attempt(lambda worker: (second if worker.rank == 1 else first)(worker).wait())
    assert time.monotonic() - started < 10
    for rank, error in enumerate(errors):
        assert isinstance(error, CollectiveMismatchError), error
        told = str(error)
        mine, theirs = (other, one) if rank == 1 else (one, other)
        assert f"rank {rank} called {mine}" in told
        assert re.search(rf"but rank{'s 0, 2' if rank == 1 else ' 1'}: {re.escape(theirs)}", told), told


def test_after_a_mismatch_everything_fails_alike(worlds: Any) -> None:
    world = worlds(2)

    def fail(worker: Worker) -> None:
        work = worker.allreduce(np.ones(5 + worker.rank, F32))
        behind = worker.barrier()
        with pytest.raises(CollectiveMismatchError):
            work.wait()
        with pytest.raises(CollectiveMismatchError):
            behind.wait()
        assert isinstance(behind.exception(), CollectiveMismatchError)
        with pytest.raises(CollectiveMismatchError):
            worker.barrier()

    world.run(fail)


def test_a_different_order_is_a_mismatch(worlds: Any) -> None:
    world = worlds(2)

    def call(worker: Worker) -> None:
        arrays = [np.ones(100_000, F32), np.ones(100, F32)]
        works = [worker.allreduce(array) for array in (arrays if worker.rank else arrays[::-1])]
        for work in works:
            work.wait()

    assert [type(error) for error in world.attempt(call)] == [CollectiveMismatchError] * 2


@both_transports
def test_a_rank_that_does_not_call_is_named(worlds: Any, transport: str) -> None:
    world = worlds(3, transport=transport)

    def call(worker: Worker) -> Any:
        if worker.rank == 1:
            time.sleep(2.5)
            return None
        work = worker.allreduce(np.ones(70_000, F32), timeout=1.0)
        started = time.monotonic()
        with pytest.raises(CollectiveTimeoutError) as caught:
            work.wait()
        assert 0.5 < time.monotonic() - started < 5
        return str(caught.value)

    told = world.attempt(call)
    for rank in (0, 2):
        assert f"job {world.workers[0].job!r}, rank {rank}: " in told[rank]
        assert re.search(r"no result for chunk \d+", told[rank])
        assert re.search(
            r"has not seen it from rank 1 \((never heard|last heard \d+\.\d s ago)\)\.", told[rank]
        ), told[rank]


def test_a_callback_hears_of_a_deadline_too(worlds: Any) -> None:
    import threading

    world = worlds(2)
    ended = threading.Event()
    work = world.workers[0].barrier(timeout=0.3)
    work.add_done_callback(lambda _: ended.set())
    assert ended.wait(5)
    assert isinstance(work.exception(), CollectiveTimeoutError)


_DIES = """
import os, sys
import numpy as np
from switchml.worker import Worker
worker = Worker.join(sys.argv[1], job=sys.argv[2], rank=1, world_size=2, transport=sys.argv[3], token="sesame", join_timeout=90)
worker.allreduce(np.ones(10, np.float32)).wait()
os._exit(9)
"""


@both_transports
def test_a_worker_that_dies_aborts_the_job_of_the_others(guarded: Emulator, transport: str) -> None:
    job = f"dies-{transport}"
    process = subprocess.Popen([sys.executable, "-c", _DIES, guarded.control_address, job, transport])
    try:
        with Worker.join(
            guarded.control_address,
            job=job,
            rank=0,
            world_size=2,
            transport=transport,
            token="sesame",
            join_timeout=90,
        ) as worker:
            worker.allreduce(np.ones(10, F32)).wait(60)
            started = time.monotonic()
            with pytest.raises(JobAbortedError, match="rank 1 has died"):
                worker.allreduce(np.ones(10, F32), timeout=60).wait()
            assert time.monotonic() - started < 10
            with pytest.raises(JobAbortedError):
                worker.barrier()
    finally:
        assert process.wait(60) == 9


@both_transports
def test_leaving_ends_works_in_flight(worlds: Any, transport: str) -> None:
    world = worlds(2, transport=transport)
    worker = world.workers[0]
    works = [worker.allreduce(np.ones(100_000, F32)), worker.barrier()]
    worker.leave()
    worker.leave()
    for work in works:
        with pytest.raises(WorkerClosedError, match="has left job"):
            work.wait(5)
    with pytest.raises(WorkerClosedError):
        worker.barrier()


def test_leaving_while_another_thread_waits(worlds: Any) -> None:
    import threading

    world = worlds(2)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            world.workers[0].barrier().wait()
        except CollectiveError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    world.workers[0].leave()
    thread.join(5)
    assert not thread.is_alive()
    assert [type(error) for error in errors] == [WorkerClosedError]


def test_ranks_may_leave_one_after_the_other(worlds: Any) -> None:
    """Leaving is normal at the end: who is slower still gets what was complete."""
    world = worlds(2, transport="udp")

    def end(worker: Worker) -> Any:
        result = worker.allreduce(np.ones(50_000, F32)).wait()
        if worker.rank == 0:
            worker.leave()
        return result

    assert all((result == 2).all() for result in world.run(end))


def test_world_sizes_that_differ(emulator: Emulator) -> None:
    def join(rank: int, world_size: int) -> Worker:
        return Worker.join(
            emulator.control_address, job="sizes", rank=rank, world_size=world_size, join_timeout=2
        )

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(join, 0, 2)
        time.sleep(0.3)
        with pytest.raises(
            WorldSizeMismatchError, match="rank 1 says world size 3, but the job has world size 2"
        ):
            join(1, 3)
        error = first.exception(20)
    assert isinstance(error, JoinTimeoutError)
    assert "Rank 1 was refused: job 'sizes': rank 1 says world size 3" in str(error)


def test_a_rank_outside_the_world(emulator: Emulator) -> None:
    with pytest.raises(WorldSizeMismatchError):
        Worker.join(emulator.control_address, job="outside", rank=2, world_size=2, join_timeout=5)


def test_a_rank_joins_twice(emulator: Emulator, worlds: Any) -> None:
    world = worlds(2, job="twice")
    started = time.monotonic()
    with pytest.raises(DuplicateRankError):
        Worker.join(emulator.control_address, job="twice", rank=1, world_size=2, join_timeout=20)
    assert time.monotonic() - started < 10
    assert len(world.run(lambda worker: worker.barrier().wait())) == 2


def test_missing_ranks_are_named(emulator: Emulator) -> None:
    with pytest.raises(JoinTimeoutError, match="rank 0"):
        Worker.join(emulator.control_address, job="alone", rank=1, world_size=2, join_timeout=0.5)


def test_layouts_that_differ(worlds: Any) -> None:
    with pytest.raises((LayoutMismatchError, JoinTimeoutError)) as caught:
        worlds(2, each={0: {"payload": 256}, 1: {"payload": 512}}, join_timeout=2)
    assert "256" in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"payload": 1000}, {"window": 3}, {"window": 1 << 15}, {"transport": "pigeon"}]
)
def test_options_that_cannot_be(emulator: Emulator, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Worker.join(emulator.control_address, job="options", rank=0, world_size=1, join_timeout=5, **options)


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_wrong_token(guarded: Emulator, token: str) -> None:
    with pytest.raises(InvalidTokenError):
        Worker.join(guarded.control_address, job="token", rank=0, world_size=1, token=token, join_timeout=5)


def test_an_unreachable_switch() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(SwitchUnreachableError, match=address):
            Worker.join(address, job="nowhere", rank=0, world_size=1, join_timeout=1.0)
        assert time.monotonic() - started < 5


def test_a_data_port_that_does_not_answer(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switchml.worker.connection._ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("switchml.protocol.probes.PROBE", 9)
    with pytest.raises(SwitchUnreachableError, match="firewall"):
        Worker.join(
            emulator.control_address, job="mute", rank=0, world_size=1, transport="udp", join_timeout=10
        )


def test_taken_ports(emulator: Emulator) -> None:
    control = int(emulator.control_address.rpartition(":")[2])
    with pytest.raises(PortInUseError, match=str(control)):
        Emulator(control_port=control)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"127.0.0.1:{port}.*--port"):
            Emulator(udp_port=port)


def test_a_host_that_is_not_ours() -> None:
    with pytest.raises(UsageError, match=r"cannot listen on '192\.0\.2\.1'.*an address of this machine"):
        Emulator("192.0.2.1")


def test_packets_that_this_machine_forbids(emulator: Emulator) -> None:
    class Forbidden(socket.socket):
        def send(self, *args: Any) -> int:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    connection = UdpConnection(emulator.target.describe())
    # As with a rule of the local firewall: the socket is there, what it sends is not let out.
    connection._socket = Forbidden(fileno=connection._socket.detach())
    try:
        with pytest.raises(SwitchUnreachableError, match="firewall rule here"):
            connection.attach(0, 1, 64, 1024, 1, "", 0)
    finally:
        connection.close()


def test_two_switches_on_one_data_port(emulator: Emulator) -> None:
    port = int(emulator.udp_address.rpartition(":")[2])
    with pytest.raises(PortInUseError):
        Emulator(udp_port=port).close()


def test_a_switch_that_goes_away(worlds: Any) -> None:
    switch = Emulator(lease=1.0)
    try:
        world = worlds(2, switch=switch.control_address, transport="udp")
        world.run(lambda worker: worker.barrier().wait())
        switch.close()
        started = time.monotonic()
        errors = world.attempt(lambda worker: worker.allreduce(np.ones(1000, F32), timeout=4.0).wait())
        assert time.monotonic() - started < 30
        assert all(isinstance(error, (JobAbortedError, CollectiveTimeoutError)) for error in errors), errors
    finally:
        switch.close()


@both_transports
def test_a_forked_child_cannot_use_its_parents_place(worlds: Callable[..., Any], transport: str) -> None:
    world = worlds(2, transport=transport)
    first, second = world.workers
    flying = first.allreduce(np.ones(5000, F32))
    child = os.fork()
    if child == 0:
        refused = 0
        for attempt in (lambda: first.allreduce(np.ones(5000, F32)), first.barrier, lambda: flying.wait(5)):
            try:
                attempt()
            except WorkerClosedError:
                refused += 1
        first.leave()
        os._exit(refused)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    second.allreduce(np.ones(5000, F32)).wait()
    assert (flying.wait() == 2).all()
    assert all((total == 2).all() for total in world.run(lambda w: w.allreduce(np.ones(5000, F32)).wait()))
