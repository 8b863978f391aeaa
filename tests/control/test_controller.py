"""The controller with a switch in memory and a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from switchml.control.control_messages import JoinOffer
from switchml.control.controller import Controller
from switchml.control.guard import peer_host
from switchml.control.jobs import Answer, Joined, Refused, Started
from switchml.control.target import SlotReading
from switchml.errors import (
    InvalidTokenError,
    JobAbortedError,
    JoinError,
    PoolExhaustedError,
    SwitchMLError,
    UsageError,
    WorkerClosedError,
)


class Bench:
    """A controller, its switch, and the answers that came."""

    def __init__(self, target: Any, **options: Any) -> None:
        self.now = 100.0
        self.target = target
        self.controller = Controller(target, lease=8.0, clock=lambda: self.now, multicast_octet=1, **options)
        self.answers: dict[str, Answer] = {}

    def join(self, rank: int, world_size: int = 2, window: int = 0) -> None:
        offer = JoinOffer("job", rank, world_size, address="10.0.0.1", port=1000 + rank, window=window)
        self.controller.join(
            f"s{rank}", offer, 60.0, lambda answer: self.answers.update({f"s{rank}": answer})
        )

    def ready(self, rank: int) -> None:
        self.controller.ready(
            f"s{rank}", True, 60.0, lambda answer: self.answers.update({f"s{rank}": answer})
        )

    def run(self, world_size: int = 2, window: int = 0) -> None:
        for rank in range(world_size):
            self.join(rank, world_size, window)
        for rank in range(world_size):
            self.ready(rank)

    def error(self, rank: int) -> SwitchMLError:
        answer = self.answers[f"s{rank}"]
        assert isinstance(answer, Refused)
        return answer.error


def test_a_job_from_join_to_leave(target: Any) -> None:
    bench = Bench(target)
    bench.join(0)
    assert bench.answers == {}
    bench.join(1)
    assert all(isinstance(bench.answers[session], Joined) for session in ("s0", "s1"))
    assert list(target.jobs) == [1]
    bench.ready(0)
    assert target.multicast == {1: False}
    bench.ready(1)
    assert bench.answers["s0"] == Started("s0", True)
    assert target.multicast == {1: True}
    assert len(bench.controller.status().jobs) == 1
    bench.controller.leave("s0")
    assert bench.controller.heartbeat("s1").keys() == {0}
    bench.controller.leave("s1")
    assert target.jobs == {}
    assert len(bench.controller.status().jobs) == 0


def test_what_the_switch_refuses_reaches_every_rank(target: Any) -> None:
    bench = Bench(target)
    target.add_error = PoolExhaustedError("no memory")
    bench.join(0)
    bench.join(1)
    assert isinstance(bench.error(0), PoolExhaustedError)
    assert isinstance(bench.error(1), PoolExhaustedError)
    assert bench.error(0) is not bench.error(1)
    assert bench.controller.status().free_slots == 2048
    assert len(bench.controller.status().jobs) == 0


def test_a_fault_of_the_switch_ends_the_job(target: Any) -> None:
    bench = Bench(target)
    target.multicast_error = OSError("no route")
    bench.run()
    for rank in range(2):
        assert isinstance(bench.error(rank), JobAbortedError)
        assert "no route" in str(bench.error(rank))
    assert target.jobs == {}
    with pytest.raises(JobAbortedError, match="no route"):
        bench.controller.heartbeat("s0")


def test_time_ends_a_silent_job(target: Any) -> None:
    bench = Bench(target)
    bench.run()
    for _ in range(4):
        due = bench.controller.next_timer()
        assert due is not None
        assert 0 < due <= 2.0
        bench.now += 2.0
        bench.controller.expire()
    assert target.jobs == {}
    with pytest.raises(JobAbortedError, match=r"ranks 0-1 have not been heard for 8.0 s"):
        bench.controller.heartbeat("s0")


def test_leaving_ends_a_call_that_waits(target: Any) -> None:
    bench = Bench(target)
    bench.join(0)
    bench.controller.leave("s0")
    assert isinstance(bench.error(0), WorkerClosedError)
    bench.controller.leave("nobody")


def test_a_closed_controller_lets_nobody_in(target: Any) -> None:
    bench = Bench(target)
    bench.join(0)
    bench.controller.close()
    bench.controller.close()
    assert "shutting down" in str(bench.error(0))
    with pytest.raises(JoinError, match="shutting down"):
        bench.join(1)


@pytest.mark.parametrize(
    ("reading", "seen"),
    [
        (SlotReading(0, False, frozenset()), set()),
        (SlotReading(5, True, frozenset({1})), {1}),
        (SlotReading(5 - 8, True, frozenset({0, 1, 2})), set()),
        (SlotReading((5 - 8) & 0xFFFFFFFF, True, frozenset({0, 1, 2})), set()),
        (SlotReading(5 + 8, True, frozenset({2})), {0, 1, 2}),
    ],
)
def test_whose_packets_a_chunk_lacks(target: Any, reading: SlotReading, seen: set[int]) -> None:
    bench = Bench(target)
    bench.run(world_size=3, window=4)
    target.readings[1, 1] = reading
    report = bench.controller.slot("s0", 5)
    assert report.seen == seen
    assert report.missing == tuple(sorted({0, 1, 2} - seen))
    assert report.last_heard == [0.25, None, None]
    assert report.left == frozenset()
    bench.controller.leave("s2")
    assert bench.controller.slot("s0", 5).left == {2}


def test_slots_come_with_the_job(target: Any) -> None:
    bench = Bench(target)
    bench.join(0)
    with pytest.raises(JobAbortedError, match="not all of its ranks have joined"):
        bench.controller.slot("s0", 0)


def test_status_tells_all(make_target: Callable[..., Any]) -> None:
    bench = Bench(make_target(pool_slots=1000))
    bench.run()
    offer = JoinOffer("other", 1, 3, transport="shm", ticket="t", payload=256)
    bench.controller.join("o1", offer, 60.0, lambda _: None)
    bench.controller.leave("s1")
    bench.now += 1.5
    status = bench.controller.status()
    running, joining = status.jobs
    assert (running.name, running.job_number, running.state, running.window) == ("job", 1, "running", 512)
    assert (running.multicast, running.multicast_group, running.multicast_port) == (True, "239.83.1.1", 48864)
    assert running.counters == {"packets_received": 2}
    assert [(member.rank, member.state, member.heartbeat, member.packet) for member in running.members] == [
        (0, "ready", 1.5, 0.25),
        (1, "left", None, None),
    ]
    assert (joining.name, joining.job_number, joining.state, joining.world_size) == ("other", 0, "joining", 3)
    assert [(member.rank, member.transport) for member in joining.members] == [(1, "shm")]
    assert status.counters == {"packets_received": 7}
    assert status.free_slots == 488
    assert (status.lease, status.uptime, status.ended) == (8.0, 1.5, ())
    bench.controller.leave("s0")
    assert [(job.name, job.reason) for job in bench.controller.status().ended] == [
        ("job", "all ranks have left")
    ]


def test_tokens(target: Any) -> None:
    Controller(target).authorize("anything")
    guarded = Controller(target, token="secret")
    guarded.authorize("secret")
    for token in ("", "Secret", "sécret"):
        with pytest.raises(InvalidTokenError, match="SWITCHML_TOKEN"):
            guarded.authorize(token)


@pytest.mark.parametrize(
    ("peer", "address", "token", "allowed"),
    [
        ("10.0.0.2", "10.0.0.2", "", True),
        ("10.0.0.2", "10.0.0.3", "", False),
        ("10.0.0.2", "127.0.0.1", "", False),
        ("10.0.0.2", "10.0.0.3", "secret", True),
        ("127.0.0.1", "10.0.0.3", "", True),
        ("::1", "10.0.0.3", "", True),
        ("fe80::1", "10.0.0.3", "", False),
        ("", "10.0.0.3", "", True),
    ],
)
def test_results_go_only_to_where_the_join_comes_from(
    target: Any, peer: str, address: str, token: str, allowed: bool
) -> None:
    controller = Controller(target, token=token)
    controller.check_address("shm", "", peer)
    if allowed:
        controller.check_address("udp", address, peer)
        return
    with pytest.raises(UsageError, match=f"only to where the join comes from, {peer}"):
        controller.check_address("udp", address, peer)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("ipv4:10.0.0.2:40112", "10.0.0.2"),
        ("ipv6:[::1]:40112", "::1"),
        ("ipv6:%5B::ffff:10.0.0.2%5D:40112", "10.0.0.2"),
        ("ipv6:[fe80::1%25eth0]:40112", "fe80::1"),
        ("unix:", ""),
    ],
)
def test_the_host_of_a_peer(name: str, host: str) -> None:
    assert peer_host(name) == host


def test_a_switch_in_other_hands_says_so_until_it_is_back(target: Any) -> None:
    bench = Bench(target)
    bench.run()
    bench.controller.suspend("another controller has it")
    assert target.jobs == {}
    for ask in (bench.controller.status, lambda: bench.join(0, 1)):
        with pytest.raises(JoinError, match="nobody can join this switch now: another controller has it"):
            ask()
    with pytest.raises(JobAbortedError, match="another controller has it"):
        bench.controller.heartbeat("s0")
    bench.controller.resume()
    bench.now += 1.0
    assert not bench.controller.status().jobs
    bench.controller.leave("s0")
    bench.join(0, 1)
    assert isinstance(bench.answers["s0"], Joined)
