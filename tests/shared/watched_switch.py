"""A switch to look at that is none, and readers of what is published."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from switchml.control.control_messages import EndedJob, JobStatus, MemberStatus, SwitchStatus
from switchml.control.target import RANGES, SlotMap, TargetDescription
from switchml.protocol.counters import SWITCH_COUNTERS
from switchml.telemetry.subscription import Subscription

NAME = "digits-0-0123456789ab"


def counters(**given: int) -> dict[str, int]:
    """All counters of a switch, those given at a value, the others at 0."""
    assert given.keys() <= {counter.name for counter in SWITCH_COUNTERS}
    return {counter.name: given.get(counter.name, 0) for counter in SWITCH_COUNTERS}


def member(rank: int, **given: Any) -> MemberStatus:
    """A rank that is ready."""
    values = {"transport": "udp", "address": f"10.0.0.{rank + 1}", "port": 4711, "state": "ready"}
    values |= {"heartbeat": 0.5, "packet": 0.1, "round_trip": 0.0015, "in_flight": 40} | given
    return MemberStatus(rank, **values)


def job(**given: Any) -> JobStatus:
    """A running job of two ranks."""
    values: dict[str, Any] = {
        "name": NAME, "job_number": 3, "world_size": 2, "state": "running", "pool_base": 512, "window": 256,
        "payload": 1024, "paper": False, "multicast_group": "", "multicast_port": 0, "multicast": False,
        "members": (member(0), member(1)), "counters": counters(elements_added=2000), "age": 12.0,
    } | given  # fmt: skip
    return JobStatus(**values)


def status(*jobs: JobStatus, ended: tuple[EndedJob, ...] = (), **counted: int) -> SwitchStatus:
    """A switch with these jobs."""
    target = TargetDescription("127.0.0.1", 48864, "socket", 16384, 16384, 256)
    return SwitchStatus(target, jobs, ended, counters(**counted), 16128, 30.0, 99.0)


def slots(**given: Any) -> SlotMap:
    """Of a job of two ranks and four slots, one of which waits for rank 1."""
    values = {"missing": (0, 1, 0, 0), "first": (-1, 1, -1, -1), "late": (0, 1)}
    values |= {"resent": (2, *[0] * (RANGES - 1)), "dropped": (0,) * RANGES} | given
    return SlotMap(**values)


class Watched:
    """What a publisher looks at; counts the looks."""

    telemetry = ""

    def __init__(self, now: SwitchStatus, maps: Mapping[int, SlotMap] | None = None) -> None:
        self.now, self.maps, self.looks = now, maps or {}, 0
        self.looked = threading.Event()

    def observe(self, *, slots: bool) -> tuple[SwitchStatus, Mapping[int, SlotMap]]:
        self.looks += 1
        self.looked.set()
        return self.now, self.maps if slots else {}


def receive_until(
    subscription: Subscription, done: Callable[[list[dict[str, Any]]], bool], seconds: float = 60.0
) -> list[dict[str, Any]]:
    """All messages until what came is enough."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    while not done(found):
        assert time.monotonic() < deadline, f"only {[each['kind'] for each in found]} came"
        found += subscription.receive(0.2)
    return found
