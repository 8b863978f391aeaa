"""Random traces: jobs, and packets to them that are as they should be, repeated, late, early, wrong, cut off or foreign."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from conformance_frames import (
    SWITCH_MAC,
    Station,
    ethernet,
    switchml,
    to_switch,
    worker,
)
from conformance_scripts import SIZE_CODES, Script
from hypothesis import strategies as st

from switchml.protocol.header import MAX_WINDOW
from switchml.protocol.messages import ABSENT, ASK, EXPONENTS, PROBE, SUM, SUM8, SUM16

_SEQUENCE = 1 << 32
_EDGES = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass(frozen=True)
class Job:
    """first_tsi: sequence number of position 0; what is before it counts as complete. first_port: of the switch, for rank 0."""

    number: int
    workers: int
    window: int
    pool_base: int
    paper: bool
    first_tsi: int
    first_port: int

    @property
    def copies(self) -> range:
        """Register cells of the job's slots."""
        return range(2 * self.pool_base, 2 * (self.pool_base + self.window))


@dataclass(frozen=True)
class Event:
    """A packet of worker `rank` of the trace's job `job`, at `position` of its stream; then what is wrong with it.

    seed: of its elements and exponents. cut: bytes of the datagram that are left; more: that follow it. to_one: the rank that
    alone wants the result; but_one: that alone does not. stranger: 0, or how the sender is none the switch
    knows. frame_cut, checksum, addressed: damage to the frame, which only a whole switch sees.
    """

    job: int
    rank: int
    position: int
    seed: int = 0
    kind: int = SUM
    slot: int = 0
    version: int = 0
    size: int = 0
    number: int = 0
    cut: int | None = None
    more: int = 0
    stranger: int = 0
    to_one: int | None = None
    but_one: int | None = None
    frame_cut: int | None = None
    checksum: int = 0
    addressed: int = 0


@dataclass(frozen=True)
class Trace:
    elements: int
    jobs: tuple[Job, ...]
    events: tuple[Event, ...]

    def script(self) -> Script:
        """The statements that set the jobs up."""
        script = Script(self.elements)
        for job in self.jobs:
            script.job(
                job.number,
                job.workers,
                job.window,
                pool_base=job.pool_base,
                paper=job.paper,
                first_port=job.first_port,
            )
            if job.first_tsi and not job.paper:
                script.complete_before(job.number, job.first_tsi)
        return script

    def frames(self) -> list[tuple[int, bytes]]:
        """(port, frame), in order."""
        return [self._frame(event, number) for number, event in enumerate(self.events, 1)]

    def _frame(self, event: Event, identification: int) -> tuple[int, bytes]:
        job = self.jobs[event.job % len(self.jobs)]
        station = worker(job.number, event.rank % job.workers, job.first_port)
        sender = _stranger(station, event.stranger)
        frame = to_switch(sender, _datagram(event, job, self.elements), identification)
        if event.checksum:
            frame = frame[:24] + (int.from_bytes(frame[24:26]) ^ event.checksum).to_bytes(2) + frame[26:]
        if event.addressed == 1:
            frame = bytes.fromhex("020000000077") + frame[6:]  # another MAC: the IP address is still ours
        elif event.addressed == 2:
            frame = ethernet(SWITCH_MAC, sender.mac, 0x88B5, frame[14:])
        elif event.addressed == 3:
            frame = frame[:30] + bytes([10, 0, 0, 253]) + frame[34:]
        return station.port, frame[: event.frame_cut]


def _stranger(station: Station, how: int) -> Station:
    if how == 1:
        return replace(station, udp_port=station.udp_port ^ 0x100)
    if how == 2:
        return replace(station, ip=bytes([10, 9, *station.ip[2:]]))
    return station


def _datagram(event: Event, job: Job, elements: int) -> bytes:
    tsi = (job.first_tsi + event.position) % _SEQUENCE
    chance = random.Random(event.seed)
    values = [
        chance.choice(_EDGES) if chance.random() < 0.2 else chance.getrandbits(32) for _ in range(elements)
    ]
    named = event.but_one if event.to_one is None else event.to_one
    message = switchml(
        event.kind,
        SIZE_CODES[elements] ^ event.size,
        (job.number + event.number) % 256,
        tsi,
        (tsi + event.slot) % job.window if event.slot < job.window else event.slot,
        tsi // job.window % 2 ^ event.version,
        chance.randint(-128, 127),
        chance.randint(-128, 127) if named is None else named,
        values if event.kind not in (EXPONENTS, PROBE, ABSENT, ASK) else (),
        to_one=int(event.to_one is not None),
        but_one=int(event.but_one is not None),
    )
    message += bytes(event.more)
    return message[: event.cut]


@st.composite
def jobs(draw: st.DrawFn) -> tuple[Job, ...]:
    numbers = draw(st.lists(st.integers(0, 255), min_size=1, max_size=2, unique=True))
    found: list[Job] = []
    base, port = draw(st.integers(0, 3)), 1
    for number in numbers:
        workers, window = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 4]))
        first_tsi = draw(st.sampled_from([0, 0x7FFFFFFC, 0xFFFFFFFA, 0x12345678]))
        found.append(
            Job(number, workers, window, base, draw(st.sampled_from([False, False, True])), first_tsi, port)
        )
        base, port = base + window + draw(st.integers(0, 2)), port + workers
    return tuple(found)


_KINDS = st.sampled_from([SUM, SUM, SUM, ABSENT, EXPONENTS])
_WITH_ABSENT = st.lists(st.sampled_from([SUM, ABSENT]), min_size=4, max_size=4)
_WAYS = st.sampled_from(["", "to_one", "but_one"])
_NAMED = st.sampled_from([0, 1, 2, 4])
_POSITIONS = st.integers(0, 11)

# A worker's packet that is as it should be; whether it comes in time, again or too late is the trace's affair.
_PACKETS = st.builds(
    Event,
    job=st.integers(0, 1),
    rank=st.integers(0, 3),
    position=_POSITIONS,
    seed=st.integers(0, 7),
    kind=_KINDS,
)

# Its question whether that packet has come.
_ASKS = st.builds(
    lambda job, rank, position, way, named: Event(
        job, rank, position, kind=ASK, **({way: named} if way else {})
    ),
    job=st.integers(0, 1),
    rank=st.integers(0, 3),
    position=_POSITIONS,
    way=_WAYS,
    named=_NAMED,
)

# One packet of every worker, so that chunks complete more often than by chance.
_ROUNDS = st.builds(
    lambda job, position, kinds, way, named, order: [
        Event(job, rank, position, seed=8 * rank + position, kind=kind, **({way: named} if way else {}))
        for rank, kind in zip(order, kinds, strict=True)
    ],
    job=st.integers(0, 1),
    position=_POSITIONS,
    kinds=st.one_of(_KINDS.map(lambda kind: [kind] * 4), _WITH_ABSENT),
    way=_WAYS,
    named=_NAMED,
    order=st.permutations(range(4)),
)


def _spoiled(packet: Event) -> st.SearchStrategy[Event]:
    """The same packet with something that a switch has to refuse, or at least to look at."""
    wrong = st.one_of(
        st.fixed_dictionaries({"kind": st.sampled_from([0, PROBE, ASK, 8, 15])}),
        st.fixed_dictionaries({"to_one": st.sampled_from([0, 1, 127, -1])}),
        st.fixed_dictionaries({"but_one": st.sampled_from([0, 1, 127, -1])}),
        st.just({"to_one": 0, "but_one": 1}),
        st.fixed_dictionaries({"slot": st.sampled_from([1, 2, 3, 4, 8, MAX_WINDOW - 1])}),
        st.fixed_dictionaries({"version": st.just(1)}),
        st.fixed_dictionaries({"size": st.integers(1, 7)}),
        st.fixed_dictionaries({"number": st.integers(1, 255)}),
        st.fixed_dictionaries({"cut": st.sampled_from([0, 1, 9, 10, 11, 14, 100, 265])}),
        st.fixed_dictionaries({"more": st.sampled_from([1, 4, 256])}),
        st.fixed_dictionaries({"stranger": st.integers(1, 2)}),
        st.fixed_dictionaries(
            {"position": st.sampled_from([-(1 << 31), -1, 1 << 30, (1 << 31) - 1, 1 << 31])}
        ),
    )
    return wrong.map(lambda changes: replace(packet, **changes))


def _damaged(packet: Event) -> st.SearchStrategy[Event]:
    """The same packet in a frame that an aggregation pipeline never gets to see."""
    wrong = st.one_of(
        st.fixed_dictionaries({"frame_cut": st.integers(0, 120)}),
        st.fixed_dictionaries({"checksum": st.sampled_from([1, 0x8000, 0xFFFF])}),
        st.fixed_dictionaries({"addressed": st.integers(1, 3)}),
    )
    return wrong.map(lambda changes: replace(packet, **changes))


def traces(elements: int, most: int, *, whole_switch: bool = False) -> st.SearchStrategy[Trace]:
    """Of at most `most` packets and rounds of packets. whole_switch: some in frames that are not for an aggregation pipeline."""
    single: Sequence[st.SearchStrategy[Event]] = [
        _PACKETS,
        _PACKETS,
        _ASKS,
        st.one_of(_PACKETS, _ASKS).flatmap(_spoiled),
    ]
    if whole_switch:
        single = [*single, _PACKETS.flatmap(_damaged)]
    parts = st.one_of(_ROUNDS, *(packet.map(lambda event: [event]) for packet in single))
    return st.builds(
        Trace,
        elements=st.just(elements),
        jobs=jobs(),
        # Lists of a drawn length, because lists with a range of lengths are mostly short.
        events=st.integers(1, most)
        .flatmap(lambda length: st.lists(parts, min_size=length, max_size=length))
        .map(lambda found: tuple(chain(*found))),
    )


def narrow_traces(most: int) -> st.SearchStrategy[Trace]:
    """As `traces` of the small program, with narrow lanes: a chunk's sequence number tells the kind of all its packets, and no
    job is of the published machine. (A packet of one kind may ask for a result of another; what it gets is not defined.)
    """
    kinds = (SUM8, SUM16, SUM, EXPONENTS)

    def narrowed(trace: Trace) -> Trace:
        events = (
            replace(event, kind=kinds[event.position % 4]) if event.kind in kinds else event
            for event in trace.events
        )
        return replace(
            trace, jobs=tuple(replace(job, paper=False) for job in trace.jobs), events=tuple(events)
        )

    return traces(64, most).map(narrowed)
