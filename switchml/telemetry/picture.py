"""What the messages of switches add up to: who is there, how fast it goes, how it went lately. No I/O, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from switchml.telemetry import event_table
from switchml.telemetry.events import Message

POINTS = 60
"""Of a history; one a second."""

_STEP = 1.0
_CHANGES_KEPT = 20


class History:
    """A quantity of late, a point a second: the last that was noted in it."""

    def __init__(self) -> None:
        self.points: deque[float] = deque(maxlen=POINTS)
        self._until = float("-inf")

    def note(self, value: float, time: float) -> None:
        """The quantity at a time in seconds."""
        if time >= self._until or not self.points:
            self.points.append(value)
            self._until = time + _STEP
        else:
            self.points[-1] = value


class Meter:
    """Rates of counters, over the last second and what a message a tenth of one adds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Mapping[str, int]]] = deque()
        self.histories: dict[str, History] = {}

    @property
    def counters(self) -> Mapping[str, int]:
        """As they came last."""
        return self._seen[-1][1] if self._seen else {}

    def take(self, counters: Mapping[str, int], time: float) -> None:
        """Counters at a time in seconds."""
        if self._seen and (time <= self._seen[-1][0] or _shrunk(self._seen[-1][1], counters)):
            self._seen.clear()  # the switch is another, or its clock was set
        self._seen.append((time, counters))
        while len(self._seen) > 2 and self._seen[1][0] <= time - _STEP:
            self._seen.popleft()
        if len(self._seen) > 1:
            for name in counters:
                if name in self.histories or counters[name]:
                    self.histories.setdefault(name, History()).note(self.rate(name), time)

    def rate(self, name: str) -> float:
        """A counter's growth a second; 0 while that is not known."""
        if len(self._seen) < 2:
            return 0.0
        (begin, before), (end, after) = self._seen[0], self._seen[-1]
        return (after.get(name, 0) - before.get(name, 0)) / (end - begin)

    def lately(self, name: str) -> list[float]:
        """The rates of the last minute, oldest first."""
        return list(self.histories[name].points) if name in self.histories else []


def _shrunk(before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    return any(after.get(name, 0) < value for name, value in before.items())


@dataclass
class WorkerPicture:
    """One rank of a job.

    Attributes:
        status: as in a `jobs` message.
        round_trip: lately, in seconds.
        in_flight: lately, in packets.
        late: of the job's slots that wait for somebody, the share that waits for this rank, smoothed; 0 while none waits.
    """

    status: Mapping[str, Any] = field(default_factory=dict)
    round_trip: History = field(default_factory=History)
    in_flight: History = field(default_factory=History)
    late: float = 0.0


@dataclass
class JobPicture:
    """One job.

    Attributes:
        status: as in a `jobs` message.
        slots: as in a `slots` message; {} where the switch says nothing of them.
    """

    status: Mapping[str, Any]
    meter: Meter = field(default_factory=Meter)
    workers: dict[int, WorkerPicture] = field(default_factory=dict)
    slots: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sums(self) -> float:
        """Tensor elements aggregated a second, each counted once (ATE/s)."""
        return self.meter.rate("elements_added") / max(1, int(self.status["world_size"]))


@dataclass
class SwitchPicture:
    """One switch.

    Attributes:
        address: control address.
        about: as in a `switch` message.
        jobs: those that there are, by name and number.
        ended: as in a `jobs` message.
        changes: the last `change` messages, newest first.
        time: of the last message, by the switch's clock.
        heard: when it came, by the reader's.
        missed: messages that did not reach us.
    """

    address: str
    about: Mapping[str, Any] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)
    jobs: dict[tuple[str, int], JobPicture] = field(default_factory=dict)
    ended: list[Mapping[str, Any]] = field(default_factory=list)
    changes: deque[Message] = field(default_factory=lambda: deque(maxlen=_CHANGES_KEPT))
    time: float = 0.0
    heard: float = 0.0
    missed: int = 0
    _expected: dict[str, int] = field(default_factory=dict)

    def take(self, message: Message) -> None:
        """One message of this switch."""
        kind, number = message["kind"], message["number"]
        self.missed += max(0, number - self._expected.get(kind, number))
        self._expected[kind] = number + 1
        self.time = message["time"]
        match kind:
            case event_table.SWITCH:
                self.about = message
            case event_table.COUNTERS:
                self.meter.take(message["counters"], self.time)
                for job in self.jobs.values():
                    counted = message["jobs"].get(str(job.status["job_number"]))
                    if counted is not None:
                        job.meter.take(counted, self.time)
            case event_table.JOBS:
                self._take_jobs(message["jobs"])
                self.ended = message["ended"]
            case event_table.CHANGE:
                self.changes.appendleft(message)
            case event_table.SLOTS:
                for job in self.jobs.values():
                    self._take_slots(job, message["jobs"].get(str(job.status["job_number"]), {}))

    def _take_jobs(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        before, self.jobs = self.jobs, {}
        for status in jobs:
            key = status["name"], status["job_number"]
            picture = before.get(key) or JobPicture(status)
            picture.status = status
            self.jobs[key] = picture
            for member in status["members"]:
                worker = picture.workers.setdefault(member["rank"], WorkerPicture())
                worker.status = member
                if member["round_trip"]:
                    worker.round_trip.note(member["round_trip"], self.time)
                if member["in_flight"]:
                    worker.in_flight.note(member["in_flight"], self.time)

    def _take_slots(self, job: JobPicture, slots: Mapping[str, Any]) -> None:
        job.slots = slots
        waiting = sum(1 for count in slots.get("missing", ()) if count)
        late = dict(enumerate(slots.get("late", ())))
        for rank, worker in job.workers.items():
            # Over a second or so: a look shows a moment.
            worker.late += (late.get(rank, 0) / max(1, waiting) - worker.late) / 10


class Picture:
    """All switches that messages came of, by control address."""

    def __init__(self) -> None:
        self.switches: dict[str, SwitchPicture] = {}

    def take(self, message: Message, now: float = 0.0) -> None:
        """One message, at a time of the reader's own in seconds."""
        switch = self.switches.setdefault(message["switch"], SwitchPicture(message["switch"]))
        switch.take(message)
        switch.heard = now

    def forget(self, since: float) -> None:
        """Drop the switches that were not heard since then, if there are others."""
        live = {address: switch for address, switch in self.switches.items() if switch.heard >= since}
        self.switches = live or self.switches


def readable_name(name: str) -> str:
    """A job's name without the random digits by which the backend tells two of its jobs apart."""
    head, separator, tail = name.rpartition("-")
    return (
        head if separator and len(tail) == 12 and all(each in "0123456789abcdef" for each in tail) else name
    )


def as_json(picture: Picture) -> list[dict[str, Any]]:
    """Plain values, a switch each: what it is, its jobs with their rates, what it has counted."""
    return [
        {
            "switch": switch.address,
            "about": switch.about,
            "counters": dict(switch.meter.counters),
            "rates": {name: switch.meter.rate(name) for name in switch.meter.histories},
            "jobs": [
                {
                    **job.status,
                    "counters": dict(job.meter.counters),
                    "rates": {name: job.meter.rate(name) for name in job.meter.histories},
                    "elements_per_second": job.sums,
                    "late": [worker.late for _, worker in sorted(job.workers.items())],
                    "resent_by_range": job.slots.get("resent", []),
                    "dropped_by_range": job.slots.get("dropped", []),
                }
                for job in switch.jobs.values()
            ],
            "ended": switch.ended,
            "missed": switch.missed,
        }
        for switch in picture.switches.values()
    ]
