"""The worker's window and the switch's slot machine, joined by nothing: packets in, packets out, states as bytes.

These are the functions that run under real sockets; only memory and header fields around them are written here.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.aggregation.racks import (
    BUT_ONE,
    FIRST_WORKER,
    RISES,
    TO_ONE,
    judge,
    rising,
)
from switchml.aggregation.racks import (
    take_result as take_from_above,
)
from switchml.aggregation.slot_machine import (
    AHEAD,
    COMPLETE,
    DUPLICATE,
    FRESH,
    MISFIT,
    RETRANSMIT,
    STALE,
    UNSEEN,
    WAITING,
    admit,
    admit_paper,
    apply,
    apply_lanes,
    inquire,
    new_pool,
)
from switchml.protocol.header import HEADER_BYTES, Header, build_header, parse_header
from switchml.protocol.messages import (
    ABSENT,
    ASK,
    ASKED,
    ELEMENT_BYTES,
    FLOAT32,
    LANE_BITS,
    size_code,
    wire_lanes,
)
from switchml.protocol.slots import TSI_MASK, slot_of, version_of
from switchml.worker.chunks import (
    block_of,
    build_packet,
    is_answer,
    packet_bytes,
    result_bytes,
    take_result,
)
from switchml.worker.engine import kept_at
from switchml.worker.failover import settling
from switchml.worker.recovery import new_recovery, note_answer
from switchml.worker.standing import begin_anew, frontiers
from switchml.worker.transfer import Share
from switchml.worker.window import (
    ASKING,
    BLOCKS,
    MISMATCHED,
    READY,
    RESEND,
    RING,
    SENT,
    SIGNATURE_WORDS,
    advance,
    ask,
    lay,
    mark_asked,
    mark_sent,
    match,
    may_leave,
    new_window,
    next_question,
    next_ready,
    relative,
    resend,
)

ELEMENTS = 64
"""int32 of a packet: as many as the smaller of the P4 programs takes."""
JOB = 5
_NOW = 1
_DEADLINE = np.iinfo(np.int64).max
_DISAGREE = "the descriptor of tensor {} shows ranks that disagree"


class Tensor(NamedTuple):
    """One all-reduce of every rank.

    Attributes:
        kind: worker.window.BLOCKS or WORDS.
        sources: by rank, float32 or uint32 of one length.
        total: what each rank is to have in the end, as bytes; or, with `part`, its share of it.
        part: as in worker.transfer.Share: 0, or elements of a rank's share.
        others: as there.
    """

    kind: int
    sources: tuple[npt.NDArray[Any], ...]
    total: npt.NDArray[Any]
    part: int = 0
    others: bool = False


class WrongResultError(Exception):
    """A worker took a result that is not the sum, or saw ranks disagree."""


def _raw(array: Any) -> npt.NDArray[np.uint8]:
    """The bytes of an array, numbers or records, in place."""
    return np.asarray(array).view(np.uint8).reshape(-1)


def _compare(result: npt.NDArray[Any], total: npt.NDArray[Any], name: str) -> None:
    wrong = np.flatnonzero(result != total)
    if wrong.size:
        at = int(wrong[0])
        shown, right = (f"{word:#010x}" for word in np.array([result[at], total[at]]).view(np.uint32))
        raise WrongResultError(f"element {at} of {name} is {shown} and should be {right}")


class WorkerMachine:
    """One rank's window with the memory of its tensors.

    Args:
        start: position at which the stream begins.
        in_flight: packets that its congestion window lets be under way; 0: no limit.
        keeps: what it has sent, so that it can go on at another switch.
    """

    def __init__(
        self,
        rank: int,
        workers: int,
        window: int,
        tensors: tuple[Tensor, ...],
        start: int = 0,
        in_flight: int = 0,
        *,
        keeps: bool = False,
    ) -> None:
        self._tensors = tensors
        self._wanted = [
            Share(rank, tensor.part, others=tensor.others).of(slice(0, tensor.total.size))
            for tensor in tensors
        ]
        self._room = in_flight or window + 1
        self._window = new_window(
            rank=rank,
            workers=workers,
            window=window,
            elements=ELEMENTS,
            size=size_code(ELEMENT_BYTES * ELEMENTS),
            job=JOB,
        )
        self._recovery = new_recovery()  # knows times alone, so nothing of it is a state
        self._memory = np.zeros(HEADER_BYTES + ELEMENT_BYTES * ELEMENTS, np.uint8)
        self._kept = np.zeros(2 * window * self._memory.size if keeps else 0, np.uint8)
        self._descriptor = np.zeros(ELEMENTS, np.uint32)
        self._results = [np.zeros_like(tensor.total) for tensor in tensors]
        self._flags = [np.zeros(-(-tensor.total.size // ELEMENTS), np.uint8) for tensor in tensors]
        for index, tensor in enumerate(tensors):
            self._queue(index, tensor, tensor.sources[rank])
        stream = self._window.stream[0]
        stream["queued"] = len(tensors)
        stream["end"] = stream["lowest"] = start

    def _queue(self, index: int, tensor: Tensor, source: npt.NDArray[Any]) -> None:
        entry = self._window.transfers[index % RING]
        entry["kind"] = tensor.kind
        entry["count"] = source.size
        entry["chunks"] = -(-source.size // ELEMENTS)
        entry["source"] = source.ctypes.data
        entry["destination"] = self._results[index][self._wanted[index].start :].ctypes.data
        entry["part"], entry["others"] = tensor.part, tensor.others
        entry["flags"] = self._flags[index].ctypes.data
        entry["last"] = source.size
        entry["deadline"] = _DEADLINE
        entry["signature"] = np.full(SIGNATURE_WORDS, 7 + index, np.uint32)

    def save(self) -> bytes:
        """All that decides what the machine does next; not when things happened, and not what retransmission has cost."""
        window = self._window
        window.slots["sent_at"] = 0
        window.slots["retries"] = window.slots["order"] = window.slots["asked"] = 0
        window.stream["accepted"] = window.stream["sends"] = window.stream["asked"] = 0
        flying = np.isin(window.slots["state"], (SENT, ASKING))
        for name in ("length", "come", "asked_at"):
            window.slots[name][~flying] = 0
        queued = np.sort(window.slots["position"][np.isin(window.slots["state"], (READY, RESEND))])
        window.stream["fifo_head"], window.stream["fifo_tail"] = 0, queued.size
        window.fifo[: queued.size], window.fifo[queued.size :] = queued, 0
        return b"".join(part.tobytes() for part in self._parts())

    def load(self, saved: bytes) -> None:
        """Go back to a state that `save` returned."""
        at = 0
        for part in self._parts():
            part[:] = np.frombuffer(saved, np.uint8, part.size, at)
            at += part.size

    def _parts(self) -> Iterator[npt.NDArray[np.uint8]]:
        window, tensors = self._window, len(self._tensors)
        yield _raw(window.stream)
        yield _raw(window.slots)
        yield _raw(window.fifo)
        yield _raw(window.transfers[:tensors])
        yield _raw(window.exponents[:tensors])
        yield self._kept

    def finished(self) -> bool:
        """Whether the rank has all results."""
        return bool(self._window.stream["finished"][0] == len(self._tensors))

    def send(self) -> list[bytes]:
        """Packets that may leave now."""
        lay(self._window)
        packets = []
        while (slot := next_question(self._window)) >= 0:
            packets.append(self._packet(slot))
            mark_asked(self._window, slot, _NOW)
        while (slot := next_ready(self._window)) >= 0 and may_leave(self._window, slot, self._room):
            packets.append(self._packet(slot))
            if self._kept.size:
                at = kept_at(self._window, slot, int(self._window.slots[slot]["position"]))
                self._kept[at : at + len(packets[-1])] = np.frombuffer(packets[-1], np.uint8)
            mark_sent(self._window, slot, _NOW, 1)  # every packet counts as one byte
        return packets

    def _packet(self, slot: int) -> bytes:
        build_packet(self._window, slot, self._memory, 0)
        return self._memory[: packet_bytes(self._window, slot)].tobytes()

    def waiting(self) -> list[int]:
        """Slots whose packet has been sent and not answered."""
        return [int(slot) for slot in np.flatnonzero(self._window.slots["state"] == SENT)]

    def lose(self, *slots: int) -> None:
        """The slots' packets are taken for lost: they are sent again, as far as the window lets them."""
        for slot in slots:
            resend(self._window, slot)

    def ask(self, *slots: int) -> None:
        """The switch is to be asked for the slots' packets; the questions leave with what is sent next."""
        for slot in slots:
            ask(self._window, slot)

    def asking(self) -> bool:
        """Whether questions are to leave."""
        return bool(self._window.stream["asking"][0])

    def take(self, packet: bytes) -> bool:
        """A result comes, or the answer to a question; returns whether it was wanted.

        Raises:
            WrongResultError: it is not the sum of what the ranks sent.
        """
        header = parse_header(packet)
        slot = match(self._window, header.tsi, header.slot, header.version)
        if slot < 0:
            return False
        index, chunk = self._chunk(slot)
        memory = np.frombuffer(packet, np.uint8)
        fits = is_answer(self._window, slot, memory, 0)
        if not fits or len(packet) != result_bytes(self._window, memory, 0):
            raise WrongResultError(f"a result for chunk {chunk} of tensor {index} is not of its kind")
        if header.msg_type == ASK:
            note_answer(self._recovery, self._window, slot, header.e0 != 0, _NOW)
            return True
        if not take_result(self._window, slot, header.e0, memory, 0, self._descriptor):
            raise WrongResultError(_DISAGREE.format(index))
        self._verify(index, chunk)
        advance(self._window, slot, header.e0)
        self._release(index)
        return True

    def _release(self, index: int) -> None:
        """The exact exchange itself is the stream's; here it only must not hold up what follows."""
        self._window.transfers[index % RING]["released"] = 1

    def _chunk(self, slot: int) -> tuple[int, int]:
        """The tensor and the chunk of it that the slot's packet is for; below 0: none of its elements."""
        index = int(self._window.slots[slot]["transfer"])
        prologue = int(self._window.transfers[index % RING]["prologue"])
        return index, int(relative(self._window, slot)) - 1 - prologue

    def _verify(self, index: int, chunk: int) -> None:
        """Look at the sums that have been taken.

        Raises:
            WrongResultError: they are not.
        """
        if chunk < 0:
            return
        chunk = block_of(self._window, self._window.transfers[index % RING], chunk)
        mine = self._wanted[index]
        part = slice(max(chunk * ELEMENTS, mine.start), min((chunk + 1) * ELEMENTS, mine.stop))
        _compare(
            self._results[index][part],
            self._tensors[index].total[part],
            f"chunk {chunk} of tensor {index}",
        )

    def settling(
        self,
    ) -> Generator[tuple[bool, npt.NDArray[np.uint32]], npt.NDArray[np.uint32], None]:
        """The rank's part of the agreement on where a job goes on: see `worker.failover.settling`.

        Raises:
            WrongResultError: what it took then is not the sum.
        """
        before = frontiers(self._window)
        chunks = [self._chunk(slot) for slot in range(before.size)]
        yield from settling(self._window, self._kept, self._descriptor)
        for mismatched in np.flatnonzero(self._window.transfers["status"] == MISMATCHED):
            raise WrongResultError(_DISAGREE.format(mismatched))
        for slot in np.flatnonzero(frontiers(self._window) != before):
            index, chunk = chunks[slot]
            self._verify(index, chunk)
            self._release(index)

    def begin_anew(self, job: int, first: int) -> None:
        """Go on at a switch that has seen nothing, as that job's number, from that position on the wire."""
        begin_anew(self._window, job, first)

    @property
    def job(self) -> int:
        """Its number at the switch."""
        return int(self._window.stream[0]["job"])


def agree(machines: Sequence[WorkerMachine]) -> None:
    """Have all ranks agree on where they go on, as by collectives in which nothing is lost.

    Raises:
        CollectiveError, WrongResultError: they cannot, or what they took is not the sum.
    """
    parts = [machine.settling() for machine in machines]
    said = [next(part, None) for part in parts]
    while any(said):
        words = [each[1] for each in said if each is not None]
        if len(words) < len(said) or len({each[0] for each in said if each is not None}) > 1:
            raise WrongResultError("the ranks go through different collectives to agree")
        adds = said[0] is not None and said[0][0]
        result = sum(words[1:], words[0].copy()) if adds else np.stack(words)
        said = [_told(part, result.copy()) for part in parts]


def _told(
    part: Generator[tuple[bool, npt.NDArray[np.uint32]], npt.NDArray[np.uint32], None],
    result: npt.NDArray[np.uint32],
) -> tuple[bool, npt.NDArray[np.uint32]] | None:
    try:
        return part.send(result)
    except StopIteration:
        return None


class Answer(NamedTuple):
    """What leaves the switch for one packet.

    Attributes:
        verdict: of the slot machine.
        to: a member, or None for all.
        packet: empty: nothing leaves.
        named: the member that gets `result` in place of `packet`; -1: none.
        result: with elements.
        up: what goes to the switch above; empty: nothing.
    """

    verdict: int
    to: int | None
    packet: bytes
    named: int = -1
    result: bytes = b""
    up: bytes = b""

    def deliveries(self, members: int) -> Iterator[tuple[int, bytes]]:
        """Every member that gets something, and what."""
        if self.packet:
            for member in range(members) if self.to is None else (self.to,):
                yield member, self.result if member == self.named else self.packet


def bare_answer(question: bytes, *, come: bool) -> bytes:
    """What the switch says of a packet that is asked for, while there is no result."""
    return build_header(parse_header(question)._replace(e0=int(come)))


Member = int | frozenset[int]
"""What is below a switch: a worker, by its rank, or a switch, by the ranks of all that is below it."""


class SwitchMachine:
    """The slot machine with the pool of one job.

    Args:
        workers: workers or switches below it, its members.
        elements: int32 of a packet.
        paper: the published machine, without stamps.
        start: position at which the streams begin; the chunks before are complete.
        wire: the narrowest elements of its packets.
        members: (): the workers' numbers are their ranks.
        above: there is a switch above, whose number among its members is `workers`.
    """

    def __init__(
        self,
        workers: int,
        window: int,
        elements: int = ELEMENTS,
        *,
        paper: bool = False,
        start: int = 0,
        wire: str = FLOAT32,
        members: Sequence[Member] = (),
        above: bool = False,
    ) -> None:
        self._workers, self._window, self._elements = workers, window, elements
        self._members, self._above = tuple(members) or tuple(range(workers)), above
        self._parts = workers + above  # of a complete chunk
        self._room = elements * wire_lanes(wire)
        self._pool = new_pool(window, 2 * window * self._room)
        self._admit = admit_paper if paper else admit
        for position in range(max(0, start - 2 * window), start):
            copy = self._pool.slots[2 * slot_of(position, window) + version_of(position, window)]
            copy["used"], copy["stamp"], copy["seen_count"] = 1, position & TSI_MASK, self._parts

    def save(self) -> bytes:
        """The pool."""
        return _raw(self._pool.slots).tobytes() + self._pool.sums.tobytes()

    def load(self, saved: bytes) -> None:
        """Go back to a state that `save` returned."""
        slots = _raw(self._pool.slots)
        slots[:] = np.frombuffer(saved, np.uint8, slots.size)
        self._pool.sums[:] = np.frombuffer(saved, np.uint32, offset=slots.size)

    def take(self, member: int, packet: bytes) -> Answer:
        """A packet of a member's, or of the switch's above, comes. An answer with empty packets: nothing leaves."""
        header = parse_header(packet)
        index = 2 * header.slot + header.version
        if self._above and member == self._workers:
            return self._from_above(index, header, packet)
        verdict = self._verdict(index, member, header)
        if verdict == WAITING + RISES:
            return Answer(verdict, None, b"", up=packet)
        if verdict in (UNSEEN, WAITING):
            return Answer(verdict, member, bare_answer(packet, come=verdict == WAITING))
        if verdict in (DUPLICATE, STALE, MISFIT, AHEAD):
            return Answer(verdict, None, b"")
        copy = self._pool.slots[index]
        shift = header.e1 & 31 if isinstance(self._members[member], frozenset) else 0
        payload, e1 = self._apply(verdict, index, packet, shift)
        ways = header.to_one * TO_ONE | header.but_one * BUT_ONE
        if verdict >= RISES:
            copy["ways"] = ways
            return Answer(verdict, None, b"", up=self._up(header, index, payload, e1))
        if verdict < COMPLETE and verdict != RETRANSMIT:
            return Answer(verdict, None, b"")
        if self._above:
            ways &= int(copy["ways"])  # the result says whether there are elements
            e1 += int(copy["e1"]) if 0 < LANE_BITS[copy["kind"]] < 32 else 0
        size = header.size ^ (ASKED if header.msg_type == ASK else 0)
        to = member if verdict == RETRANSMIT else None
        return self._answer(
            verdict, to, header._replace(size=size), index, payload, (e1, header.e1 & 0xFF), ways
        )

    def _verdict(self, index: int, member: int, header: Header) -> int:
        slots, parts = self._pool.slots, self._parts
        if header.msg_type == ASK:
            verdict = int(inquire(slots, index, member, parts, header.tsi))
        else:
            numbers = header.tsi, header.msg_type, header.e0, header.e1
            verdict = int(self._admit(slots, index, member, parts, self._window, *numbers))
        return int(rising(slots, index, member, self._workers, verdict)) if self._above else verdict

    def _apply(self, verdict: int, index: int, packet: bytes, shift: int) -> tuple[bytes, int]:
        """Do to the elements what the verdict says: those that leave, and the `e1` that goes with them."""
        copy = self._pool.slots[index]
        bits = LANE_BITS[copy["kind"]]
        first = index * self._room
        given = np.frombuffer(packet, np.uint8, offset=HEADER_BYTES).copy()
        lanes = given.view(f"u{bits // 8 or 1}")
        out = np.zeros(8 * ELEMENT_BYTES * self._elements // bits if bits else 0, lanes.dtype)
        sums, e1 = self._pool.sums[first : first + out.size], int(copy["e1"])
        if bits == 32:
            apply(verdict, lanes, sums, out)
        elif bits:
            e1 = apply_lanes(verdict, lanes, shift, sums, out)
        return out.tobytes(), e1

    def _up(self, header: Header, index: int, payload: bytes, e1: int) -> bytes:
        """The rack's packet."""
        copy = self._pool.slots[index]
        kind = int(copy["kind"])
        header = header._replace(msg_type=kind, e0=int(copy["e0"]), e1=e1)
        if 0 < LANE_BITS[kind] < 32:
            header = header._replace(to_one=0, but_one=0)
        return build_header(header) + payload

    def _answer(
        self,
        verdict: int,
        to: int | None,
        header: Header,
        index: int,
        payload: bytes,
        said: tuple[int, int],
        ways: int,
    ) -> Answer:
        """A result for a member or for all.

        Args:
            verdict: of the slot machine.
            to: the member; None: all.
            header: of the packet that brought it about.
            index: of the copy.
            payload: the elements.
            said: `e1` that goes with them, and the rank that is named.
            ways: TO_ONE or BUT_ONE, where they are not for all.
        """
        copy = self._pool.slots[index]
        kind, (e1, rank) = int(copy["kind"]), said
        bare = header._replace(msg_type=ABSENT, e0=int(copy["e0"]), e1=int(copy["e1"]))
        result = header._replace(msg_type=kind, e0=int(copy["e0"]), e1=e1)
        if not payload and not (self._above and ways):
            ways = 0
        to_one, but_one = int(ways == TO_ONE), int(ways == BUT_ONE)
        permission = build_header(bare._replace(to_one=to_one, but_one=but_one))
        packet = build_header(result._replace(to_one=to_one, but_one=but_one)) + payload
        if not payload or not ways:
            return Answer(verdict, to, packet)
        named = self._named(rank, ways)
        to_it, to_others = (permission, packet) if ways == BUT_ONE else (packet, permission)
        if to is None:
            return Answer(verdict, None, to_others, named, to_it)
        return Answer(verdict, to, to_it if to == named else to_others)

    def _named(self, rank: int, ways: int) -> int:
        """The member that a rank is or is below, -1: none. Of `but_one` only who is alone: others below want the elements."""
        for number, member in enumerate(self._members):
            ranks = member if isinstance(member, frozenset) else {member}
            if rank in ranks and (ways == TO_ONE or len(ranks) == 1):
                return number
        return -1

    def _from_above(self, index: int, header: Header, packet: bytes) -> Answer:
        slots, copy = self._pool.slots, self._pool.slots[index]
        if header.msg_type == ASK:
            verdict = int(judge(slots, index, self._workers, header.tsi))
            if verdict != COMPLETE:
                return Answer(verdict, None, b"")
            return Answer(WAITING if header.e0 else UNSEEN, FIRST_WORKER, packet)
        ways, rank = header.to_one * TO_ONE | header.but_one * BUT_ONE, int(copy["e1"]) & 0xFF
        numbers = header.tsi, header.msg_type, ways, header.e0, header.e1
        verdict = int(take_from_above(slots, index, self._workers, *numbers))
        if verdict != FRESH + COMPLETE:
            return Answer(verdict, None, b"")
        payload, _ = self._apply(verdict, index, packet, 0)
        size = size_code(ELEMENT_BYTES * self._elements)  # the answer to a question goes to all
        return self._answer(
            verdict,
            None,
            header._replace(size=size),
            index,
            payload,
            (header.e1, rank),
            int(copy["ways"]),
        )


def words(rank: int, first_chunk: int, chunks: int) -> npt.NDArray[np.uint32]:
    """Words that show in hexadecimal who is in a sum, and of which chunk: rank + 1, chunk, place."""
    chunk, place = np.divmod(np.arange(chunks * ELEMENTS, dtype=np.uint32), ELEMENTS)
    return np.uint32((rank + 1) << 24) | (chunk + np.uint32(first_chunk)) << np.uint32(16) | place


def word_tensors(
    kind: int,
    workers: int,
    chunks: tuple[int, ...],
    *,
    sparse: bool = False,
    to_one: bool = False,
    but_one: bool = False,
) -> tuple[Tensor, ...]:
    """Tensors of so many chunks each, with values that tell ranks and chunks apart.

    Args:
        kind: worker.window.BLOCKS or WORDS.
        workers: ranks.
        chunks: of each tensor.
        sparse: of workers + 1 chunks in a row each rank has one, and nobody the last.
        to_one: each rank wants a part only.
        but_one: each rank gives a part, and wants the others; of words.
    """
    tensors = []
    for index, count in enumerate(chunks):
        parts: list[npt.NDArray[Any]] = [words(rank, sum(chunks[:index]), count) for rank in range(workers)]
        if kind == BLOCKS:
            # Small whole numbers: their float32 sums are exact.
            parts = [(part >> np.uint32(16)).astype(np.float32) for part in parts]
        if sparse:
            for rank, part in enumerate(parts):
                part[np.arange(part.size) // ELEMENTS % (workers + 1) != rank] = 0
        share = -(-count // workers) * ELEMENTS if to_one or but_one else 0
        if but_one:
            for rank, part in enumerate(parts):
                part[np.arange(part.size) // share != rank] = 0
        total = parts[0].copy()
        for part in parts[1:]:
            total += part
        tensors.append(Tensor(kind, tuple(parts), total, share, but_one))
    return tuple(tensors)
