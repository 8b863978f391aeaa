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
from switchml.switch_emulator.flood_guard import FloodGuard, accuse, filter_code, new_flood
from switchml.worker import Worker

SECOND = 1_000_000_000


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(1, 64)), max_size=400),
    st.integers(100, 2000),
)
def test_who_is_caught_sent_as_many_and_who_sends_many_is_caught(
    messages: list[tuple[int, int]], most: int
) -> None:
    flood = new_flood()
    flood.state[0]["most"] = most
    sent = dict.fromkeys(range(100), 0)
    caught = -1
    for sender, packets in messages:
        sent[sender] += packets
        if accuse(flood, 100 + sender, sender, packets, 5):
            caught = sender
            found = flood.accused[int(flood.state[0]["caught"]) - 1]
            assert (found["address"], found["port"]) == (100 + sender, sender)
            break
    if caught >= 0:
        assert sent[caught] >= most
    else:
        assert all(count < most + sum(sent.values()) / 65 for count in sent.values())


def test_floods_by_turns_do_not_hide_each_other() -> None:
    flood = new_flood()
    flood.state[0]["most"] = 100
    caught = {sender for _ in range(100) for sender in range(8) if accuse(flood, sender + 1, 1, 1, 5)}
    assert caught == set(range(8))


def test_each_tenth_of_a_second_is_judged_by_itself() -> None:
    flood = new_flood()
    flood.state[0]["most"] = 100
    assert not accuse(flood, 1, 1, 99, SECOND)
    assert not accuse(flood, 1, 1, 99, 2 * SECOND)
    assert accuse(flood, 1, 1, 1, 2 * SECOND + 1)


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
        guard.flood.accused[3]["address"] = socket.htonl(int.from_bytes(socket.inet_aton(address), "big"))
        guard.flood.accused[3]["port"] = socket.htons(number)
        guard.flood.state[0]["caught"] = 4
        guard.tend()
        assert guard.flood.state[0]["until"] > time.monotonic_ns()
        flooder.sendto(b"flood", port.getsockname())
        other.sendto(b"work", port.getsockname())
        assert port.recvfrom(100) == (b"work", other.getsockname())
        assert (guard.cuts, guard.dropped()) == (1, 1)
        later = time.monotonic_ns() + int(guards.CUT_SECONDS * SECOND)
        monkeypatch.setattr(guards.time, "monotonic_ns", lambda: later)
        guard.tend()
        assert guard.flood.state[0]["until"] == 0
        flooder.sendto(b"better", port.getsockname())
        assert port.recv(100) == b"better"


def test_the_program_has_five_steps_a_sender_and_one() -> None:
    assert len(filter_code({(1, 2): 0, (3, 4): 0})) == 8 * (2 * 5 + 1)


def test_a_flood_is_cut_and_jobs_go_on() -> None:
    with Emulator() as switch:
        # A machine that is busy floods slowly.
        switch.target.switch.flood.state[0]["most"] = 200
        port = switch.control_address.partition(":")[0], switch.target.describe().udp_port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooder:
            deadline = time.monotonic() + 60
            while switch.target.counters()["floods_cut"] == 0:
                assert time.monotonic() < deadline
                for _ in range(400):
                    flooder.sendto(bytes(1034), port)
            assert switch.target.counters()["dropped_unknown_sender"] >= 200
            switch.target.switch.flood.state[0]["most"] = guards.MOST_USELESS
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
