"""Workers and a switch on a virtual clock, joined by a seeded network that loses, doubles, delays and reorders.

No sockets, no threads, no real time: only the two state machines and their packets, so a seed replays a run exactly.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from virtual_rank import (
    EXPIRED,
    EXPIRY,
    FINISHED,
    PACE,
    QUESTIONS,
    RETRANSMISSIONS,
    WOKEN,
    WRONG,
    Rank,
    happens,
)

from switchml.check.machines import SwitchMachine
from switchml.link.records import table_of
from switchml.protocol.header import HEADER_BYTES
from switchml.protocol.messages import FLOAT32, WIRES, size_code
from switchml.worker.congestion import new_congestion
from switchml.worker.kernels import NEAREST
from switchml.worker.recovery import new_recovery
from switchml.worker.transfer import Share
from switchml.worker.window import FRAMING, RING, chunk_elements, new_window

Array = npt.NDArray[Any]

_MICROSECOND = 1_000
_LIMIT = 600_000_000_000


@dataclass(frozen=True)
class NetworkConditions:
    """What the network does to each packet: probabilities, times in nanoseconds, and each worker's link in both directions.

    Attributes:
        rate: bytes a second of a link; 0 = no limit.
        queue: bytes that may wait for it; more are dropped.
        naps: mean ns for which a worker or the switch is awake between naps; 0: always.
        nap: mean ns of a nap, in which whatever comes waits, as where processes share cores.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: int = 20 * _MICROSECOND
    jitter: int = 5 * _MICROSECOND
    reorder_delay: int = 2_000 * _MICROSECOND
    rate: int = 0
    queue: int = 0
    naps: int = 0
    nap: int = 0


@dataclass(frozen=True)
class Task:
    """One transfer of every rank. kind: worker.window.BLOCKS (float32) or WORDS (uint32). sources: by rank.
    firsts: WORDS, where each rank's words begin. count: elements in all. part: of a rank's share of the sums; 0: all. others: as
    in Share.
    seeds: BLOCKS, of each rank's stochastic rounding. feedback: BLOCKS, `sources` are left with what was rounded off them.
    """

    kind: int
    count: int
    sources: tuple[Array, ...]
    firsts: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    feedback: bool = False
    part: int = 0
    others: bool = False

    def wanted(self, rank: int) -> slice:
        return Share(rank, self.part, others=self.others).of(slice(0, self.count))


class _RankState:
    """A rank with its memory.

    Attributes:
        results: destinations of the transfers.
        flags: of each transfer, which of its blocks are to be exchanged exactly.
        told: the loop's, as of the last event.
    """

    def __init__(self, loop: Rank, results: list[Array], flags: list[Array]) -> None:
        self.loop, self.results, self.flags = loop, results, flags
        self.window, self.congestion, self.descriptor = loop.window, loop.congestion, loop.descriptor
        self.inbox, self.outbox = loop.inbox.data, loop.outbox.data
        self.told: list[int] = loop.told.tolist()
        self._table = table_of(loop)
        self.handle = self._table.ctypes.data


@dataclass(eq=False)
class VirtualNetwork:
    """One run, of at most `limit` ns of virtual time.

    Attributes:
        wire: what float32 blocks travel as.
        patient: with the timers that a real worker has; otherwise with short ones.
        late: ns by which the last rank begins after the others.
        now: ns, as it stands.
        lost: packets lost by chance.
        dropped: packets that found a full queue.
        ended: when each transfer was done at every rank, and what had been sent again till then.
        verdicts: how often the switch gave each.
    """

    workers: int
    window: int
    payload: int
    tasks: tuple[Task, ...]
    conditions: NetworkConditions
    seed: int
    paper: bool = False
    limit: int = _LIMIT
    patient: bool = False
    late: int = 0
    wire: str = FLOAT32
    now: int = 0
    lost: int = 0
    dropped: int = 0
    ended: list[tuple[int, int]] = field(default_factory=list)
    verdicts: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._elements = self.payload // 4
        self._events: list[tuple[int, int, int, bytes]] = []
        self._sequence = 0
        self._switch = SwitchMachine(
            self.workers, self.window, self._elements, paper=self.paper, wire=self.wire
        )
        self._ranks = [self._new_rank(rank) for rank in range(self.workers)]
        self._busy_until = [0] * (2 * self.workers)
        self._naps = [(0, 0)] * (self.workers + 1)

    def _new_rank(self, rank: int) -> _RankState:
        window = new_window(
            rank=rank, workers=self.workers, window=self.window,
            elements=self._elements, size=size_code(self.payload), block_kind=WIRES[self.wire].code,
        )  # fmt: skip
        recovery = new_recovery() if self.patient else new_recovery(
            first=1_000 * _MICROSECOND, quiet=100 * _MICROSECOND, ceiling=50_000 * _MICROSECOND,
        )  # fmt: skip
        congestion = new_congestion(packet=HEADER_BYTES + self.payload, slots=self.window)
        results = [np.zeros_like(task.sources[rank], shape=task.count) for task in self.tasks]
        chunks = [-(-task.count // chunk_elements(window, task.kind)) for task in self.tasks]
        flags = [np.zeros(max(1, count), np.uint8) for count in chunks]
        packet = HEADER_BYTES + self.payload
        loop = Rank(
            window=window,
            recovery=recovery,
            congestion=congestion,
            descriptor=np.zeros(self._elements, np.uint32),
            inbox=np.zeros(packet, np.uint8),
            outbox=np.zeros(self.window * packet, np.uint8),
            lengths=np.zeros(self.window, np.int64),
            told=np.array([0, 0, 0, recovery[0]["next_expiry"], 0]),
        )
        state = _RankState(loop, results, flags)
        for index, task in enumerate(self.tasks):
            source = task.sources[rank]
            first = task.firsts[rank] if task.firsts else 0
            entry = window.transfers[index % RING]
            entry["kind"], entry["count"], entry["chunks"] = (
                task.kind,
                task.count,
                chunks[index],
            )
            mine = results[index][task.wanted(rank).start :]
            entry["source"], entry["destination"] = source.ctypes.data, mine.ctypes.data
            entry["flags"], entry["first"], entry["last"] = (
                flags[index].ctypes.data,
                first,
                first + source.size,
            )
            entry["part"], entry["others"] = task.part, task.others
            seed, entry["feedback"] = task.seeds[rank] if task.seeds else NEAREST, task.feedback
            entry["seed"], entry["deadline"], entry["signature"] = (
                seed,
                _LIMIT,
                np.full(4, 7 + index, np.uint32),
            )
        window.stream[0]["queued"] = len(self.tasks)
        return state

    def results(self, rank: int) -> list[Array]:
        """The transfers' destinations at a rank."""
        return self._ranks[rank].results

    def flags(self, rank: int) -> list[Array]:
        """For each transfer, which of its blocks are to be exchanged exactly."""
        return self._ranks[rank].flags

    def run(self) -> None:
        """Until every rank has everything.

        Raises:
            AssertionError: a transfer failed, or virtual time ran out; the message has the seed.
        """
        run_together(self)

    def share_links(self, other: VirtualNetwork) -> None:
        """What waits for the other's links also waits for these."""
        self._busy_until = other._busy_until

    def start(self) -> None:
        """Wake the ranks; the last one may be late."""
        for rank in range(self.workers):
            self._wake(rank, self.late if rank == self.workers - 1 else 0)

    def done(self) -> bool:
        """Whether every rank has everything."""
        return len(self.ended) == len(self.tasks)

    def next_at(self) -> int:
        """When something happens next."""
        soonest = min(self._timer(rank) for rank in range(self.workers))
        return min(self._events[0][0], soonest) if self._events else max(self.now, soonest)

    def step(self) -> None:
        """The next thing happens."""
        timers = [self._timer(rank) for rank in range(self.workers)]
        soonest = min(timers)
        if self._events and self._events[0][0] <= soonest:
            self.now, _, place, packet = heapq.heappop(self._events)
            awake_at = self._asleep_until(min(place, self.workers))
            if awake_at > self.now:
                self._sequence += 1
                heapq.heappush(self._events, (awake_at, self._sequence, place, packet))
            elif place < self.workers:
                self._at_worker(place, packet)
            else:
                self._at_switch(place - self.workers, packet)
        else:
            self.now = max(self.now, soonest)
            rank = timers.index(soonest)
            self._happens(rank, EXPIRED)
        finished = min(rank.told[FINISHED] for rank in self._ranks)
        while len(self.ended) < finished:
            self.ended.append((self.now, self.retransmissions))
        assert self.now < self.limit, f"seed {self.seed}: no progress"

    @property
    def retransmissions(self) -> int:
        """Packets that were sent again."""
        return sum(rank.told[RETRANSMISSIONS] for rank in self._ranks)

    @property
    def questions(self) -> int:
        """Asked of the switch."""
        return sum(rank.told[QUESTIONS] for rank in self._ranks)

    @property
    def lowest(self) -> int:
        """First position that has not its result everywhere."""
        return min(int(rank.window.stream[0]["lowest"]) for rank in self._ranks)

    def _asleep_until(self, party: int) -> int:
        """When worker `party`, or the switch, that of the last number, is awake: now or later."""
        if self.conditions.naps == 0:
            return self.now
        begin, end = self._naps[party]
        while end <= self.now:
            begin = end + int(self._random.expovariate(1 / self.conditions.naps))
            end = begin + int(self._random.expovariate(1 / self.conditions.nap))
            self._naps[party] = begin, end
        return end if begin <= self.now else self.now

    def _wake(self, rank: int, at: int) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (at, self._sequence, rank, b""))

    def _timer(self, rank: int) -> int:
        told = self._ranks[rank].told
        timer, pace = told[EXPIRY], told[PACE]
        if self.now < pace < timer:
            timer = pace
        return max(timer, self._asleep_until(rank))

    def _send(self, place: int, packet: bytes) -> None:
        """To worker `place`, or from worker `place - workers` to the switch."""
        conditions, draw = self.conditions, self._random.random
        for _ in range(2 if draw() < conditions.duplicate else 1):
            if draw() < conditions.loss:
                self.lost += 1
                continue
            delay = conditions.delay + int(draw() * conditions.jitter)
            if conditions.rate:
                bits = (len(packet) + FRAMING) * 1_000_000_000
                waits = max(0, self._busy_until[place] - self.now)
                if waits * conditions.rate + bits > conditions.queue * 1_000_000_000:
                    self.dropped += 1
                    continue
                self._busy_until[place] = self.now + waits + bits // conditions.rate
                delay += self._busy_until[place] - self.now
            if draw() < conditions.reorder:
                delay += int(draw() * conditions.reorder_delay)
            self._sequence += 1
            heapq.heappush(self._events, (self.now + delay, self._sequence, place, packet))

    def _at_worker(self, rank: int, packet: bytes) -> None:
        """A packet comes; an empty one wakes the rank."""
        state = self._ranks[rank]
        state.inbox[: len(packet)] = packet
        self._happens(rank, len(packet) or WOKEN)

    def _happens(self, rank: int, what: int) -> None:
        state = self._ranks[rank]
        count = happens(state.handle, what, self.now)
        assert count >= 0, f"seed {self.seed}: rank {rank} {WRONG[count]}"
        state.told = state.loop.told.tolist()
        if count:
            begin = 0
            for length in state.loop.lengths[:count].tolist():
                self._send(self.workers + rank, bytes(state.outbox[begin : begin + length]))
                begin += state.loop.inbox.size

    def _at_switch(self, rank: int, packet: bytes) -> None:
        answer = self._switch.take(rank, packet)
        self.verdicts[answer.verdict] = self.verdicts.get(answer.verdict, 0) + 1
        for place, told in answer.deliveries(self.workers):
            self._send(place, told)


def run_together(*networks: VirtualNetwork) -> None:
    """Jobs of as many workers on the same links, until every one is done.

    Raises:
        AssertionError: a transfer failed, or virtual time ran out; the message has the seed.
    """
    for network in networks:
        network.share_links(networks[0])
        network.start()
    left = list(networks)
    while left:
        network = min(left, key=VirtualNetwork.next_at) if len(left) > 1 else left[0]
        network.step()
        if network.done():
            left.remove(network)
