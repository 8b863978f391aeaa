"""A job on several switches: the bits of one switch, shares as asked for, and one end for all when a part fails."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from switchml.control import embedded
from switchml.control.named_switches import NamedSwitch
from switchml.errors import (
    CollectiveMismatchError,
    CollectiveTimeoutError,
    InvalidTokenError,
    JobAbortedError,
    JoinError,
    JoinTimeoutError,
    PoolExhaustedError,
    UsageError,
)
from switchml.switch_emulator import Emulator
from switchml.worker import Rounding, Work, Worker
from switchml.worker import worker as worker_module
from tests.worker.conftest import World, at_once

F32 = np.float32
PAYLOAD = 256
LARGE = 60_001  # elements: far more than a switch gets at least


@pytest.fixture(scope="module")
def switches() -> Iterator[list[Emulator]]:
    with Emulator() as first, Emulator() as second, Emulator() as third:
        yield [first, second, third]


@pytest.fixture
def addresses(switches: list[Emulator]) -> list[str]:
    return [switch.control_address for switch in switches]


def completed(switches: list[Emulator]) -> np.ndarray:
    """Chunks that each switch has summed up."""
    return np.array([switch.target.counters()["chunks_completed"] for switch in switches])


def _floats(rank: int, count: int) -> np.ndarray:
    rng = np.random.default_rng((rank, count))
    return (rng.standard_normal(count) * 10.0 ** rng.integers(-4, 4, count)).astype(F32)


def _special(rank: int) -> np.ndarray:
    values = _floats(rank, LARGE)
    values[::7919] = np.nan if rank else np.inf
    values[5::5_021] = 3e38
    return values


def _whole(rank: int, count: int, dtype: str) -> np.ndarray:
    return np.random.default_rng((rank, count)).integers(0, 1 << 31, count, np.uint32).astype(dtype)


CALLS: dict[str, Callable[[Worker], Work]] = {
    "float32": lambda w: w.allreduce(_floats(w.rank, LARGE)),
    "float32, avg": lambda w: w.allreduce(_floats(w.rank, LARGE), "avg"),
    "float32, small": lambda w: w.allreduce(_floats(w.rank, 5)),
    "float32 with NaN and Inf": lambda w: w.allreduce(_special(w.rank)),
    "float16": lambda w: w.allreduce((_floats(w.rank, 300_000) % 100).astype(np.float16)),
    "bfloat16": lambda w: w.allreduce(_whole(w.rank, LARGE, "uint16") & 0x3FFF, dtype="bfloat16"),
    "int32": lambda w: w.allreduce(_whole(w.rank, LARGE, "int32")),
    "uint8": lambda w: w.allreduce(_whole(w.rank, LARGE, "uint8")),
    "float64": lambda w: w.allreduce(_floats(w.rank, LARGE).astype(np.float64)),
    "int64, max": lambda w: w.allreduce(_whole(w.rank, LARGE, "int64"), "max"),
    "allgather of words": lambda w: w.allgather(_whole(w.rank, LARGE, "uint32")),
    "allgather of bytes": lambda w: w.allgather(_whole(w.rank, LARGE, "uint8")),
    "broadcast of words": lambda w: w.broadcast(_whole(w.rank, LARGE, "uint32"), 1),
    "broadcast of bytes": lambda w: w.broadcast(_whole(w.rank, 300_003, "uint8"), 2),
    "barrier": lambda w: w.barrier(),
    "nothing": lambda w: w.allreduce(np.zeros(0, F32)),
}


def _all_calls(worker: Worker) -> list[tuple[bytes, float]]:
    """All at once, large and small ones in turn."""
    works = [call(worker) for call in CALLS.values()]
    return [(np.ascontiguousarray(work.wait()).tobytes(), work.error_bound()) for work in works]


@pytest.mark.parametrize("transport", ["shm", "udp"])
def test_bits_and_bounds_are_those_of_one_switch(worlds: Any, addresses: list[str], transport: str) -> None:
    found = {}
    for names in (addresses[0], ",".join(addresses[:2]), f"{addresses[0]}*3,{addresses[1]},{addresses[2]}*2"):
        world: World = worlds(3, switch=names, transport=transport, payload=PAYLOAD)
        results = world.run(_all_calls)
        for name, *each in zip(CALLS, *results, strict=True):
            assert len(set(each)) == 1, f"the ranks differ in {name}"
        found[names] = results[0]
    one, two, three = found.values()
    for name, a, b, c in zip(CALLS, one, two, three, strict=True):
        assert a == b == c, name


@pytest.mark.parametrize("transport", ["shm", "udp"])
def test_parts_are_those_of_the_whole(worlds: Any, addresses: list[str], transport: str) -> None:
    world = worlds(
        3, switch=f"{addresses[0]}*3,{addresses[1]},{addresses[2]}", transport=transport, payload=PAYLOAD
    )
    for dtype in (F32, np.int32, np.float64, np.float16):
        given = [(_whole(rank, 3 * LARGE, "uint32") % 1000).astype(dtype).reshape(3, -1) for rank in range(3)]
        whole = world.run(lambda w, g=given: w.allreduce(g[w.rank].copy()).wait())[0]
        parts = world.run(lambda w, g=given: w.reduce_scatter(g[w.rank]).wait())
        assert [part.tobytes() for part in parts] == [row.tobytes() for row in whole]
        at_root = world.run(lambda w, g=given: w.reduce(g[w.rank].copy(), 1).wait())
        assert [one.tobytes() for one in at_root] == [b"", whole.tobytes(), b""]


@pytest.mark.parametrize("wire", ["int16", "int8"])
def test_bits_of_narrow_wires_and_what_they_leave_for_the_next_sum(
    worlds: Any, addresses: list[str], wire: str
) -> None:
    """Blocks are as long as for one switch, and chance falls by an element's place in the whole."""

    def call(worker: Worker) -> tuple[bytes, float, bytes]:
        values, out = _floats(worker.rank, LARGE), np.empty(LARGE, F32)
        work = worker.allreduce(values, out=out, rounding=Rounding(seed=worker.rank, feedback=True))
        half = worker.allreduce(_floats(worker.rank, LARGE).astype(np.float16))
        return work.wait().tobytes() + half.wait().tobytes(), work.error_bound(), values.tobytes()

    found = []
    for names in (addresses[0], f"{addresses[0]}*3,{addresses[1]},{addresses[2]}*2"):
        world = worlds(2, switch=names, payload=PAYLOAD, wire=wire)
        found.append(world.run(call))
    one, three = found
    assert one == three
    assert one[0][:2] == one[1][:2]
    assert any(one[0][2])


def test_large_ones_are_shared_and_small_ones_go_by_turns(
    worlds: Any, switches: list[Emulator], addresses: list[str]
) -> None:
    world = worlds(2, switch=f"{addresses[0]}*1,{addresses[1]}*3", transport="shm", payload=PAYLOAD)
    before = completed(switches)
    world.run(lambda worker: worker.allreduce(_whole(worker.rank, 400_000, "int32")).wait())
    first, second, third = completed(switches) - before
    assert first + second == 400_000 * 4 // PAYLOAD + 2, "each has a descriptor of its own"
    assert third == 0
    assert 2.9 < second / first < 3.1

    before = completed(switches)
    world.run(lambda worker: [worker.barrier().wait() for _ in range(20)])
    assert (completed(switches) - before).tolist() == [5, 15, 0]
    for worker in world.workers:
        assert worker.counters()["chunks_completed"] >= 400_000 * 4 // PAYLOAD


def test_without_shares_all_ranks_find_the_same_ones(
    worlds: Any, switches: list[Emulator], addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[float, ...]] = []

    def shares(seconds: list[float]) -> tuple[int, ...]:
        told.append(tuple(seconds))
        return 1, 3

    monkeypatch.setattr(worker_module, "shares_by_speed", shares)
    world = worlds(2, switch=",".join(addresses[:2]), payload=PAYLOAD)
    assert told[0] == told[1], "the slowest rank's"
    assert len(told[0]) == 2
    assert min(told[0]) > 0
    assert [worker.shares for worker in world.workers] == [(1, 3)] * 2
    before = completed(switches)
    world.run(lambda worker: worker.allreduce(_whole(worker.rank, 400_000, "int32")).wait())
    first, second, _ = completed(switches) - before
    assert 2.9 < second / first < 3.1


def test_many_calls_from_several_threads_of_a_rank(worlds: Any, addresses: list[str]) -> None:
    """Callbacks, waits and submissions cross each other."""
    world = worlds(2, switch=",".join(addresses), payload=PAYLOAD)

    def body(worker: Worker) -> int:
        ended: list[float] = []
        done = threading.Event()

        def note(work: Work) -> None:
            ended.append(float(work.wait()[-1]))
            if len(ended) == 60:
                done.set()

        for number in range(60):
            size = 50_000 if number % 3 else 3
            work = worker.allreduce(np.full(size, float(number), F32), notify=bool(number % 2))
            work.add_done_callback(note)
            if number % 7 == 0:
                work.wait()
        worker.barrier().wait()
        assert done.wait(30)
        assert sorted(ended) == [2.0 * number for number in range(60)]
        return len(ended)

    assert world.run(body) == [60, 60]


def test_ranks_that_differ_in_size_are_told_wherever_they_meet(worlds: Any, addresses: list[str]) -> None:
    for turn in range(3):
        world = worlds(2, switch=",".join(addresses), payload=PAYLOAD)

        def call(worker: Worker, turn: int = turn) -> None:
            for _ in range(turn):
                worker.barrier().wait()
            worker.allreduce(np.ones(LARGE if worker.rank else 3, F32)).wait()

        assert [type(error) for error in world.attempt(call)] == [CollectiveMismatchError] * 2
        with pytest.raises(CollectiveMismatchError):
            world.workers[0].barrier()


def test_a_timeout_names_the_switch_and_ends_every_stream(worlds: Any, addresses: list[str]) -> None:
    world = worlds(2, switch=f"{addresses[0]}*1,{addresses[1]}*1", payload=PAYLOAD)

    def call(worker: Worker) -> Any:
        worker.barrier().wait()  # through the first
        if worker.rank == 1:
            time.sleep(2.5)
            return None
        pending = worker.allreduce(np.ones(3, F32), timeout=1.0)  # through the second
        later = worker.allreduce(np.ones(LARGE, F32), timeout=60.0)
        with pytest.raises(CollectiveTimeoutError) as caught:
            pending.wait()
        with pytest.raises(CollectiveTimeoutError):
            later.wait()
        return str(caught.value)

    told = world.attempt(call)[0]
    assert f"from the switch at {addresses[1]}" in told
    assert "rank 1" in told


def test_a_switch_that_is_killed_is_named_on_all_ranks() -> None:
    with embedded.start() as stays, embedded.start() as goes:
        named = [NamedSwitch(each.address, token=each.token) for each in (stays, goes)]
        killed = threading.Event()
        under_way: list[Work] = []

        def forever(worker: Worker) -> None:
            while True:
                worker.allreduce(np.ones(LARGE, F32)).wait()

        def call(rank: int) -> str:
            with Worker.join(
                named, job="killed", rank=rank, world_size=2, timeout=90.0, transport="shm"
            ) as worker:
                worker.allreduce(np.ones(LARGE, F32)).wait()
                if rank == 0:
                    under_way.append(worker.allreduce(np.ones(LARGE, F32)))
                    os.kill(goes.pid, signal.SIGKILL)
                    killed.set()
                killed.wait(60)
                with pytest.raises(JobAbortedError) as caught:
                    forever(worker)
                return str(caught.value)

        told = at_once([lambda rank=rank: call(rank) for rank in range(2)])
        assert all(goes.address in str(each) for each in told), told
        assert isinstance(under_way[0].exception(), JobAbortedError)


def test_the_last_collective_ends_though_others_have_left(worlds: Any, addresses: list[str]) -> None:
    for _ in range(5):
        world = worlds(3, switch=",".join(addresses), payload=PAYLOAD)

        def body(worker: Worker) -> float:
            works = [worker.allreduce(np.ones(size, F32)) for size in (LARGE, 2, 50_000, 1)]
            total = sum(float(work.wait()[-1]) for work in works)
            worker.leave()
            return total

        assert world.run(body) == [12.0] * 3


def test_a_rank_that_has_left_is_named_once_more_is_asked_of_it(worlds: Any, addresses: list[str]) -> None:
    world = worlds(2, switch=",".join(addresses), payload=PAYLOAD)

    def body(worker: Worker) -> None:
        worker.allreduce(np.ones(LARGE, F32)).wait()
        if worker.rank:
            worker.leave("all done here")
            return
        worker.allreduce(np.ones(LARGE, F32)).wait()

    error = world.attempt(body)[0]
    assert isinstance(error, JobAbortedError)
    assert "rank 1 has left (all done here) after 1 collectives" in str(error)


def _joined(job: str, rank: int, switch: Any, **options: Any) -> str:
    options = {"join_timeout": 30.0, **options}
    with Worker.join(switch, job=job, rank=rank, world_size=2, **options) as worker:
        return worker.transport


@pytest.mark.parametrize("case", ["order", "shares"])
def test_ranks_that_name_them_differently_do_not_join(addresses: list[str], case: str) -> None:
    a, b, _ = addresses
    lists = {"order": (f"{a},{b}", f"{b},{a}"), "shares": (f"{a},{b}", f"{a}*2,{b}")}[case]
    errors = at_once([lambda rank=rank: _joined(f"differ in {case}", rank, lists[rank]) for rank in range(2)])
    assert [type(error) for error in errors] == [JoinError] * 2
    assert all("same order with the same shares" in str(error) for error in errors)


def test_a_rank_that_leaves_a_switch_out_is_missed_there(addresses: list[str]) -> None:
    a, b, _ = addresses

    def call(rank: int) -> None:
        options: Any = {"job": "one of two", "rank": rank, "world_size": 2}
        with Worker.join(
            a if rank else f"{a},{b}", join_timeout=60.0 if rank else 2.0, payload=1024, **options
        ) as worker:
            worker.barrier().wait()

    first, second = at_once([lambda rank=rank: call(rank) for rank in range(2)])
    assert isinstance(first, JoinTimeoutError)
    assert f"at the switch {b}: " in str(first)
    assert "rank 1" in str(first)
    assert isinstance(second, JobAbortedError)
    assert f"rank 0 has left (JoinTimeoutError: at the switch {b}: " in str(second)


def test_a_switch_without_room_is_named_to_every_rank(addresses: list[str]) -> None:
    a, b, _ = addresses
    options: dict[str, Any] = {"payload": PAYLOAD, "transport": "udp"}
    with Worker.join(b, job="takes it all", rank=0, world_size=1, window=8192, **options):
        joins = [
            lambda rank=rank: _joined("no room", rank, f"{a},{b}", window=16384, **options)
            for rank in range(2)
        ]
        errors = at_once(joins)
    assert [type(error) for error in errors] == [PoolExhaustedError] * 2, errors
    assert all(f"at the switch {b}: " in str(error) for error in errors)


def test_packets_of_one_size_have_to_be_asked_for_where_the_switches_differ(addresses: list[str]) -> None:
    with Emulator("0.0.0.0") as wide:
        names = f"{addresses[0]},{wide.control_address}"
        errors = at_once([lambda rank=rank: _joined("sizes", rank, names) for rank in range(2)])
        assert [type(error) for error in errors] == [JoinError] * 2
        assert all(
            re.search(r":\d+ 4096, .*:\d+ 1024 bytes.* SWITCHML_PAYLOAD", str(error)) for error in errors
        )
        assert at_once(
            [lambda rank=rank: _joined("size", rank, names, payload=1024) for rank in range(2)]
        ) == ["memory", "memory"]


def test_a_switch_named_twice_is_refused(addresses: list[str]) -> None:
    with pytest.raises(UsageError, match="named twice"):
        _joined("twice", 0, f"{addresses[0]},{addresses[0]}")


def test_each_switch_has_a_token_of_its_own() -> None:
    with Emulator(token="one") as first, Emulator(token="two") as second:
        named = [
            NamedSwitch(first.control_address, token="one"),
            NamedSwitch(second.control_address, token="two"),
        ]
        assert at_once([lambda rank=rank: _joined("tokens", rank, named) for rank in range(2)]) == [
            "memory",
            "memory",
        ]
        with pytest.raises(InvalidTokenError):
            _joined("tokens", 0, ",".join(each.address for each in named), token="one")
