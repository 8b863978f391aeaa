"""The switch in memory beside packets: the same bits of everything, the same counters, the same words of who is late."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import Any

import numpy as np
import pytest

from switchml.control.client import ControlClient
from switchml.errors import CollectiveTimeoutError, SwitchMLError
from switchml.switch_emulator import Emulator
from switchml.switch_emulator.faults import new_faults
from switchml.worker import Rounding, Worker, seat
from switchml.worker.engine import run
from switchml.worker.in_memory import run_in_memory

_COUNT = 20_000
_WAYS = ({"transport": "memory"}, {"transport": "shm"}, {"transport": "udp"})


def _values(rank: int, dtype: str) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(rank)
    if dtype.startswith("int"):
        return rng.integers(-1000, 1000, _COUNT).astype(dtype)
    values = (rng.standard_normal(_COUNT) * 10.0 ** rng.integers(-30, 30, _COUNT)).astype(dtype)
    values[5000:11_000] = 0  # whole chunks of nothing
    if dtype == "float32":
        values[[7, 15_000]] = np.inf, np.nan  # chunks to be exchanged exactly
    return values


def _digest(worker: Worker) -> str:
    """Of the results of every kind of transfer."""
    results = []
    for dtype in ("float32", "float16", "float64", "int32", "int8", "int64"):
        with np.errstate(over="ignore", invalid="ignore"):
            values = _values(worker.rank, dtype)
        results.append(worker.allreduce(values.copy()).wait())
        results.append(worker.allreduce(values.copy(), op="max").wait())
    values = np.nan_to_num(_values(worker.rank, "float32"))
    results.append(worker.broadcast(values.copy(), root=1).wait())
    results.append(worker.allgather(values[:777]).wait())
    results.append(worker.reduce_scatter(values[: 3 * 6000].reshape(3, 6000).copy()).wait())
    works = [worker.allreduce(values[start : start + 500].copy()) for start in range(0, 15_000, 500)]
    results += [work.wait() for work in works]
    worker.barrier().wait()
    digest = hashlib.sha256()
    for result in results:
        digest.update(np.ascontiguousarray(result).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("wire", ["float32", "int16", "int8"])
def test_every_way_gives_the_same_bits(worlds: Any, wire: str) -> None:
    shares = []
    for way in _WAYS:
        world = worlds(3, wire=wire, payload=1024, **way)
        assert {worker.transport for worker in world.workers} == {way["transport"]}
        shares.append(world.run(_digest))
    assert shares[0] == shares[1] == shares[2]


def test_rounding_by_chance_and_what_it_leaves_are_the_same(worlds: Any) -> None:
    def sums(worker: Worker) -> str:
        values = np.random.default_rng(worker.rank).standard_normal(_COUNT).astype(np.float32)
        rounding = Rounding(seed=worker.rank, feedback=True)
        digest = hashlib.sha256()
        for _ in range(3):
            digest.update(
                worker.allreduce(values, rounding=rounding, out=np.empty_like(values)).wait().tobytes()
            )
            digest.update(values.tobytes())
        return digest.hexdigest()

    memory, packets, _ = (worlds(2, wire="int8", payload=1024, **way).run(sums) for way in _WAYS)
    assert memory == packets


def test_status_and_counters_tell_of_a_job_in_memory(worlds: Any, emulator: Emulator) -> None:
    before = emulator.counters()
    world = worlds(2, transport="memory", payload=1024, job="seen")
    values = np.ones(1000, np.float32)
    world.run(lambda worker: worker.allreduce(values.copy()).wait())
    with ControlClient(emulator.control_address) as client:
        [job] = [job for job in client.status().jobs if job.name == "seen"]
    assert {member.transport for member in job.members} == {"memory"}
    assert all(member.packet is not None and member.packet < 100 for member in job.members)
    # Few elements go as every rank's own words, beside the descriptor.
    expected = {
        "packets_received": 2,
        "bytes_received": 2 * 1034 + 2 * 4000,
        "packets_sent": 1,
        "bytes_sent": 1034,
        "elements_added": 2 * 256 + 2 * 1000,
        "chunks_completed": 1,
    }
    assert {name: value for name, value in job.counters.items() if value} == expected
    for worker in world.workers:
        worker.leave()
    after = emulator.counters()
    assert {name: after[name] - before[name] for name in expected} == expected


def test_who_is_late_is_named(worlds: Any) -> None:
    world = worlds(3, transport="memory")
    world.run(lambda worker: worker.barrier().wait())

    def call(worker: Worker) -> str:
        if worker.rank == 1:
            return ""
        begin = time.monotonic()
        with pytest.raises(CollectiveTimeoutError) as error:
            worker.allreduce(np.ones(100_000, np.float32), timeout=0.5).wait()
        assert time.monotonic() - begin >= 0.5
        return str(error.value)

    told = world.run(call)
    for rank in (0, 2):
        assert "the switch has not seen it from rank 1 (last heard " in told[rank]


def test_an_abort_ends_a_wait_at_once(worlds: Any) -> None:
    world = worlds(2, transport="memory")
    world.run(lambda worker: worker.barrier().wait())
    work = world.workers[0].allreduce(np.ones(10, np.float32))
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            work.wait()
        except SwitchMLError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    world.workers[0].abort(SwitchMLError("enough"))
    waiting.join(60)
    assert [str(error) for error in errors] == ["enough"]


def test_faults_need_packets() -> None:
    with Emulator(faults=new_faults(loss=0.01, seed=1)) as emulator:
        assert not emulator.target.describe().in_memory
        with Worker.join(emulator.control_address, job="a", rank=0, world_size=1) as worker:
            assert worker.transport == "shm"


def test_jobs_in_memory_are_apart(worlds: Any) -> None:
    jobs = [worlds(2, transport="memory") for _ in range(3)]
    for number, world in enumerate(jobs):
        values = np.full(5000, 1.0 + number, np.float32)
        results = world.run(lambda worker, v=values: worker.allreduce(v.copy()).wait())
        for result in results:
            assert np.all(result == 2 * (1 + number))


def test_no_loop_is_compiled_that_the_job_does_not_run(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(seat, "prepare", lambda function, *_: compiled.append(function))
    for transport, loop, other in (("auto", run_in_memory, run), ("shm", run, run_in_memory)):
        with Worker.join(
            emulator.control_address, job=transport, rank=0, world_size=1, transport=transport
        ) as worker:
            assert worker.allreduce(np.ones(3, np.float32)).wait().tolist() == [1, 1, 1]
        assert loop in compiled
        assert other not in compiled
        compiled.clear()


def test_who_expected_memory_and_shares_the_job_with_packets_compiles_their_loop_too(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(seat, "prepare", lambda function, *_: compiled.append(function))
    sums: list[list[float]] = []

    def take_part(rank: int, transport: str) -> None:
        with Worker.join(
            emulator.control_address, job="mixed", rank=rank, world_size=2, transport=transport
        ) as worker:
            sums.append(worker.allreduce(np.ones(3, np.float32)).wait().tolist())

    threads = [threading.Thread(target=take_part, args=each) for each in enumerate(("auto", "udp"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [[2, 2, 2], [2, 2, 2]]
    assert {run, run_in_memory} <= set(compiled)
