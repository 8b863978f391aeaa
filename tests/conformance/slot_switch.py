"""The plain slot machine as a switch: frames in, frames out, with the tables, registers and counters of our P4 program.

Only `admit`, `admit_paper`, `inquire`, `apply` and the pool are the emulator's own; what is around them is written once more
here, from docs/protocol.md. Run as a program it serves calls from its standard input, so that NUMBA_DISABLE_JIT=1 can hold for
it alone.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from switchml.aggregation.slot_machine import (
    AHEAD,
    COMPLETE,
    DUPLICATE,
    MISFIT,
    RETRANSMIT,
    STALE,
    UNSEEN,
    WAITING,
    admit,
    admit_paper,
    apply,
    apply_lanes,
    clear_slots,
    inquire,
    new_pool,
)
from switchml.p4runtime.entries import ActionCall, CounterValue, Match, Replica, TableEntry
from switchml.packets.ethernet import HEADERS_BYTES, checksum
from switchml.protocol.header import HEADER_BYTES, build_header, parse_header
from switchml.protocol.messages import (
    ABSENT,
    ASK,
    ASKED,
    ELEMENT_BYTES,
    EXPONENTS,
    LANE_BITS,
    PROBE,
    SUM,
    SUM8,
    SUM16,
    size_code,
)

SLOTS = 1024
NO_JOB = 256
NARROW_ELEMENTS = 64
"""int32 of a packet, in the program that knows narrow lanes."""


class Member(NamedTuple):
    """The arguments of set_worker."""

    worker: int
    bit_of_worker: int
    workers: int
    everyone: int
    pool_base: int
    window: int
    paper: int
    epoch: int
    multicast_group: int


class SlotSwitch:
    """A switch of packets with `elements` int32."""

    def __init__(self, elements: int) -> None:
        self._elements, self._size = elements, size_code(ELEMENT_BYTES * elements)
        self._narrow = elements == NARROW_ELEMENTS
        self._room = 4 * elements
        self._pool = new_pool(SLOTS, 2 * SLOTS * self._room)
        self._epochs = np.zeros(2 * SLOTS, np.uint8)
        self._tables: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {}
        self._groups: dict[int, Sequence[Replica]] = {}
        self._counters: dict[str, Counter[int]] = {}
        # Of the packet just taken: the rank that wants the answer, if one alone does, and the copy's exponent.
        self._named = self._highest_e1 = 0

    # What the control plane does

    def insert(self, table: str, entry: TableEntry) -> None:
        assert isinstance(entry.action, ActionCall)
        name = table.rpartition(".")[2]
        if name in ("forward", "station"):
            raise NotImplementedError("the slot machine forwards nothing")
        key = tuple(match.value for match in entry.key.values())
        self._tables.setdefault(name, {})[key] = entry.action.arguments

    def delete(self, table: str, key: Mapping[str, Match], priority: int = 0) -> None:
        del self._tables[table.rpartition(".")[2]][tuple(match.value for match in key.values())]

    def set_multicast_group(self, group: int, replicas: Sequence[Replica] | None) -> None:
        self._groups[group] = replicas or ()

    def read_counter(self, counter: str, index: int | None = None) -> Sequence[CounterValue]:
        counted = self._counters.get(counter.rpartition(".")[2], Counter())
        return [CounterValue(counted[row]) for row in (range(NO_JOB + 1) if index is None else (index,))]

    def read_register(self, register: str, index: int | None = None) -> Sequence[int]:
        found = [int(value) for value in self._register(register.rpartition(".")[2])]
        return found if index is None else [found[index]]

    def write_register(self, register: str, index: int, value: int) -> None:
        """Of a slot's copy."""
        name, slots = register.rpartition(".")[2], self._pool.slots
        if name == "used":
            self._epochs[index], slots["used"][index] = value, value != 0
        elif name == "seen":
            slots["seen"][index] = [value, 0, 0, 0]
        else:
            slots[name][index] = value

    def read_cells(self, registers: Sequence[str], cells: Sequence[int]) -> dict[str, list[int]]:
        """The same cells of several registers."""
        return {
            name: [int(self._register(name.rpartition(".")[2])[cell]) for cell in cells] for name in registers
        }

    def _register(self, name: str) -> Any:
        slots = self._pool.slots
        if name == "elements_added":
            return [self._counters.get(name, Counter())[row] for row in range(NO_JOB + 1)]
        if name == "used":
            return self._epochs
        if name == "seen":
            return slots["seen"][:, 0]
        if name == "kind":
            return np.where(self._epochs == 0, 0, slots["kind"])
        if name in ("e0", "e1"):
            return (
                slots[name].view(np.uint8) if slots[name].flags.contiguous else slots[name].astype(np.uint8)
            )
        if name.startswith("sum_"):
            return self._pool.sums.reshape(2 * SLOTS, self._room)[:, int(name.removeprefix("sum_"))]
        if name.startswith("lanes_"):
            return self._epochs * 0  # as in the native pipeline: nobody asks
        return slots[name]

    # Packets

    def process(self, port: int, frame: bytes) -> list[tuple[int, bytes]]:
        """An IPv4 frame for the switch's own address with a UDP datagram for its aggregation port; what leaves."""
        address, source = int.from_bytes(frame[26:30], "big"), int.from_bytes(frame[34:36], "big")
        own = self._tables["own_address"][int.from_bytes(frame[30:34], "big"),][0]
        known = self._tables["sender_table"].get((address, source))
        if known is None:
            self._count("packets_received", NO_JOB)
            self._count("dropped_unknown_sender", NO_JOB)
            return []
        job = known[0]
        self._count("packets_received", job)
        packet = np.frombuffer(frame[HEADERS_BYTES:], np.uint8).copy()
        reason, found = self._take(job, (address, source, job), packet)
        if reason:
            self._count(reason, job)
            return []
        if found is None:
            return []
        member, answer, everyone = found
        left = []
        copies = (
            [(replica.port, replica.instance - 1) for replica in self._groups.get(member.multicast_group, ())]
            if everyone and member.multicast_group
            else [(port, member.worker)]
        )
        for out, worker in copies:
            self._count("packets_sent", job)
            told = self._for_worker(answer, worker)
            left.append((out, self._addressed(frame, told, own, self._tables["worker_rewrite"][job, worker])))
        return left

    def _for_worker(self, answer: bytes, worker: int) -> bytes:
        """What that worker gets of an answer: of one that is for others, the header."""
        header = parse_header(answer)
        apart = header.msg_type != ASK and (header.to_one or header.but_one)
        if not apart or (worker == self._named) == bool(header.to_one):
            return answer
        return build_header(header._replace(msg_type=ABSENT, e1=self._highest_e1))

    def _addressed(self, frame: bytes, answer: bytes, own: int, worker: tuple[int, ...]) -> bytes:
        """The answer behind the headers of the packet that brought it about, turned round."""
        mac, address, port = worker
        head = bytearray(frame[:HEADERS_BYTES])
        head[0:6], head[6:12] = mac.to_bytes(6, "big"), own.to_bytes(6, "big")
        head[22] = 64
        head[26:30], head[30:34] = frame[30:34], address.to_bytes(4, "big")
        head[16:18] = (len(answer) + 28).to_bytes(2, "big")
        head[38:40] = (len(answer) + 8).to_bytes(2, "big")
        head[24:26] = b"\0\0"
        head[24:26] = checksum(bytes(head[14:34])).to_bytes(2, "big")
        head[34:36], head[36:38], head[40:42] = frame[36:38], port.to_bytes(2, "big"), b"\0\0"
        return bytes(head) + answer

    def _take(
        self, job: int, sender: tuple[int, int, int], packet: Any
    ) -> tuple[str, tuple[Member, bytes, bool] | None]:
        """Why it is dropped, or what is answered, and whether to everyone."""
        if packet.size < HEADER_BYTES:
            return "dropped_truncated", None
        header = parse_header(packet)
        kind, tsi, slot, version = header.msg_type, header.tsi, header.slot, header.version
        narrow = kind in (SUM16, SUM8) and self._narrow
        ways = header.to_one + header.but_one
        known = kind in (SUM, ABSENT, ASK) or narrow or (kind in (EXPONENTS, PROBE) and not ways)
        if not known or ways > 1:
            return "dropped_bad_header", None
        if header.job_number != job:
            return "dropped_wrong_job", None
        member = Member(*self._tables["job_table"][sender])
        if kind == ASK and member.paper:
            return "dropped_bad_header", None
        if kind == PROBE:
            self._count("probes_answered", job)
            return "", (member, packet.tobytes(), False)
        elements = 32 // LANE_BITS[kind] * self._elements if LANE_BITS[kind] else 0
        payload, wanted = packet.size - HEADER_BYTES, elements * LANE_BITS[kind] // 8
        if header.size != self._size or payload > wanted:
            return "dropped_wrong_size", None
        if payload < wanted:
            return "dropped_truncated", None
        if slot >= member.window:
            return "dropped_wrong_slot", None
        if not member.paper and (slot, version) != (tsi % member.window, tsi // member.window % 2):
            return "dropped_wrong_version", None
        return self._aggregate(job, member, 2 * (member.pool_base + slot) + version, packet)

    def _aggregate(
        self, job: int, member: Member, index: int, packet: Any
    ) -> tuple[str, tuple[Member, bytes, bool] | None]:
        slots, header = self._pool.slots, parse_header(packet)
        if self._epochs[index] not in (0, member.epoch):
            clear_slots(slots, index // 2, 1)
            self._epochs[index] = self._epochs[index ^ 1] = 0
        if header.msg_type == ASK:
            verdict = inquire(slots, index, member.worker, member.workers, header.tsi)
        else:
            verdict = (admit_paper if member.paper else admit)(
                slots,
                index,
                member.worker,
                member.workers,
                member.window,
                header.tsi,
                header.msg_type,
                header.e0,
                header.e1,
            )
        if verdict in (UNSEEN, WAITING):
            self._count("asks_answered", job)
            answer = header._replace(e0=int(verdict == WAITING))
            return "", (member, build_header(answer), False)
        refused = {
            DUPLICATE: "dropped_duplicate", STALE: "dropped_stale", MISFIT: "dropped_wrong_size", AHEAD: "dropped_ahead",
        }  # fmt: skip
        if verdict in refused:
            return refused[verdict], None
        self._epochs[index] = member.epoch
        kind = int(slots[index]["kind"])
        bits = LANE_BITS[kind]
        lanes = packet[HEADER_BYTES:].copy().view(f"u{bits // 8 or 1}")
        out = np.zeros(32 * self._elements // bits if bits else 0, lanes.dtype)
        sums, e1 = (
            self._pool.sums[index * self._room : index * self._room + out.size],
            int(slots[index]["e1"]),
        )
        if bits == 32:
            apply(verdict, lanes, sums, out)
        elif bits:
            e1 = apply_lanes(verdict, lanes, 0, sums, out)
        if verdict == RETRANSMIT:
            self._count("results_retransmitted", job)
        else:
            self._counters.setdefault("elements_added", Counter())[job] += lanes.size
        if verdict != RETRANSMIT and verdict < COMPLETE:
            return "", None
        if verdict >= COMPLETE:
            self._count("chunks_completed", job)
        self._named, self._highest_e1 = header.e1 & 0xFF, int(slots[index]["e1"])
        answer = header._replace(
            msg_type=kind,
            size=header.size ^ (ASKED if header.msg_type == ASK else 0),
            to_one=header.to_one if bits else 0,
            but_one=header.but_one if bits else 0,
            e0=int(slots[index]["e0"]),
            e1=e1,
        )
        return "", (member, build_header(answer) + out.tobytes(), verdict >= COMPLETE)

    def _count(self, name: str, row: int) -> None:
        self._counters.setdefault(name, Counter())[row] += 1


def serve() -> None:
    """Calls, pickled, from standard input; results, or what they raised, to standard output."""
    calls, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    switch: SlotSwitch | None = None
    while True:
        try:
            name, arguments = pickle.load(calls)
        except EOFError:
            return
        try:
            if name == "new":
                switch, result = SlotSwitch(*arguments), (True, None)
            else:
                result = (True, getattr(switch, name)(*arguments))
        except Exception as error:
            result = (False, repr(error))
        pickle.dump(result, results)
        results.flush()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(__file__))
    serve()
