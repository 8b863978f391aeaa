"""What a capture tells: who sent how much, what was sent again and why, which slots have no result."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from switchml.packets.decoding import End, Packet
from switchml.protocol.messages import ASK, PROBE

_WORKERS = 256
"""Of a job, to whom results for all are put down; a file with more is none of a job's, and would take its square in memory."""


class Worker(NamedTuple):
    """Who stands at the other end from the switch."""

    job: int
    rank: int | None
    end: End

    def __str__(self) -> str:
        return f"{self.end[0]}:{self.end[1]}" if self.rank is None else f"rank {self.rank}"


@dataclass
class WorkerAccount:
    """Numbers of packets of one worker.

    Attributes:
        sent: to the switch, with what was sent again, without questions and probes.
        again: of these, those that had come before.
        asked: questions whether a packet had come.
        missing: answers that it had not: it was lost on the way, or had not been sent yet.
        results: to it, or to all.
        results_again: of these, those that it was sent before.
    """

    sent: int = 0
    again: int = 0
    asked: int = 0
    missing: int = 0
    results: int = 0
    results_again: int = 0


@dataclass
class SlotAccount:
    """Numbers of one slot of a job.

    Attributes:
        chunks: that it has worked on.
        completed: of these, those with a result.
        again: packets of workers that came again.
        asked: questions.
        results_again: results sent again to one worker.
    """

    chunks: int = 0
    completed: int = 0
    again: int = 0
    asked: int = 0
    results_again: int = 0


class Event(NamedTuple):
    """Something that was sent for a second time, or asked for.

    Attributes:
        packet: it.
        what: "packet again", "question", "not come", "result again".
        after: nanoseconds since the first packet of this worker's for the chunk; None = there was none.
        why: in words, as far as the capture tells.
    """

    packet: Packet
    worker: Worker
    what: str
    after: int | None
    why: str


class Unfinished(NamedTuple):
    """A chunk without a result.

    Attributes:
        missing: workers whose packets the capture has for other chunks of the job, but not for this one.
    """

    job: int
    tsi: int
    slot: int
    missing: tuple[Worker, ...]


@dataclass
class _Chunk:
    slot: int
    came: dict[Worker, int] = field(default_factory=dict)  # when it first came
    given: Counter[Worker] = field(default_factory=Counter)  # results to it
    missing: set[Worker] = field(default_factory=set)  # who was told that its packet had not come
    done: bool = False


@dataclass
class Account:
    """All of a capture.

    Attributes:
        slots: by job and slot.
        unfinished: in the order of their beginning.
    """

    workers: dict[Worker, WorkerAccount] = field(default_factory=lambda: defaultdict(WorkerAccount))
    slots: dict[tuple[int, int], SlotAccount] = field(default_factory=lambda: defaultdict(SlotAccount))
    events: list[Event] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)


def worker_of(packet: Packet) -> Worker:
    """A packet's worker."""
    return Worker(packet.header.job_number, packet.rank, packet.worker)


def account_of(packets: Iterable[Packet]) -> Account:
    """Go through the packets of one capture, in order."""
    account = Account()
    chunks: dict[tuple[int, int], _Chunk] = {}
    members: dict[int, set[Worker]] = defaultdict(set)
    for packet in packets:
        header = packet.header
        if header.msg_type == PROBE:
            continue
        worker = worker_of(packet)
        if not packet.everyone and len(members[header.job_number]) < _WORKERS:
            members[header.job_number].add(worker)
        slot = account.slots[header.job_number, header.slot]
        key = header.job_number, header.tsi
        chunk = chunks.get(key)
        if chunk is None:
            chunk = chunks[key] = _Chunk(header.slot)
            slot.chunks += 1
        if packet.to_switch:
            _take_packet(account, slot, chunk, packet, worker)
        else:
            _take_result(account, slot, chunk, packet, worker, members[header.job_number])
    for (job, tsi), chunk in chunks.items():
        if not chunk.done:
            missing = tuple(sorted(members[job] - chunk.came.keys(), key=str))
            account.unfinished.append(Unfinished(job, tsi, chunk.slot, missing))
    return account


def _take_packet(account: Account, slot: SlotAccount, chunk: _Chunk, packet: Packet, worker: Worker) -> None:
    numbers = account.workers[worker]
    first = chunk.came.get(worker)
    after = None if first is None else packet.time - first
    if packet.header.msg_type == ASK:
        numbers.asked += 1
        slot.asked += 1
        return
    numbers.sent += 1
    if first is None:
        chunk.came[worker] = packet.time
        return
    numbers.again += 1
    slot.again += 1
    if chunk.given[worker]:
        why = "its result had left and did not come, or not yet"
    elif worker in chunk.missing:
        why = "it was told that it had not come"
    elif chunk.done:
        why = "the chunk was complete"
    else:
        why = "it had come; the chunk was not complete"
    account.events.append(Event(packet, worker, "packet again", after, why))


def _take_result(
    account: Account, slot: SlotAccount, chunk: _Chunk, packet: Packet, worker: Worker, members: set[Worker]
) -> None:
    first = chunk.came.get(worker)
    after = None if first is None else packet.time - first
    if packet.header.msg_type == ASK:  # a question that comes back: the chunk is not complete
        if packet.header.e0 == 0:
            account.workers[worker].missing += 1
            chunk.missing.add(worker)
            why = (
                "lost on the way to the switch, or dropped by it"
                if first is not None
                else "lost, or not sent yet"
            )
            account.events.append(Event(packet, worker, "not come", after, why))
        return
    if not chunk.done:
        chunk.done = True
        slot.completed += 1
    for each in sorted(members, key=str) if packet.everyone else [worker]:
        numbers = account.workers[each]
        numbers.results += 1
        if chunk.given[each]:
            numbers.results_again += 1
            slot.results_again += 1
            account.events.append(
                Event(packet, each, "result again", after, "the one before was lost, or late")
            )
        chunk.given[each] += 1


class Loss(NamedTuple):
    """What two captures tell apart: how often each has a packet.

    Attributes:
        packet: as the one that has it more often has it.
        more: index of that capture.
        fewer: index of the other.
        times: by how many.
    """

    packet: Packet
    more: int
    fewer: int
    times: int


def lost_between(captures: Sequence[Sequence[Packet]]) -> list[Loss]:
    """What left at one place and did not come at another, of packets that both would have seen.

    A capture sees a worker's packets when it has any of them: a switch's has all workers', a worker's has its own.

    Args:
        captures: packets of one place each; compared with the first one, the switch's.
    """
    if len(captures) < 2:
        return []
    losses: list[Loss] = []
    captures = [[packet for packet in each if packet.header.msg_type != PROBE] for each in captures]
    here = captures[0]
    for index, other in enumerate(captures[1:], 1):
        seen = {worker_of(packet) for packet in other if not packet.everyone}
        ours = [packet for packet in here if packet.everyone or worker_of(packet) in seen]
        counts = Counter(map(_identity, ours)), Counter(map(_identity, other))
        examples = {_identity(packet): packet for packet in (*ours, *other)}
        for key, packet in examples.items():
            difference = counts[0][key] - counts[1][key]
            if difference:
                more, fewer = (0, index) if difference > 0 else (index, 0)
                losses.append(Loss(packet, more, fewer, abs(difference)))
    return losses


def _identity(packet: Packet) -> tuple[object, ...]:
    return packet.to_switch, packet.everyone, packet.worker, packet.header, packet.payload
