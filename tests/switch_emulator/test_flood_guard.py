"""Who floods the port is found among others, cut off by the kernel, and let in again; nobody else is."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.switch_emulator import Emulator
from switchml.switch_emulator import flood_guard as guards
from switchml.switch_emulator.flood_guard import FloodGuard, accuse, filter_code, new_flood_record
from switchml.worker import Worker

SECOND = 1_000_000_000


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 64)), max_size=300),
    st.integers(100, 2000),
)
def test_who_is_caught_sent_as_many_and_who_sends_most_is_caught(
    messages: list[tuple[int, int]], most: int
) -> None:
    guard = new_flood_record()
    guard[0]["most"] = most
    sent = dict.fromkeys(range(4), 0)
    caught = -1
    for sender, packets in messages:
        sent[sender] += packets
        if accuse(guard, 100 + sender, sender, packets, 5):
            caught = sender
            assert (guard[0]["address"], guard[0]["port"], guard[0]["caught"]) == (100 + sender, sender, 1)
            break
    if caught >= 0:
        assert sent[caught] >= most
    else:
        # The vote's promise: a majority by `most` cannot hide.
        assert all(2 * count - sum(sent.values()) < most for count in sent.values())


def test_each_tenth_of_a_second_is_judged_by_itself() -> None:
    guard = new_flood_record()
    guard[0]["most"] = 100
    assert not accuse(guard, 1, 1, 99, SECOND)
    assert not accuse(guard, 1, 1, 99, 2 * SECOND)
    assert accuse(guard, 1, 1, 1, 2 * SECOND + 1)


def test_the_kernel_drops_what_comes_from_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooder,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        for one in (port, flooder, other):
            one.bind(("127.0.0.1", 0))
        port.settimeout(10)
        guard = FloodGuard(port)
        address, number = flooder.getsockname()
        guard.record[0]["address"] = socket.htonl(int.from_bytes(socket.inet_aton(address), "big"))
        guard.record[0]["port"] = socket.htons(number)
        guard.record[0]["caught"] = 1
        guard.tend()
        assert guard.record[0]["until"] > time.monotonic_ns()
        flooder.sendto(b"flood", port.getsockname())
        other.sendto(b"work", port.getsockname())
        assert port.recvfrom(100) == (b"work", other.getsockname())
        assert (guard.cuts, guard.dropped()) == (1, 1)
        later = time.monotonic_ns() + int(guards.CUT_SECONDS * SECOND)
        monkeypatch.setattr(guards.time, "monotonic_ns", lambda: later)
        guard.tend()
        assert guard.record[0]["until"] == 0
        flooder.sendto(b"better", port.getsockname())
        assert port.recv(100) == b"better"


def test_the_program_has_five_steps_a_sender_and_one() -> None:
    assert len(filter_code({(1, 2): 0, (3, 4): 0})) == 8 * (2 * 5 + 1)


def test_a_flood_is_cut_and_jobs_go_on() -> None:
    with Emulator() as switch:
        # A machine that is busy floods slowly.
        switch.target.switch.flood[0]["most"] = 200
        port = switch.control_address.partition(":")[0], switch.target.describe().udp_port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooder:
            deadline = time.monotonic() + 60
            while switch.target.counters()["floods_cut"] == 0:
                assert time.monotonic() < deadline
                for _ in range(400):
                    flooder.sendto(bytes(1034), port)
            assert switch.target.counters()["dropped_unknown_sender"] >= 200
            workers: list[Worker] = []

            def join(rank: int) -> None:
                worker = Worker.join(
                    switch.control_address, job="b", rank=rank, world_size=2, transport="udp", timeout=60
                )
                workers.append(worker)

            threads = [threading.Thread(target=join, args=(rank,)) for rank in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            arrays = [np.full(5000, 1 + index, np.float32) for index in range(2)]
            works = [worker.allreduce(array) for worker, array in zip(workers, arrays, strict=True)]
            for work in works:
                work.wait()
            assert all((array == 3).all() for array in arrays)
            for worker in workers:
                worker.leave()
