"""Queues at the ports: the state machine on times of the test's choice, and what P4 programs see of it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.errors import UsageError
from switchml.p4runtime.entries import CloneSession, Replica
from switchml.switch_emulator.p4 import P4Switch, QueueLimits
from switchml.switch_emulator.p4.egress_queues import EgressQueues


def drained(queues: EgressQueues[Any]) -> list[tuple[float, int, Any]]:
    """Everything, each at its time: (when, port, packet)."""
    left = []
    while (when := queues.due()) < math.inf:
        packet = queues.take(when)
        assert packet is not None
        left.append((when, packet.port, packet.item))
    return left


def test_a_queue_lets_packets_go_at_its_rate() -> None:
    queues: EgressQueues[str] = EgressQueues(QueueLimits(queue_rate=1000))
    for name in "abcd":
        assert queues.put(1, 0, name, now=10)
    assert queues.take(9) is None
    assert queues.take(10) == (1, 0, "a", 3)
    assert queues.take(1009) is None
    assert drained(queues) == [(1010, 1, "b"), (2010, 1, "c"), (3010, 1, "d")]
    queues.put(1, 0, "e", now=50_000)
    assert drained(queues) == [(50_000, 1, "e")], "who comes after a pause does not wait"


def test_who_comes_late_makes_no_rate_lower() -> None:
    for limits in (QueueLimits(queue_rate=1000), QueueLimits(port_rate=1000)):
        queues: EgressQueues[int] = EgressQueues(limits)
        for number in range(5):
            queues.put(1, 0, number, now=0)
        assert [queues.take(2500) is not None for _ in range(4)] == [True, True, True, False]
        assert queues.due() == 3000


def test_a_full_queue_drops_what_comes_last() -> None:
    queues: EgressQueues[int] = EgressQueues(QueueLimits(queue_rate=1000, depth=3, priorities=2))
    assert [queues.put(1, 0, number, now=0) for number in range(5)] == [True] * 3 + [False] * 2
    assert queues.put(1, 1, 5, now=0), "another queue has room of its own"
    assert queues.put(2, 0, 6, now=0)
    assert (queues.depth(1, 0), queues.depth(1, 1), queues.depth(2, 1)) == (3, 1, 0)
    assert not queues.put(1, 2, 7, now=0)
    assert (queues.dropped_queue_full, queues.dropped_no_queue) == (2, 1)
    assert sorted(item for *_, item in drained(queues)) == [0, 1, 2, 5, 6]


def test_every_queue_has_a_rate_of_its_own_as_in_bmv2() -> None:
    queues: EgressQueues[str] = EgressQueues(QueueLimits(queue_rate=1000, priorities=2))
    for name, priority in ("a", 0), ("b", 0), ("A", 1), ("B", 1):
        queues.put(1, priority, name, now=0)
    assert drained(queues) == [(0, 1, "A"), (0, 1, "a"), (1000, 1, "B"), (1000, 1, "b")]


def test_the_queues_of_a_port_compete_for_its_rate() -> None:
    queues: EgressQueues[str] = EgressQueues(QueueLimits(port_rate=1000, priorities=3))
    for name, priority in ("a", 0), ("b", 0), ("x", 2), ("m", 1):
        queues.put(1, priority, name, now=0)
    queues.put(2, 0, "other port", now=0)
    assert queues.take(0) == (1, 2, "x", 0)
    queues.put(1, 2, "y", now=1500)
    assert [item for *_, item in drained(queues)] == ["other port", "m", "y", "a", "b"]


def test_without_rates_packets_leave_in_the_order_in_which_they_came() -> None:
    queues: EgressQueues[int] = EgressQueues(QueueLimits())
    for number in range(20):
        queues.put(number % 3, 0, number, now=5)
    assert [item for *_, item in drained(queues)] == list(range(20))


class Plain:
    """The same in the plainest way: it looks at everything that waits."""

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self.waiting: list[tuple[float, int, int, int]] = []  # since, number, port, priority
        self.queue_free: dict[tuple[int, int], float] = {}
        self.port_free: dict[int, float] = {}

    def put(self, port: int, priority: int, number: int, now: float) -> bool:
        if sum(w[2:] == (port, priority) for w in self.waiting) >= self.limits.depth:
            return False
        since = max(now, self.queue_free.get((port, priority), 0.0))
        self.waiting.append((since, number, port, priority))
        if self.limits.queue_rate:
            self.queue_free[port, priority] = since + 1e6 / self.limits.queue_rate
        return True

    def take(self, now: float) -> int | None:
        due = [(max(w[0], self.port_free.get(w[2], 0.0)), w[1], w[2]) for w in self.waiting]
        if not due or min(due)[0] > now:
            return None
        when, _, port = min(due)
        _, number, _, _ = leaves = min(
            (w for w in self.waiting if w[2] == port and w[0] <= now), key=lambda w: (-w[3], w[1])
        )
        self.waiting.remove(leaves)
        if self.limits.port_rate:
            self.port_free[port] = when + 1e6 / self.limits.port_rate
        return number


@given(
    st.builds(
        QueueLimits,
        queue_rate=st.sampled_from([0, 250, 1000]),
        port_rate=st.sampled_from([0, 500, 1000]),
        depth=st.integers(1, 4),
        priorities=st.just(3),
    ),
    st.lists(
        st.tuples(
            st.integers(0, 3000), st.one_of(st.none(), st.tuples(st.integers(1, 2), st.integers(0, 2)))
        ),
        max_size=40,
    ),
)
def test_as_the_plainest_queues(limits: QueueLimits, steps: list[tuple[int, tuple[int, int] | None]]) -> None:
    queues: EgressQueues[int] = EgressQueues(limits)
    plain = Plain(limits)
    now = 0
    for number, (later, arrives) in enumerate(steps):
        now += later
        if arrives is not None:
            assert queues.put(*arrives, number, now) == plain.put(*arrives, number, now)
            continue
        taken = queues.take(now)
        assert (None if taken is None else taken.item) == plain.take(now)
    while (when := queues.due()) < math.inf:
        taken = queues.take(when)
        assert taken is not None
        assert taken.item == plain.take(when)
    assert not plain.waiting


@pytest.mark.parametrize(
    "wrong",
    [{"queue_rate": -1}, {"port_rate": math.nan}, {"depth": 0}, {"priorities": 0}, {"priorities": 33}],
)
def test_what_makes_no_queue_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="queue"):
        QueueLimits(**wrong)


# Programs


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def all_that_leaves(switch: P4Switch, clock: Clock) -> list[tuple[int, int, bytes]]:
    """(when, port, frame), on the virtual clock."""
    left = []
    while (wait := switch.until_departure()) < math.inf:
        clock.now += math.ceil(wait * 1e6)
        while (sent := switch.depart()) is not None:
            left += [(clock.now, *frame) for frame in sent]
    return left


def forwarding(builder: Any, *fields: tuple[str, int]) -> Any:
    """A program that sends everything out by port 2."""
    program = builder()
    program.simple(*fields)
    program.run([program.assign("standard_metadata", "egress_spec", program.const(2))])
    return program


def test_a_program_marks_what_found_a_long_queue(builder: Any) -> None:
    """Explicit congestion notification: egress looks at enq_qdepth."""
    program = forwarding(builder, ("ecn", 8))
    program.conditionals["egress"].append(
        {
            "name": "node_1",
            "id": 0,
            "expression": program.op(">=", program.std("enq_qdepth"), program.const(3)),
            "true_next": "tbl_act_1",
            "false_next": None,
        }
    )
    program.first["egress"] = "node_1"
    program.run([program.assign("h", "ecn", program.const(3))], "egress")
    clock = Clock()
    switch: P4Switch = program.switch(clock=clock, queues=QueueLimits(queue_rate=100, depth=6))
    for number in range(8):
        assert switch.process(1, b"\x01" + bytes([number])) == [], "packets leave when their turn comes"
    assert all_that_leaves(switch, clock) == [
        (10_000 * number, 2, bytes([3 if number >= 3 else 1, number])) for number in range(6)
    ]
    assert switch.queue_counters() == {"dropped_queue_full": 2, "dropped_no_queue": 0}
    switch.process(1, b"\x01x")
    assert all_that_leaves(switch, clock)[0][1:] == (2, b"\x01x"), "no longer than the queue is long"


def test_a_program_sees_how_long_a_packet_waited(builder: Any) -> None:
    """In-band telemetry: deq_qdepth and the times."""
    names = ("enq_timestamp", "enq_qdepth", "deq_timedelta", "deq_qdepth", "egress_global_timestamp")
    program = forwarding(builder, *((name, 32) for name in names))
    program.run([program.assign("h", name, program.std(name)) for name in names], "egress")
    clock = Clock()
    switch: P4Switch = program.switch(clock=clock, queues=QueueLimits(queue_rate=1000))
    for now in (5, 205, 305):
        clock.now = now
        switch.process(1, bytes(20))
    seen = [
        tuple(int.from_bytes(frame[at : at + 4], "big") for at in range(0, 20, 4))
        for _, _, frame in all_that_leaves(switch, clock)
    ]
    assert seen == [(5, 0, 300, 2, 305), (205, 1, 800, 1, 1005), (305, 2, 1700, 0, 2005)]


def test_a_higher_priority_overtakes(builder: Any) -> None:
    """Quality of service: ingress gives priorities, by a field of the header."""
    program = builder()
    program.simple(("class", 8))
    program.run(
        [
            program.assign("standard_metadata", "egress_spec", program.const(2)),
            program.assign("standard_metadata", "priority", program.field("h", "class")),
        ]
    )
    clock = Clock()
    switch: P4Switch = program.switch(clock=clock, queues=QueueLimits(port_rate=1000, depth=2, priorities=4))
    for frame in (b"\x00a", b"\x00b", b"\x00c", b"\x03d", b"\x01e", b"\x04f"):
        switch.process(1, frame)
    assert [frame for _, _, frame in all_that_leaves(switch, clock)] == [
        b"\x03d",
        b"\x01e",
        b"\x00a",
        b"\x00b",
    ]
    assert switch.queue_counters() == {"dropped_queue_full": 1, "dropped_no_queue": 1}


def test_without_queues_a_priority_has_no_effect(builder: Any) -> None:
    program = forwarding(builder, ("class", 8))
    program.run([program.assign("standard_metadata", "priority", program.field("h", "class"))])
    switch: P4Switch = program.switch()
    assert switch.process(1, b"\x07") == [(2, b"\x07")]
    assert (switch.depart(), switch.until_departure(), switch.queue_counters()) == (None, math.inf, {})


def test_copies_wait_each_in_the_queue_of_its_port(builder: Any) -> None:
    program = builder()
    program.simple(("a", 8))
    program.run(
        [
            program.assign("standard_metadata", "mcast_grp", program.const(1)),
            program.call("clone_ingress_pkt_to_egress", program.const(5), program.const(0)),
        ]
    )
    clock = Clock()
    switch: P4Switch = program.switch(clock=clock, queues=QueueLimits(queue_rate=1000))
    switch.set_multicast_group(1, [Replica(2, 0), Replica(3, 0), Replica(3, 1)])
    switch.set_clone_session(5, CloneSession((Replica(2, 0),)))
    switch.process(1, b"x")
    left = all_that_leaves(switch, clock)
    assert Counter((when, port) for when, port, _ in left) == {
        (0, 2): 1,
        (0, 3): 1,
        (1000, 2): 1,
        (1000, 3): 1,
    }


def test_recirculation_without_end_ends(builder: Any) -> None:
    program = forwarding(builder, ("a", 8))
    program.field_lists.append({"id": 1, "name": "fl", "elements": []})
    program.run([program.call("recirculate", program.const(1))], "egress")
    clock = Clock()
    switch: P4Switch = program.switch(clock=clock, queues=QueueLimits())
    switch.process(1, b"x")
    assert all_that_leaves(switch, clock) == []
    assert switch.abandoned == 1


def test_a_packet_out_waits_as_others_do_and_says_so(builder: Any) -> None:
    program = forwarding(builder, ("a", 8))
    clock = Clock()
    switch: P4Switch = program.switch(clock=clock, queues=QueueLimits(queue_rate=1000))
    sent: list[object] = []
    switch.on_transmit(sent.append)
    for frame in (b"x", b"y"):
        switch.packet_out(frame, {})
    assert sent == [[], []]
    assert all_that_leaves(switch, clock) == [(0, 2, b"x"), (1000, 2, b"y")]


def test_a_trace_tells_of_queues(builder: Any) -> None:
    lines: list[str] = []
    switch: P4Switch = forwarding(builder, ("a", 8)).switch(
        queues=QueueLimits(queue_rate=1, depth=1), trace=lines.append
    )
    switch.process(1, b"x")
    switch.process(1, b"y")
    said = [line for line in lines if "queue of port" in line]
    assert said == [
        "  queue of port 2, priority 0: 0 before it",
        "  queue of port 2, priority 0: dropped",
    ]
