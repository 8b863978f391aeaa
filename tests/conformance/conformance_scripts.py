"""The conformance scripts as Python, from which `scripts/*.stf` are made: `python tests/conformance/conformance_scripts.py`.

Every script stands for itself and runs on anything that runs STF: p4c's own runner, `switchml stf`, and the suite here.
Element i of worker w's chunk c is (w + 1) << 24 | c << 16 | i, so that a sum shows in hexadecimal who is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from conformance_frames import (
    SWITCH_IP,
    SWITCH_MAC,
    Station,
    arp,
    echo,
    ethernet,
    from_switch,
    ipv4,
    switchml,
    to_switch,
    udp,
    worker,
)

from switchml.check.packet_script import packet_script
from switchml.check.search import Configuration, Search
from switchml.protocol.header import MAX_WINDOW
from switchml.protocol.messages import ABSENT, ASK, ASKED, EXPONENTS, LANE_BITS, PROBE, SUM, SUM8, SUM16

FOLDER = Path(__file__).with_name("scripts")
PROGRAM = Path(__file__).parents[2] / "p4" / "build" / "switchml_64.json"
SIZE_CODES = {64: 1, 256: 3}
SMALL, LARGE = SIZE_CODES
NO_JOB = 256
FLOOD_GROUP = 0x7FF0

Values = Sequence[int]


def total(*parts: Values) -> list[int]:
    return [sum(column) & 0xFFFFFFFF for column in zip(*parts, strict=True)]


def lanes_of(words: Values, bits: int) -> list[int]:
    """The signed lanes of 32-bit words, in the order of the wire."""
    whole = b"".join(word.to_bytes(4) for word in words)
    return [int.from_bytes(whole[at : at + bits // 8], signed=True) for at in range(0, len(whole), bits // 8)]


def words_of(lanes: Values, bits: int) -> list[int]:
    """The way back of `lanes_of`."""
    whole = b"".join((lane & (1 << bits) - 1).to_bytes(bits // 8) for lane in lanes)
    return [int.from_bytes(whole[at : at + 4]) for at in range(0, len(whole), 4)]


def narrow_total(bits: int, *parts: Values) -> tuple[list[int], int]:
    """Words of the result for words of lanes, and the shift that goes with it (docs/protocol.md, narrow wires)."""
    sums = [sum(column) for column in zip(*(lanes_of(part, bits) for part in parts), strict=True)]
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    shift = next(shift for shift in range(9) if all(low <= value >> shift <= high for value in sums))
    # Python's round goes to even, and all of it is exact.
    return words_of([min(round(value / 2**shift), high) for value in sums], bits), shift


class Script:
    """Builds the text. A statement's comment stands above it. elements: of a packet."""

    def __init__(self, elements: int = SMALL) -> None:
        self.elements = elements
        self.lines: list[str] = []
        self._counts: list[str] = []
        self._jobs: dict[int, tuple[int, int, int]] = {}  # workers, window, first port
        self._bases: dict[int, int] = {}
        self._nodes = 0
        self._packets = 0
        self._add(
            "SwitchIngress.own_address",
            f"meta.target_addr:{_hex(SWITCH_IP)}",
            f"is_ours(mac:{_hex(SWITCH_MAC)})",
        )

    def say(self, *lines: str) -> None:
        self.lines += ["", *(f"# {line}" for line in lines)]

    def _add(self, table: str, key: str, action: str) -> None:
        self.lines.append(f"add {table} {key} {action}")

    def job(
        self,
        number: int,
        workers: int,
        window: int = 4,
        *,
        pool_base: int = 0,
        paper: bool = False,
        first_port: int = 1,
    ) -> None:
        """A job whose workers are on ports `first_port` and following."""
        self._jobs[number] = workers, window, first_port
        self._bases[number] = pool_base
        machine = "the published machine" if paper else "stamps"
        self.say(
            f"Job {number}: {workers} workers, slots {pool_base} to {pool_base + window - 1}, {machine}."
        )
        everyone = (1 << workers) - 1
        if workers > 1:
            self.lines.append(f"mc_mgrp_create {number + 1}")
        for rank in range(workers):
            station = worker(number, rank, first_port)
            sender = f"hdr.ipv4.src_addr:{_hex(station.ip)} hdr.udp.src_port:{station.udp_port:#x}"
            self._add("SwitchIngress.sender_table", sender, f"known_sender(job:{number})")
            self._add(
                "SwitchIngress.job_table",
                f"{sender} hdr.switchml.job_number:{number}",
                f"set_worker(worker:{rank}, bit_of_worker:{1 << rank:#x}, workers:{workers}, everyone:{everyone:#x}, "
                f"pool_base:{pool_base}, window:{window}, paper:{int(paper)}, epoch:1, "
                f"multicast_group:{number + 1 if workers > 1 else 0})",
            )
            key = f"meta.job_number:{number} meta.worker:{rank}"
            self._add("SwitchIngress.worker_port", key, "reachable()")
            self._add(
                "SwitchEgress.worker_rewrite",
                key,
                f"to_worker(mac:{_hex(station.mac)}, addr:{_hex(station.ip)}, udp_port:{station.udp_port:#x})",
            )
            if workers > 1:
                self.lines.append(f"mc_node_create {rank + 1} {station.port}")
                self.lines.append(f"mc_node_associate {number + 1} {self._nodes}")
                self._nodes += 1

    def complete_before(self, number: int, tsi: int) -> None:
        """As if the job had come to `tsi`, modulo 2^32: the chunks before are complete, and had no elements."""
        workers, window, _ = self._jobs[number]
        base = self._bases[number]
        for back in range(1, 2 * window + 1):
            stamp = (tsi - back) % (1 << 32)
            cell = 2 * (base + stamp % window) + stamp // window % 2
            cells = {
                "stamp": stamp,
                "used": 1,
                "seen": (1 << workers) - 1,
                "seen_count": workers,
                "kind": EXPONENTS,
            }
            self.lines += [
                f"register_write SwitchIngress.{name} {cell} {value}" for name, value in cells.items()
            ]

    def values(self, rank: int, chunk: int) -> list[int]:
        """What worker `rank` sends in chunk `chunk`."""
        return [(rank + 1) << 24 | chunk << 16 | i for i in range(self.elements)]

    def station(self, job: int, rank: int) -> Station:
        return worker(job, rank, self._jobs[job][2])

    def packet(self, port: int, frame: bytes) -> None:
        self._packets += 1
        self.lines.append(f"packet {port} {_spaced(frame)}")

    def leaves(self, port: int, frame: bytes) -> None:
        self.lines.append(f"expect {port} {_spaced(frame)} $")

    def message(
        self,
        job: int,
        tsi: int,
        data: Values = (),
        *,
        kind: int = SUM,
        e0: int = -128,
        e1: int = -128,
        version: int | None = None,
        slot: int | None = None,
        size: int | None = None,
        number: int | None = None,
        **others: int,
    ) -> bytes:
        """A packet of the protocol, right unless told otherwise. number: what it gives as job. others: fields of the header."""
        window = self._jobs[job][1]
        right_slot, right_version = tsi % window, tsi // window % 2
        return switchml(
            kind,
            SIZE_CODES[self.elements] if size is None else size,
            job if number is None else number,
            tsi,
            right_slot if slot is None else slot,
            right_version if version is None else version,
            e0,
            e1,
            data,
            **others,
        )

    def send(
        self, job: int, rank: int, message: bytes, *, answered: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        """A worker's packet, and who gets what because of it."""
        self._packets += 1
        station = self.station(job, rank)
        self.lines.append(f"packet {station.port} {_spaced(to_switch(station, message, self._packets))}")
        for to, answer in answered:
            receiver = self.station(job, to)
            self.leaves(receiver.port, from_switch(receiver, answer, self._packets))

    def chunk(
        self,
        job: int,
        rank: int,
        tsi: int,
        *,
        gives: Values | None = None,
        only: int | None = None,
        data: Values | None = None,
        e0: int = -128,
        e1: int = -128,
        result_e0: int | None = None,
        result_e1: int | None = None,
        version: int | None = None,
        slot: int | None = None,
        kind: int = SUM,
    ) -> None:
        """A worker's packet of a chunk. gives: the sums that all workers (or `only` that one) then receive."""
        data = self.values(rank, tsi) if data is None else data
        message = self.message(job, tsi, data, kind=kind, e0=e0, e1=e1, version=version, slot=slot)
        answered = []
        if gives is not None:
            answer = self.message(
                job,
                tsi,
                gives,
                kind=kind,
                version=version,
                slot=slot,
                e0=e0 if result_e0 is None else result_e0,
                e1=e1 if result_e1 is None else result_e1,
            )
            receivers = range(self._jobs[job][0]) if only is None else [only]
            answered = [(receiver, answer) for receiver in receivers]
        self.send(job, rank, message, answered=answered)

    def count(self, name: str, job: int, packets: int) -> None:
        """What is counted in the end: a BMv2 that reads packets from files takes no question between them."""
        self._counts.append(f"check_counter SwitchIngress.{name}({job}) packets == {packets}")

    def text(self, head: str) -> str:
        made = "# Made by tests/conformance/conformance_scripts.py: change it there."
        if self._counts:
            self.say("In the end.")
            self.lines += self._counts
        return "\n".join([*(f"# {line}" for line in head.split("\n")), made, "", *self.lines]) + "\n"


def _hex(data: bytes) -> str:
    return f"0x{data.hex()}"


def _spaced(frame: bytes) -> str:
    """Headers in pieces as they are parsed, elements one by one."""
    cuts = [6, 12, 14]
    if frame[12:14] == b"\x08\x00" and len(frame) >= 34:
        cuts += [26, 30, 34, *([36, 38, 42, 52] if frame[23] == 17 else [])]
        cuts += range(56, len(frame), 4)
    edges = [0, *(cut for cut in cuts if cut < len(frame)), len(frame)]
    return " ".join(frame[a:b].hex() for a, b in pairwise(edges))


SCRIPTS: dict[str, Callable[[Script], None]] = {}
FORWARDING: set[str] = set()
"""Scripts about what an aggregation pipeline alone does not do: forwarding, ARP, ping, frames cut off."""


def _script(function: Callable[[Script], None]) -> Callable[[Script], None]:
    SCRIPTS[function.__name__] = function
    return function


def _forwarding(function: Callable[[Script], None]) -> Callable[[Script], None]:
    FORWARDING.add(function.__name__)
    return _script(function)


@_script
def basic_reduction(s: Script) -> None:
    """Two workers, three chunks: the last packet of each chunk brings the sums to both."""
    s.job(5, 2)
    for tsi in range(3):
        s.say(f"Chunk {tsi}.")
        first, second = (0, 1) if tsi != 1 else (1, 0)
        s.chunk(5, first, tsi)
        s.chunk(5, second, tsi, gives=total(s.values(0, tsi), s.values(1, tsi)))
    s.say("Sums are modulo 2^32.")
    low, high = [0x7FFFFFFF] * s.elements, [1, 0xFFFFFFFF] * (s.elements // 2)
    s.chunk(5, 0, 3, data=low)
    s.chunk(5, 1, 3, data=high, gives=total(low, high))
    s.count("chunks_completed", 5, 4)
    s.count("packets_received", 5, 8)


@_script
def single_worker(s: Script) -> None:
    """A job of one: every packet completes its chunk."""
    s.job(9, 1, window=2)
    for tsi in range(5):
        s.chunk(9, 0, tsi, gives=s.values(0, tsi))
    s.count("chunks_completed", 9, 5)


@_script
def many_workers(s: Script) -> None:
    """Eight workers in disorder."""
    s.job(2, 8, window=1)
    for tsi, order in enumerate(
        [(3, 0, 7, 1, 6, 2, 5, 4), (4, 5, 2, 6, 1, 7, 0, 3), (0, 1, 2, 3, 4, 5, 6, 7)]
    ):
        for rank in order[:-1]:
            s.chunk(2, rank, tsi)
        s.chunk(2, order[-1], tsi, gives=total(*(s.values(rank, tsi) for rank in range(8))))


@_script
def both_versions(s: Script) -> None:
    """A slot's two copies are apart: both work at the same time, on chunks a window apart."""
    s.job(5, 2, window=2)
    for tsi in (0, 1):
        s.chunk(5, 0, tsi)
    for tsi in (1, 0):
        s.chunk(5, 1, tsi, gives=total(s.values(0, tsi), s.values(1, tsi)))
    s.say("Worker 1 fills the second version of both slots; worker 0 asks for what the first ones keep.")
    for tsi in (3, 2):
        s.chunk(5, 1, tsi)
    for tsi in (0, 1):
        s.chunk(5, 0, tsi, gives=total(s.values(0, tsi), s.values(1, tsi)), only=0)
    s.say("Then it completes them in another order.")
    for tsi in (2, 3):
        s.chunk(5, 0, tsi, gives=total(s.values(0, tsi), s.values(1, tsi)))


@_script
def slot_reuse(s: Script) -> None:
    """One slot, ten chunks: versions alternate, and nothing of a chunk is left when its copy is used again."""
    s.job(5, 2, window=1)
    for tsi in range(10):
        s.chunk(5, tsi % 2, tsi)
        s.chunk(5, 1 - tsi % 2, tsi, gives=total(s.values(0, tsi), s.values(1, tsi)))


@_script
def before_its_turn(s: Script) -> None:
    """A chunk has its turn when the one a window before is complete. Until then its packets are dropped, forged or not."""
    s.job(5, 2, window=2)
    s.say("An unused slot: two windows ahead, one, 2^30, and what would be older than its first.")
    for tsi in (4, 2, 1 << 30, 0x80000000, 0xFFFFFFFC):
        s.chunk(5, 0, tsi, data=s.values(7, 7))
    s.say("Chunk 0 has one worker.")
    s.chunk(5, 1, 0)
    for tsi in (4, 2, 1 << 30, (1 << 30) + 2, 0x7FFFFFFC):
        s.chunk(5, 0, tsi, data=s.values(7, 7))
    s.say("Chunk 0 is complete: chunk 2 has its turn, chunk 4 has not, nor when chunk 2 has one worker.")
    s.chunk(5, 0, 0, gives=total(s.values(0, 0), s.values(1, 0)))
    s.chunk(5, 0, 4)
    s.chunk(5, 1, 2)
    s.chunk(5, 1, 4)
    s.chunk(5, 1, 1 << 30)
    s.chunk(5, 0, 2, gives=total(s.values(0, 2), s.values(1, 2)))
    s.say("Nor any later one once chunk 2 is complete.")
    s.chunk(5, 0, 8)
    s.chunk(5, 0, 6)
    s.chunk(5, 0, 4)
    s.chunk(5, 1, 4, gives=total(s.values(0, 4), s.values(1, 4)))
    s.count("dropped_ahead", 5, 15)
    s.count("dropped_stale", 5, 0)


@_script
def sequence_numbers_wrap(s: Script) -> None:
    """After 2^32 - 1 comes 0: the chunk a window before is another number of the same stream."""
    s.job(5, 2, window=2, pool_base=3)
    s.complete_before(5, 0xFFFFFFFE)
    s.say("Not yet: 0 comes after 2^32 - 2, which comes first.")
    s.chunk(5, 0, 0)
    for tsi in (0xFFFFFFFE, 0xFFFFFFFF, 0, 1, 2):
        data = [s.values(rank, tsi & 7) for rank in range(2)]
        s.chunk(5, 0, tsi, data=data[0])
        s.chunk(5, 0, (tsi + 4) % (1 << 32), data=data[0])
        s.chunk(5, 1, tsi, data=data[1], gives=total(*data))
    s.say("Half the numbers away is older.")
    s.chunk(5, 1, 0xFFFFFFFE)
    s.chunk(5, 1, 0x80000002)
    s.count("dropped_ahead", 5, 6)
    s.count("dropped_stale", 5, 2)


@_script
def retransmission_before_completion(s: Script) -> None:
    """A worker asks again while others are missing: dropped, and the sum holds it once."""
    s.job(5, 3)
    s.chunk(5, 0, 0)
    s.chunk(5, 0, 0)
    s.chunk(5, 2, 0)
    s.say("Nor does another content count.")
    s.chunk(5, 0, 0, data=s.values(7, 7), e0=100)
    s.chunk(5, 1, 0, gives=total(s.values(0, 0), s.values(1, 0), s.values(2, 0)))
    s.count("dropped_duplicate", 5, 2)


@_script
def retransmission_after_completion(s: Script) -> None:
    """A worker that missed the result asks again: it, and it alone, gets the result, as often as it asks."""
    s.job(5, 2)
    s.chunk(5, 0, 0, e0=3)
    result = total(s.values(0, 0), s.values(1, 0))
    s.chunk(5, 1, 0, e0=-7, gives=result, result_e0=3)
    for rank in (0, 1, 0):
        s.chunk(5, rank, 0, e0=(3, -7)[rank], gives=result, result_e0=3, only=rank)
    s.count("results_retransmitted", 5, 3)
    s.count("chunks_completed", 5, 1)


@_script
def retransmission_of_previous_version(s: Script) -> None:
    """The other worker is a window ahead already: the copy it has left still has the result for who missed it."""
    s.job(5, 2, window=2)
    result = total(s.values(0, 0), s.values(1, 0))
    s.chunk(5, 0, 0)
    s.chunk(5, 1, 0, gives=result)
    s.say("Worker 1 goes on to the slot's other version; worker 0 has lost the result.")
    s.chunk(5, 1, 2)
    s.chunk(5, 0, 0, gives=result, only=0)
    s.chunk(5, 0, 2, gives=total(s.values(0, 2), s.values(1, 2)))
    s.say("Once its copy has been taken over, an old packet is stale.")
    s.chunk(5, 0, 4)
    s.chunk(5, 1, 0)
    s.count("dropped_stale", 5, 1)
    s.chunk(5, 1, 4, gives=total(s.values(0, 4), s.values(1, 4)))


def _delayed_duplicate(s: Script, *, paper: bool) -> None:
    s.job(5, 2, window=1, paper=paper)
    s.say("Chunks 0 and 1 are summed. Worker 0's packet of chunk 0 was sent twice; the second is late.")
    for tsi in (0, 1):
        s.chunk(5, 0, tsi)
        s.chunk(5, 1, tsi, gives=total(s.values(0, tsi), s.values(1, tsi)))
    if paper:
        s.say("It is taken for a packet of the version's next chunk,")
        s.chunk(5, 0, 0)
        s.say(
            "and worker 1's packet of chunk 2 completes a sum that holds an element of chunk 0: the sum is wrong."
        )
        s.chunk(5, 1, 2, gives=total(s.values(0, 0), s.values(1, 2)))
        s.say("Worker 0's packet of chunk 2 only gets that result once more.")
        s.chunk(5, 0, 2, gives=total(s.values(0, 0), s.values(1, 2)), only=0)
        return
    s.say("It only gets the result again,")
    s.chunk(5, 0, 0, gives=total(s.values(0, 0), s.values(1, 0)), only=0)
    s.say("and chunk 2 has the sum it should. From then on the old packet is stale.")
    s.chunk(5, 1, 2)
    s.chunk(5, 0, 0)
    s.chunk(5, 0, 2, gives=total(s.values(0, 2), s.values(1, 2)))
    s.count("dropped_stale", 5, 1)


@_script
def stale_packet(s: Script) -> None:
    """A duplicate delayed past the next use of its copy is recognised by the stamp."""
    _delayed_duplicate(s, paper=False)


@_script
def stale_packet_paper(s: Script) -> None:
    """The same packets on the published algorithm (NSDI 2021, algorithm 3): without any loss, a wrong sum."""
    _delayed_duplicate(s, paper=True)


@_script
def paper_machine(s: Script) -> None:
    """The published algorithm where it works: a worker's packet in one version clears its bit in the other."""
    s.job(6, 2, window=2, paper=True)
    result = total(s.values(0, 0), s.values(1, 0))
    s.chunk(6, 0, 0)
    s.chunk(6, 0, 0)
    s.chunk(6, 1, 0, gives=result)
    s.chunk(6, 1, 0, gives=result, only=1)
    s.chunk(6, 1, 2)
    s.chunk(6, 0, 0, gives=result, only=0)
    s.chunk(6, 0, 2, gives=total(s.values(0, 2), s.values(1, 2)))
    s.say("It does not look at the sequence number: any slot and version of the job will do.")
    s.chunk(6, 0, 99, slot=1, version=1, data=s.values(0, 9))
    s.chunk(6, 1, 7, slot=1, version=1, data=s.values(1, 9), gives=total(s.values(0, 9), s.values(1, 9)))
    s.count("dropped_duplicate", 6, 1)
    s.count("dropped_wrong_version", 6, 0)


@_script
def exponents(s: Script) -> None:
    """The maximum of both exponents, signed, over the workers of the chunk; alone, or with elements."""
    s.job(5, 3, window=2)
    s.say("With elements.")
    s.chunk(5, 0, 0, e0=-5, e1=127)
    s.chunk(5, 1, 0, e0=7, e1=-128)
    s.chunk(
        5,
        2,
        0,
        e0=-128,
        e1=0,
        gives=total(*(s.values(rank, 0) for rank in range(3))),
        result_e0=7,
        result_e1=127,
    )
    s.say("Alone: EXPONENTS has no elements, and neither has the answer.")
    for rank, (e0, e1) in enumerate([(-100, -1), (-90, -3), (-128, -2)]):
        answer = s.message(5, 1, kind=EXPONENTS, e0=-90, e1=-1)
        s.send(
            5, rank, s.message(5, 1, kind=EXPONENTS, e0=e0, e1=e1),
            answered=[(to, answer) for to in range(3)] if rank == 2 else [],
        )  # fmt: skip
    s.say("The next chunk of a copy starts anew, with the smallest there is.")
    for rank in range(3):
        s.chunk(5, rank, 2, gives=total(*(s.values(rank, 2) for rank in range(3))) if rank == 2 else None)
    for rank in range(3):
        s.chunk(5, rank, 4, gives=total(*(s.values(rank, 4) for rank in range(3))) if rank == 2 else None)
    s.say("Who repeats a packet does not change them; a repeated packet's own do not come back.")
    s.chunk(
        5,
        1,
        4,
        e0=50,
        e1=50,
        gives=total(*(s.values(rank, 4) for rank in range(3))),
        only=1,
        result_e0=-128,
        result_e1=-128,
    )


@_script
def absent(s: Script) -> None:
    """Who has only zeros sends a header; a chunk of nothing else comes back as one."""
    s.job(5, 3, window=2)
    everyone = range(3)

    def header(tsi: int, e0: int = -128) -> bytes:
        return s.message(5, tsi, kind=ABSENT, e0=e0)

    s.say("The first, the middle and the last to come.")
    for tsi, missing in ((0, 0), (1, 1), (2, 2)):
        order = [missing, *(rank for rank in everyone if rank != missing)] if tsi != 2 else [0, 1, 2]
        given = total(*(s.values(rank, tsi) for rank in everyone if rank != missing))
        answer = s.message(5, tsi, given, e0=6)
        for rank in order:
            answered = [(to, answer) for to in everyone] if rank == order[-1] else []
            message = header(tsi, 6) if rank == missing else s.message(5, tsi, s.values(rank, tsi), e0=rank)
            s.send(5, rank, message, answered=answered)
        s.say("It gets the sums again when it asks, and so does who gave elements.")
        s.send(5, missing, header(tsi), answered=[(missing, answer)])
        s.send(5, order[1], s.message(5, tsi, s.values(order[1], tsi)), answered=[(order[1], answer)])
    s.say("Two are absent; the third brings the only elements, over what the copy held before.")
    s.chunk(5, 0, 3)
    s.send(5, 0, header(4))
    s.send(5, 2, header(4))
    s.chunk(5, 1, 4, gives=s.values(1, 4))
    s.say("All are absent.")
    for rank in everyone:
        s.send(
            5, rank, header(6, rank), answered=[(to, header(6, 2)) for to in everyone] if rank == 2 else []
        )
    s.send(5, 1, header(6), answered=[(1, header(6, 2))])
    s.say("Absent is not exponents alone.")
    s.send(5, 0, s.message(5, 8, kind=EXPONENTS))
    s.send(5, 1, header(8))
    s.send(5, 2, header(3))
    s.send(5, 1, s.message(5, 3, kind=EXPONENTS))
    s.count("dropped_wrong_size", 5, 2)
    s.count("chunks_completed", 5, 5)


@_script
def to_one(s: Script) -> None:
    """The elements of a result go to the worker that wants them; all others get its header."""
    s.job(5, 3, window=2)

    def message(tsi: int, rank: int, wanted: int, *, gives: bool = True) -> bytes:
        kind, values = (SUM, s.values(rank, tsi)) if gives else (ABSENT, ())
        return s.message(5, tsi, values, kind=kind, e0=rank, e1=wanted, to_one=1)

    def answers(tsi: int, wanted: int, given: Values) -> list[tuple[int, bytes]]:
        fields = {"e0": 2, "e1": wanted, "to_one": 1}
        header = s.message(5, tsi, kind=ABSENT, **fields)
        return [(rank, s.message(5, tsi, given, **fields) if rank == wanted else header) for rank in range(3)]

    for tsi, wanted in ((0, 1), (1, 2), (2, 0)):
        told = answers(tsi, wanted, total(*(s.values(rank, tsi) for rank in range(3))))
        for rank in range(3):
            s.send(5, rank, message(tsi, rank, wanted), answered=told if rank == 2 else [])
        s.say("Again, to each what it got.")
        for rank in range(3):
            s.send(5, rank, message(tsi, rank, wanted), answered=[told[rank]])
    s.say("One is absent, the last of all, and wants the sums; in the next chunk it is another.")
    for tsi, wanted in ((3, 2), (4, 0)):
        told = answers(tsi, wanted, total(s.values(0, tsi), s.values(1, tsi)))
        for rank in range(3):
            s.send(5, rank, message(tsi, rank, wanted, gives=rank < 2), answered=told if rank == 2 else [])
        for rank in (2, 0):
            s.send(5, rank, message(tsi, rank, wanted, gives=rank < 2), answered=[told[rank]])
    s.say("All are absent: nothing is kept from anybody.")
    nothing = s.message(5, 5, kind=ABSENT, e0=2, e1=1)
    for rank in range(3):
        answered = [(to, nothing) for to in range(3)] if rank == 2 else []
        s.send(5, rank, message(5, rank, 1, gives=False), answered=answered)
    s.say("Nobody has rank 3, nor 255.")
    for tsi, wanted in ((6, 3), (7, -1)):
        told = answers(tsi, wanted, ())
        for rank in range(3):
            s.send(5, rank, message(tsi, rank, wanted), answered=told if rank == 2 else [])
    s.say("Exponents and probes are for all.")
    s.send(5, 0, s.message(5, 8, kind=EXPONENTS, to_one=1))
    s.send(5, 0, s.message(5, 8, kind=PROBE, to_one=1))
    s.count("dropped_bad_header", 5, 2)
    s.count("chunks_completed", 5, 8)
    s.count("results_retransmitted", 5, 13)


@_script
def but_one(s: Script) -> None:
    """The elements of a result go to all but one worker, which gets the header."""
    s.job(5, 3, window=2)

    def message(tsi: int, rank: int, named: int, *, gives: bool) -> bytes:
        kind, values = (SUM, s.values(rank, tsi)) if gives else (ABSENT, ())
        return s.message(5, tsi, values, kind=kind, e0=rank, e1=named, but_one=1)

    def answers(tsi: int, named: int, given: Values) -> list[tuple[int, bytes]]:
        fields = {"e0": 2, "e1": named, "but_one": 1}
        header = s.message(5, tsi, kind=ABSENT, **fields)
        return [(rank, header if rank == named else s.message(5, tsi, given, **fields)) for rank in range(3)]

    for tsi, named in ((0, 1), (1, 2), (2, 0)):
        told = answers(tsi, named, s.values(named, tsi))
        for rank in range(3):
            sent = message(tsi, rank, named, gives=rank == named)
            s.send(5, rank, sent, answered=told if rank == 2 else [])
        s.say("Again, to each what it got.")
        for rank in range(3):
            s.send(5, rank, message(tsi, rank, named, gives=rank == named), answered=[told[rank]])
    s.say("All are absent: nothing is kept from anybody.")
    nothing = s.message(5, 3, kind=ABSENT, e0=2, e1=1)
    for rank in range(3):
        answered = [(to, nothing) for to in range(3)] if rank == 2 else []
        s.send(5, rank, message(3, rank, 1, gives=False), answered=answered)
    s.say("Nobody has rank 3, nor 255: all get the elements.")
    for tsi, named in ((4, 3), (5, -1)):
        told = answers(tsi, named, s.values(0, tsi))
        for rank in range(3):
            sent = message(tsi, rank, named, gives=rank == 0)
            s.send(5, rank, sent, answered=told if rank == 2 else [])
    s.say("Exponents and probes are for all, and nothing is for one and for all but one.")
    s.send(5, 0, s.message(5, 6, kind=EXPONENTS, but_one=1))
    s.send(5, 0, s.message(5, 6, kind=PROBE, but_one=1))
    s.send(5, 0, s.message(5, 6, s.values(0, 6), e1=1, to_one=1, but_one=1))
    s.count("dropped_bad_header", 5, 3)
    s.count("chunks_completed", 5, 6)
    s.count("results_retransmitted", 5, 9)


@_script
def chunk_of_mixed_kinds(s: Script) -> None:
    """A chunk that began without elements takes none with elements, and the other way round."""
    s.job(5, 2, window=2)
    s.send(5, 0, s.message(5, 0, kind=EXPONENTS, e0=1))
    s.chunk(5, 1, 0)
    answer = s.message(5, 0, kind=EXPONENTS, e0=1, e1=-128)
    s.send(5, 1, s.message(5, 0, kind=EXPONENTS, e0=-1), answered=[(0, answer), (1, answer)])
    s.chunk(5, 0, 1)
    s.send(5, 1, s.message(5, 1, kind=EXPONENTS))
    s.chunk(5, 1, 1, gives=total(s.values(0, 1), s.values(1, 1)))
    s.count("dropped_wrong_size", 5, 2)


@_script
def two_jobs(s: Script) -> None:
    """Two jobs at once, with the same chunks: neither sees the other's elements, results or slots."""
    s.job(5, 2, window=2, pool_base=0)
    s.job(7, 3, window=4, pool_base=2, first_port=3)
    s.say("In turn.")
    s.chunk(5, 0, 0)
    s.chunk(7, 0, 0, data=s.values(8, 0))
    s.chunk(7, 2, 0, data=s.values(9, 0))
    s.chunk(5, 1, 0, gives=total(s.values(0, 0), s.values(1, 0)))
    s.chunk(7, 1, 0, data=s.values(10, 0), gives=total(s.values(8, 0), s.values(9, 0), s.values(10, 0)))
    s.say(
        "A worker of one that gives the other's number is dropped; slots are counted from the job's own first."
    )
    s.send(5, 0, s.message(5, 1, s.values(0, 1), number=7))
    s.send(7, 0, s.message(7, 3, s.values(0, 3), number=5))
    s.chunk(5, 0, 1)
    s.chunk(7, 0, 3)
    s.chunk(7, 1, 3)
    s.chunk(7, 2, 3, gives=total(s.values(0, 3), s.values(1, 3), s.values(2, 3)))
    s.chunk(5, 1, 1, gives=total(s.values(0, 1), s.values(1, 1)))
    s.count("dropped_wrong_job", 5, 1)
    s.count("dropped_wrong_job", 7, 1)
    s.count("chunks_completed", 5, 2)
    s.count("chunks_completed", 7, 2)


@_script
def probe(s: Script) -> None:
    """A probe comes back as it is, to who sent it, whatever its slot and sequence number, and changes no slot."""
    s.job(5, 2)
    message = s.message(5, 123456789, kind=PROBE, slot=77, version=1, e0=9, e1=8)
    s.send(5, 1, message, answered=[(1, message)])
    s.chunk(5, 0, 0)
    message = s.message(5, 0, kind=PROBE)
    s.send(5, 0, message, answered=[(0, message)])
    s.chunk(5, 1, 0, gives=total(s.values(0, 0), s.values(1, 0)))
    s.count("probes_answered", 5, 2)


@_script
def wrong_size(s: Script) -> None:
    """Another size than the job's, or another payload than the size says: dropped, whatever it is."""
    s.job(5, 2)
    right = s.values(0, 0)
    s.send(5, 0, s.message(5, 0, right, size=0))
    s.send(5, 0, s.message(5, 0, right * 4, size=3))
    s.send(5, 0, s.message(5, 0, right) + b"\x77")
    s.send(5, 0, s.message(5, 0, right[:8], kind=EXPONENTS))
    s.count("dropped_wrong_size", 5, 4)
    s.count("packets_received", 5, 6)
    s.chunk(5, 0, 0)
    s.chunk(5, 1, 0, gives=total(right, s.values(1, 0)))


@_script
def truncated(s: Script) -> None:
    """Datagrams that end before their header or their elements do."""
    s.job(5, 2)
    whole = s.message(5, 0, s.values(0, 0))
    for length in (0, 1, 9, 10, 14, len(whole) - 1):
        s.send(5, 0, whole[:length])
    s.count("dropped_truncated", 5, 6)
    s.chunk(5, 0, 0)
    s.chunk(5, 1, 0, gives=total(s.values(0, 0), s.values(1, 0)))


@_script
def bad_header(s: Script) -> None:
    """Unknown message types."""
    s.job(5, 2)
    for kind in (0, 8, 15):
        s.send(5, 0, s.message(5, 0, s.values(0, 0), kind=kind))
    s.count("dropped_bad_header", 5, 3)
    s.chunk(5, 0, 0)
    s.chunk(5, 1, 0, gives=total(s.values(0, 0), s.values(1, 0)))


@_script
def wrong_slot(s: Script) -> None:
    """Slots outside the job's range; slots and versions that do not follow from the sequence number."""
    s.job(5, 2, window=4)
    s.chunk(5, 0, 4, slot=4)
    s.chunk(5, 0, 0, slot=MAX_WINDOW - 1)
    s.count("dropped_wrong_slot", 5, 2)
    s.chunk(5, 0, 0, slot=1)
    s.chunk(5, 0, 0, version=1)
    s.chunk(5, 0, 4, version=0)
    s.chunk(5, 0, 7, version=0)
    s.count("dropped_wrong_version", 5, 4)
    s.chunk(5, 0, 0)
    s.chunk(5, 1, 0, gives=total(s.values(0, 0), s.values(1, 0)))


@_script
def strangers(s: Script) -> None:
    """Who is no worker: another address, or a worker's address with another UDP port."""
    s.job(5, 2)
    known = s.station(5, 0)
    message = s.message(5, 0, s.values(3, 0))
    stranger = Station(1, known.mac, bytes([10, 0, 5, 99]), known.udp_port)
    s.packet(1, to_switch(stranger, message))
    s.packet(1, to_switch(Station(1, known.mac, known.ip, known.udp_port + 7), message))
    s.count("dropped_unknown_sender", NO_JOB, 2)
    s.say("The MAC address and the port it comes in by do not tell who it is.")
    moved = Station(2, bytes.fromhex("0a0b0c0d0e0f"), known.ip, known.udp_port)
    s.packet(2, to_switch(moved, s.message(5, 0, s.values(0, 0))))
    s.chunk(5, 1, 0, gives=total(s.values(0, 0), s.values(1, 0)))


@_forwarding
def arp_and_ping(s: Script) -> None:
    """The switch answers for its own address, and for no other."""
    s.job(5, 2)
    asker = s.station(5, 0)
    broadcast, nobody = b"\xff" * 6, bytes(6)
    s.lines.append(f"mc_mgrp_create {FLOOD_GROUP}")
    s.lines += ["mc_node_create 0 1 2 3", f"mc_node_associate {FLOOD_GROUP} 2"]
    s.say("Who has 10.0.0.254?")
    s.packet(1, ethernet(broadcast, asker.mac, 0x0806, arp(1, (asker.mac, asker.ip), (nobody, SWITCH_IP))))
    s.leaves(
        1, ethernet(asker.mac, SWITCH_MAC, 0x0806, arp(2, (SWITCH_MAC, SWITCH_IP), (asker.mac, asker.ip)))
    )
    s.say("Who has 10.0.5.2? Others may know: flooded, but not back.")
    question = ethernet(
        broadcast, asker.mac, 0x0806, arp(1, (asker.mac, asker.ip), (nobody, s.station(5, 1).ip))
    )
    s.packet(1, question)
    s.leaves(2, question)
    s.leaves(3, question)
    s.say("Ping, with odd and even lengths and a checksum that carries.")
    for number, data in enumerate([b"abcdefgh", b"", b"xyz", b"\xf7\xff\x00\x00\x00\x00", b"\xff" * 40]):
        request = ipv4(asker.ip, SWITCH_IP, 1, echo(8, data), number, ttl=33)
        reply = ipv4(SWITCH_IP, asker.ip, 1, echo(0, data), number)
        s.packet(1, ethernet(SWITCH_MAC, asker.mac, 0x0800, request))
        s.leaves(1, ethernet(asker.mac, SWITCH_MAC, 0x0800, reply))
    s.say("Nothing else is answered: an ARP answer, an echo reply, another UDP port, TCP.")
    s.packet(
        1, ethernet(SWITCH_MAC, asker.mac, 0x0806, arp(2, (asker.mac, asker.ip), (SWITCH_MAC, SWITCH_IP)))
    )
    for protocol, payload in ((1, echo(0, b"abcd")), (17, udp(1000, 53, b"query")), (6, bytes(20))):
        s.packet(1, ethernet(SWITCH_MAC, asker.mac, 0x0800, ipv4(asker.ip, SWITCH_IP, protocol, payload, 9)))
    s.count("dropped_not_served", NO_JOB, 3)


@_forwarding
def foreign_traffic(s: Script) -> None:
    """Frames that are not for the switch are forwarded by their MAC address, unchanged, and disturb no job."""
    s.job(5, 2)
    s.lines.append(f"mc_mgrp_create {FLOOD_GROUP}")
    s.lines += ["mc_node_create 0 1 2 3", f"mc_node_associate {FLOOD_GROUP} 2"]
    a, b = s.station(5, 0), s.station(5, 1)
    other = Station(3, bytes.fromhex("020300000003"), bytes([10, 0, 9, 9]))
    for station in (a, b):
        s._add(
            "SwitchIngress.forward",
            f"hdr.ethernet.dst_addr:{_hex(station.mac)}",
            f"send_to(port:{station.port})",
        )
    s._add("SwitchIngress.forward", "hdr.ethernet.dst_addr:0x0badbadbad00", "SwitchIngress.drop()")
    s.chunk(5, 0, 0)
    s.say("A packet of this very protocol, for somebody else: forwarded.")
    message = s.message(5, 0, s.values(1, 0))
    frame = ethernet(a.mac, b.mac, 0x0800, ipv4(b.ip, a.ip, 17, udp(b.udp_port, 0xBEE0, message), 3))
    s.packet(2, frame)
    s.leaves(1, frame)
    s.say(
        "An unknown address: flooded, but not back. A known one; IPv6; a VLAN tag; an IPv4 option; a fragment."
    )
    frame = ethernet(other.mac, a.mac, 0x0800, ipv4(a.ip, other.ip, 6, bytes(30), 4))
    s.packet(1, frame)
    s.leaves(2, frame)
    s.leaves(3, frame)
    plain = ipv4(other.ip, a.ip, 17, udp(1, 2, b"data"), 5)
    option = b"\x46" + plain[1:20] + b"\x01\x01\x01\x00" + plain[20:]
    fragment = plain[:6] + b"\x20\x05" + plain[8:]
    for kind, payload in (
        (0x0800, plain),
        (0x86DD, bytes(60)),
        (0x8100, b"\0\x05\x08\0" + plain),
        (0x0800, option),
        (0x0800, fragment),
    ):
        frame = ethernet(a.mac, other.mac, kind, payload)
        s.packet(3, frame)
        s.leaves(1, frame)
    s.say("A short frame of another kind; one whose address is to be dropped.")
    frame = ethernet(b.mac, other.mac, 0x1234, b"\x01")
    s.packet(3, frame)
    s.leaves(2, frame)
    s.packet(3, ethernet(bytes.fromhex("0badbadbad00"), other.mac, 0x1234, b"\x01"))
    s.say("The job has seen nothing of it.")
    s.chunk(5, 1, 0, gives=total(s.values(0, 0), s.values(1, 0)))
    s.count("packets_received", 5, 2)


@_forwarding
def cut_frames(s: Script) -> None:
    """Frames that end before their own lengths do, and frames that are padded."""
    s.job(5, 2)
    sender = s.station(5, 0)
    whole = to_switch(sender, s.message(5, 0, s.values(0, 0)), 1)
    s.say("Cut inside the elements, inside the header of the protocol, and one byte short.")
    for length in (200, 46, len(whole) - 1):
        s.packet(1, whole[:length])
    s.say("An IPv4 header whose checksum is wrong.")
    s.packet(1, whole[:24] + b"\x12\x34" + whole[26:])
    s.count("dropped_truncated", 5, 3)
    s.count("dropped_bad_checksum", NO_JOB, 1)
    s.say("The slot is still empty.")
    s.chunk(5, 1, 0)
    s.chunk(5, 0, 0, gives=total(s.values(0, 0), s.values(1, 0)))


@_script
def narrow_lanes(s: Script) -> None:
    """Lanes of 8 and 16 bits: sums are whole in the switch, and shifted as far as they need in each result."""
    s.job(5, 3, window=2)
    top, bottom = 0x7F7F7F7F, 0x80808080
    mixed = [(37 * i + 11) * 0x01234567 & 0xFFFFFFFF for i in range(s.elements)]
    for number, (title, kind, parts) in enumerate(
        [
            ("8 bits, small: nothing is shifted.", SUM8, [[0x01FF02FE + i for i in range(64)]] * 3),
            ("8 bits, the largest and the smallest: halves go to even, and what is rounded beyond a lane is held.", SUM8,
             [[top, bottom] * 32, [top, bottom] * 32, [0x7F7E7D01, 0x80818203] * 32]),
            ("8 bits, of all kinds, and one lane alone that is long.", SUM8, [mixed, mixed[::-1], [0] * 63 + [0x7F]]),
            ("16 bits, the largest and the smallest.", SUM16, [[0x7FFF7FFF, 0x80008000] * 32] * 3),
            ("16 bits, of all kinds.", SUM16, [mixed, mixed[::-1], mixed[1:] + mixed[:1]]),
            ("32 bits in the same slots.", SUM, [mixed] * 3),
            ("8 bits again.", SUM8, [mixed] * 3),
        ]
    ):  # fmt: skip
        s.say(title)
        bits = LANE_BITS[kind]
        gives, shift = (total(*parts), -128) if kind == SUM else narrow_total(bits, *parts)
        for rank, part in enumerate(parts[:-1]):
            s.chunk(5, rank, number, data=part, kind=kind, e0=rank)
        s.chunk(5, 2, number, data=parts[-1], kind=kind, e0=2, gives=gives, result_e1=shift)
        s.say("The same again, for a worker that has not got it.")
        s.chunk(5, 1, number, data=parts[1], kind=kind, e0=2, gives=gives, only=1, result_e1=shift)
    s.say("Lanes of another width than the chunk's.")
    s.chunk(5, 0, 7, kind=SUM8)
    s.chunk(5, 1, 7, kind=SUM16)
    s.count("dropped_wrong_size", 5, 1)
    s.count("results_retransmitted", 5, 7)


@_script
def asks(s: Script) -> None:
    """Has my packet come? Who asks is told, with 1 or 0, or gets the result; nothing changes, and nobody else hears of it."""
    s.job(5, 2, window=2)
    s.job(6, 2, window=2, pool_base=2, paper=True, first_port=3)

    def told(rank: int, tsi: int, come: int, **fields: int) -> None:
        question = s.message(5, tsi, kind=ASK, e0=-3, **fields)
        s.send(5, rank, question, answered=[(rank, s.message(5, tsi, kind=ASK, e0=come, **fields))])

    def result(rank: int, tsi: int, given: Values, question: dict[str, int], **fields: int) -> None:
        answer = s.message(5, tsi, given, size=SIZE_CODES[s.elements] ^ ASKED, **fields)
        s.send(5, rank, s.message(5, tsi, kind=ASK, **question), answered=[(rank, answer)])

    s.say(
        "An unused slot; then one of two has come. The chunk a window later has not, since its turn has not."
    )
    for rank in range(2):
        told(rank, 0, 0)
    s.chunk(5, 1, 0, e1=7)
    for rank in range(2):
        told(rank, 0, rank)
        told(rank, 0, rank, to_one=1, e1=0)
        told(rank, 2, 0)
    s.say("Complete: the result, marked as an answer; whose packet comes again gets it without the mark.")
    sums = total(s.values(0, 0), s.values(1, 0))
    s.chunk(5, 0, 0, gives=sums, result_e1=7)
    for rank in range(2):
        result(rank, 0, sums, {}, e1=7)
        s.chunk(5, rank, 0, gives=sums, result_e1=7, only=rank)
    s.say("Elements for worker 1 alone, and for all but worker 1.")
    for rank, way in ((0, "to_one"), (1, "to_one"), (0, "but_one"), (1, "but_one")):
        given = rank == (way == "to_one")
        fields = {"kind": SUM if given else ABSENT, "e1": 7, way: 1}
        result(rank, 0, sums if given else (), {"e1": 1, way: 1}, **fields)
    s.say("Exponents, and a chunk that all were absent from.")
    for tsi, kind in ((1, EXPONENTS), (2, ABSENT)):
        s.send(5, 0, s.message(5, tsi, kind=kind, e0=4))
        told(0, tsi, 1)
        answer = s.message(5, tsi, kind=kind, e0=4)
        s.send(5, 1, s.message(5, tsi, kind=kind), answered=[(0, answer), (1, answer)])
        result(1, tsi, (), {}, kind=kind, e0=4)
        result(0, tsi, (), {"to_one": 1, "e1": 1}, kind=kind, e0=4)
    s.say("The slot has gone on: too late to ask.")
    s.chunk(5, 0, 4)
    s.send(5, 0, s.message(5, 0, kind=ASK))
    s.send(5, 1, s.message(5, 0, kind=ASK))
    told(0, 4, 1)
    told(1, 4, 0)
    told(1, 0x80000003, 0, slot=1, version=1)
    s.say("What is wrong with a packet is wrong with a question.")
    s.send(5, 0, s.message(5, 4, kind=ASK, version=1))
    s.send(5, 0, s.message(5, 4, kind=ASK, slot=1))
    s.send(5, 0, s.message(5, 4, kind=ASK, slot=2))
    s.send(5, 0, s.message(5, 4, kind=ASK, size=0))
    s.send(5, 0, s.message(5, 4, s.values(0, 4), kind=ASK))
    s.send(5, 0, s.message(5, 4, kind=ASK, number=6))
    s.send(5, 0, s.message(5, 4, kind=ASK)[:-1])
    s.send(5, 0, s.message(5, 4, kind=ASK, size=SIZE_CODES[s.elements] ^ ASKED))
    s.send(5, 0, s.message(5, 4, kind=ASK, to_one=1, but_one=1))
    s.chunk(5, 1, 4, gives=total(s.values(0, 4), s.values(1, 4)))
    lanes = int(s.elements == SMALL)
    if lanes:
        s.say("Lanes.")
        parts = [[0x7F7F7F7F, 0x80808080] * 32] * 2
        gives, shift = narrow_total(8, *parts)
        s.chunk(5, 0, 3, data=parts[0], kind=SUM8)
        s.chunk(5, 1, 3, data=parts[1], kind=SUM8, gives=gives, result_e1=shift)
        result(0, 3, gives, {}, kind=SUM8, e1=shift)
    s.say("The published machine has no word for it.")
    s.send(6, 0, s.message(6, 0, kind=ASK))
    for name, number in (
        ("asks_answered", 13), ("results_retransmitted", 12 + lanes), ("dropped_stale", 2), ("dropped_wrong_version", 2),
        ("dropped_wrong_slot", 1), ("dropped_wrong_size", 3), ("dropped_wrong_job", 1), ("dropped_truncated", 1),
        ("dropped_bad_header", 1), ("chunks_completed", 4 + lanes),
    ):  # fmt: skip
        s.count(name, 5, number)
    s.count("dropped_bad_header", 6, 1)


@_script
def found_by_the_search(s: Script) -> None:
    """The published machine gives a wrong sum after one retransmission: the way that `switchml check --paper` finds."""
    finding = Search(Configuration(chunks=(3,), retransmissions=1, paper=True)).run()
    s.lines = packet_script(finding, PROGRAM).splitlines()


for _name in ("asks", "basic_reduction", "exponents", "stale_packet", "truncated"):
    SCRIPTS[f"{_name}_{LARGE}"] = SCRIPTS[_name]


def elements_of(name: str) -> int:
    """Elements of a script's packets: its program is the one compiled for as many."""
    return LARGE if name.endswith(f"_{LARGE}") else SMALL


def made(name: str) -> str:
    """The text of a script."""
    script = Script(elements_of(name))
    SCRIPTS[name](script)
    return script.text(SCRIPTS[name].__doc__ or "")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.stf"):
        if old.stem not in SCRIPTS:
            old.unlink()
    for name in SCRIPTS:
        (FOLDER / f"{name}.stf").write_text(made(name))


if __name__ == "__main__":
    main()
