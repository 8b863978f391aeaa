"""The switch: a program, its state, and what a control plane does to it."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from typing_extensions import override

from switchml.p4runtime.entries import (
    ActionCall,
    CloneSession,
    CounterValue,
    Digest,
    GroupMember,
    Match,
    MatchKind,
    MeterRates,
    PacketIn,
    Replica,
    TableEntry,
)
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4.action_profiles import Profile
from switchml.switch_emulator.p4.compiler import compile_program
from switchml.switch_emulator.p4.egress_queues import EgressQueues, QueueLimits
from switchml.switch_emulator.p4.match import FieldMatch
from switchml.switch_emulator.p4.match_tables import Entry, Table
from switchml.switch_emulator.p4.packet import Packet
from switchml.switch_emulator.p4.packet_io import controller_headers
from switchml.switch_emulator.p4.places import at
from switchml.switch_emulator.p4.program_model import Program
from switchml.switch_emulator.p4.stateful import CounterArray, Meter, MeterArray
from switchml.switch_emulator.p4.traffic import TrafficManager
from switchml.switch_emulator.runtime import Runtime

T = TypeVar("T")


class P4Switch(Runtime):
    """A v1model switch that behaves as BMv2's simple_switch.

    Args:
        program: from load_program.
        p4info: serialised, needed only for the headers of packets to and from the control plane.
        clock: microseconds since the switch started.
        cpu_port: frames that leave there go to the receiver of on_packet_in, as long as there is one.
        queues: what the queues of its ports allow. Packets then leave by `depart`, when their turn comes; None = there are
            no queues, and all leaves by `process`.
        trace: gets a line for everything that happens to a packet; the functions of a switch without one have no trace of
            it.

    Raises:
        UnsupportedProgramError: the program uses something that this target has not got.
    """

    def __init__(
        self,
        program: Program,
        *,
        p4info: bytes = b"",
        seed: int = 0,
        clock: Callable[[], int] | None = None,
        cpu_port: int | None = 510,
        drop_port: int = 511,
        queues: QueueLimits | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        started = time.monotonic_ns()
        self._clock = clock or (lambda: (time.monotonic_ns() - started) // 1000)
        self.program = program
        self.cpu_port = cpu_port
        self._lock = threading.RLock()
        self._compiled = compile_program(
            program, rng=random.Random(seed), clock=self._clock, drop_port=drop_port, trace=trace
        )
        self._multicast: dict[int, Sequence[Replica]] = {}
        self._clones: dict[int, CloneSession] = {}
        self._queues: EgressQueues[Packet] | None = None if queues is None else EgressQueues(queues)
        with at("the program's metadata", outermost=True):
            self._traffic = TrafficManager(
                self._compiled,
                clock=self._clock,
                drop_port=drop_port,
                multicast_groups=self._multicast,
                clone_sessions=self._clones,
                queues=self._queues,
                trace=trace,
            )
        self._packet_in_header, self._packet_out_header = controller_headers(p4info)
        self._receive_digest: Callable[[Digest], None] | None = None
        self._receive_packet: Callable[[PacketIn], None] | None = None
        self._receive_idle: Callable[[str, TableEntry], None] | None = None
        self._transmit: Callable[[Sequence[tuple[int, bytes]]], None] | None = None
        self._unsent: list[tuple[int, bytes]] = []

    @property
    def source(self) -> str:
        """The Python source the program was translated into."""
        return self._compiled.source

    @property
    def abandoned(self) -> int:
        """Packets given up because their frame recirculated without end."""
        return self._traffic.abandoned

    # Packets

    def process(self, port: int, frame: bytes) -> list[tuple[int, bytes]]:
        """Everything that leaves because of this frame, in order: (port, frame).

        Raises PipelineError for a packet the program has no result for; the switch goes on with the next.
        """
        with self._lock:
            sent = self._traffic.process(port, frame)
            if self._unsent:
                sent = self._unsent + sent
                self._unsent = []
        return self._delivered(sent)

    def depart(self) -> list[tuple[int, bytes]] | None:
        """As `process`, for the next packet whose turn has come in its queue; None = nobody's has."""
        with self._lock:
            sent = self._traffic.depart()
        return None if sent is None else self._delivered(sent)

    def until_departure(self) -> float:
        """Seconds until `depart` has something to do, 0 = now; infinity = nothing waits in a queue."""
        if self._queues is None:
            return math.inf
        with self._lock:
            return max(0.0, self._queues.due() - self._clock()) / 1e6

    def queue_counters(self) -> dict[str, int]:
        """Packets that no queue took, by name."""
        queues = self._queues
        if queues is None:
            return {}
        return {
            "dropped_queue_full": queues.dropped_queue_full,
            "dropped_no_queue": queues.dropped_no_queue,
        }

    def _delivered(self, sent: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Those that leave by ports; what the control plane gets, it has got."""
        with self._lock:
            digests = self._traffic.digests
            if digests:
                self._traffic.digests = []
        if digests and self._receive_digest is not None:
            for digest in digests:
                self._receive_digest(digest)
        receive = self._receive_packet
        if receive is None or self.cpu_port is None:
            return sent
        kept = []
        for out_port, out_frame in sent:
            if out_port == self.cpu_port:
                receive(self._packet_in_header.split(out_frame))
            else:
                kept.append((out_port, out_frame))
        return kept

    def on_transmit(self, send: Callable[[Sequence[tuple[int, bytes]]], None] | None) -> None:
        """Where frames go that leave because of a packet-out. Without it the next `process` returns them first.

        Called for every packet-out, if with nothing: it may wait in a queue.
        """
        self._transmit = send

    @override
    def packet_out(self, payload: bytes, metadata: Mapping[str, int]) -> None:
        if self.cpu_port is None:
            raise RuntimeRequestError("FAILED_PRECONDITION", "this switch has no CPU port")
        sent = self.process(self.cpu_port, self._packet_out_header.join(payload, metadata))
        if self._transmit is None:
            with self._lock:
                self._unsent += sent
            return
        self._transmit(sent)

    @override
    def on_digest(self, receive: Callable[[Digest], None] | None) -> None:
        self._receive_digest = receive

    @override
    def on_packet_in(self, receive: Callable[[PacketIn], None] | None) -> None:
        self._receive_packet = receive

    @override
    def on_idle_timeout(self, receive: Callable[[str, TableEntry], None] | None) -> None:
        self._receive_idle = receive

    def check_idle_timeouts(self) -> None:
        """Report entries that no packet has hit for their idle timeout; each again when it passes once more."""
        expired = []
        with self._lock:
            now = self._clock()
            for name, table in self._compiled.tables.items():
                if not table.info.timeout:
                    continue
                for entry in table.entries.values():
                    timeout = entry.request.idle_timeout_ns // 1000
                    if timeout and now - entry.last_hit >= timeout:
                        entry.last_hit = now
                        expired.append((name, entry.request))
        if self._receive_idle is not None:
            for name, request in expired:
                self._receive_idle(name, request)

    def time_since_last_hit(self, table: str, key: Mapping[str, Match], priority: int = 0) -> int:
        """Nanoseconds since a packet hit an entry, or since it was inserted or reported idle."""
        with self._lock:
            return (self._clock() - self._table(table).entry(key, priority).last_hit) * 1000

    # Tables

    @override
    def insert(self, table: str, entry: TableEntry) -> None:
        with self._lock:
            self._table(table).insert(entry)

    @override
    def modify(self, table: str, entry: TableEntry) -> None:
        with self._lock:
            self._table(table).modify(entry)

    @override
    def delete(self, table: str, key: Mapping[str, Match], priority: int = 0) -> None:
        with self._lock:
            self._table(table).delete(key, priority)

    @override
    def entries(self, table: str) -> Sequence[TableEntry]:
        with self._lock:
            return [entry.request for entry in self._table(table).entries.values()]

    @override
    def set_default(self, table: str, action: ActionCall | None) -> None:
        with self._lock:
            self._table(table).set_default(action)

    @override
    def default(self, table: str) -> ActionCall:
        with self._lock:
            return self._table(table).miss.request

    @override
    def read_direct_counter(self, table: str, key: Mapping[str, Match], priority: int = 0) -> CounterValue:
        with self._lock:
            entry = self._counted(table, key, priority)
            return CounterValue(entry.packets, entry.bytes)

    @override
    def write_direct_counter(
        self, table: str, key: Mapping[str, Match], value: CounterValue, priority: int = 0
    ) -> None:
        with self._lock:
            entry = self._counted(table, key, priority)
            entry.packets, entry.bytes = value.packets, value.bytes

    @override
    def set_direct_meter(
        self, table: str, key: Mapping[str, Match], rates: MeterRates | None, priority: int = 0
    ) -> None:
        with self._lock:
            entry = self._metered(table, key, priority)
            if rates is None:
                entry.meter = None
                return
            if entry.meter is None:
                entry.meter = Meter()
            entry.meter.configure(rates, self._clock())

    @override
    def get_direct_meter(self, table: str, key: Mapping[str, Match], priority: int = 0) -> MeterRates | None:
        with self._lock:
            entry = self._metered(table, key, priority)
            return None if entry.meter is None else entry.meter.rates

    def _table(self, name: str) -> Table:
        return _need(self._compiled.tables, name, "table")

    def _counted(self, table: str, key: Mapping[str, Match], priority: int) -> Entry:
        if not self._table(table).info.counters:
            raise RuntimeRequestError("INVALID_ARGUMENT", f"{table} has no direct counter")
        return self._table(table).entry(key, priority)

    def _metered(self, table: str, key: Mapping[str, Match], priority: int) -> Entry:
        if not self._table(table).info.direct_meter:
            raise RuntimeRequestError("INVALID_ARGUMENT", f"{table} has no direct meter")
        return self._table(table).entry(key, priority)

    # Action profiles and selectors

    @override
    def insert_member(self, profile: str, member: int, action: ActionCall) -> None:
        with self._lock:
            self._profile(profile).insert_member(member, action)

    @override
    def modify_member(self, profile: str, member: int, action: ActionCall) -> None:
        with self._lock:
            self._profile(profile).modify_member(member, action)

    @override
    def delete_member(self, profile: str, member: int) -> None:
        with self._lock:
            self._profile(profile).delete_member(member)

    @override
    def members(self, profile: str) -> Mapping[int, ActionCall]:
        with self._lock:
            return {member: call.request for member, call in self._profile(profile).members.items()}

    @override
    def insert_group(
        self, profile: str, group: int, members: Sequence[GroupMember], max_size: int = 0
    ) -> None:
        with self._lock:
            if max_size and sum(m.weight for m in members) > max_size:
                raise RuntimeRequestError(
                    "INVALID_ARGUMENT", f"group {group} has more than {max_size} members"
                )
            self._profile(profile).insert_group(group, members)

    @override
    def modify_group(self, profile: str, group: int, members: Sequence[GroupMember]) -> None:
        with self._lock:
            self._profile(profile).modify_group(group, members)

    @override
    def delete_group(self, profile: str, group: int) -> None:
        with self._lock:
            self._profile(profile).delete_group(group)

    @override
    def groups(self, profile: str) -> Mapping[int, Sequence[GroupMember]]:
        with self._lock:
            return dict(self._profile(profile).groups)

    def _profile(self, name: str) -> Profile:
        return _need(self._compiled.profiles, name, "action profile")

    # Packet replication

    @override
    def set_multicast_group(self, group: int, replicas: Sequence[Replica] | None) -> None:
        with self._lock:
            if replicas is None:
                if self._multicast.pop(group, None) is None:
                    raise RuntimeRequestError("NOT_FOUND", f"there is no multicast group {group}")
            elif not 0 < group < 1 << 16:
                raise RuntimeRequestError("INVALID_ARGUMENT", f"multicast group {group}: 1 to 65535")
            else:
                self._multicast[group] = tuple(replicas)

    @override
    def multicast_groups(self) -> Mapping[int, Sequence[Replica]]:
        with self._lock:
            return dict(self._multicast)

    @override
    def set_clone_session(self, session: int, value: CloneSession | None) -> None:
        with self._lock:
            if value is None:
                if self._clones.pop(session, None) is None:
                    raise RuntimeRequestError("NOT_FOUND", f"there is no clone session {session}")
            elif not 0 <= session < 1 << 15:
                raise RuntimeRequestError("INVALID_ARGUMENT", f"clone session {session}: 0 to 32767")
            else:
                self._clones[session] = value

    @override
    def clone_sessions(self) -> Mapping[int, CloneSession]:
        with self._lock:
            return dict(self._clones)

    # State

    @override
    def read_counter(self, counter: str, index: int | None = None) -> Sequence[CounterValue]:
        with self._lock:
            array = self._counter(counter, index)
            positions = range(len(array.packets)) if index is None else [index]
            return [CounterValue(array.packets[i], array.bytes[i]) for i in positions]

    @override
    def write_counter(self, counter: str, index: int, value: CounterValue) -> None:
        with self._lock:
            array = self._counter(counter, index)
            array.packets[index], array.bytes[index] = value.packets, value.bytes

    def _counter(self, name: str, index: int | None) -> CounterArray:
        array = _need(self._compiled.counters, name, "counter")
        _check_index(name, index, len(array.packets))
        return array

    @override
    def set_meter(self, meter: str, index: int, rates: MeterRates | None) -> None:
        with self._lock:
            self._meter(meter, index).configure(index, rates)

    @override
    def get_meter(self, meter: str, index: int) -> MeterRates | None:
        with self._lock:
            found = self._meter(meter, index).meters.get(index)
            return None if found is None else found.rates

    def _meter(self, name: str, index: int) -> MeterArray:
        array = _need(self._compiled.meters, name, "meter")
        _check_index(name, index, array.size)
        return array

    @override
    def read_register(self, register: str, index: int | None = None) -> Sequence[int]:
        with self._lock:
            cells = _need(self._compiled.registers, register, "register")
            _check_index(register, index, self.program.registers[register].size)
            return cells.read() if index is None else [cells.get(index)]

    @override
    def write_register(self, register: str, index: int | None, value: int) -> None:
        with self._lock:
            cells = _need(self._compiled.registers, register, "register")
            info = self.program.registers[register]
            _check_index(register, index, info.size)
            if not 0 <= value < 1 << info.width:
                raise RuntimeRequestError(
                    "INVALID_ARGUMENT", f"{value} does not fit {register}: {info.width} bits"
                )
            if index is None:
                cells.fill(value)
            else:
                cells.set(index, value)

    @override
    def set_value_set(self, name: str, members: Sequence[Sequence[Match]]) -> None:
        with self._lock:
            value_set = _need(self._compiled.value_sets, name, "value set")
            value_set.replace([tuple(_field_match(match) for match in member) for member in members])


def _need(items: Mapping[str, T], name: str, what: str) -> T:
    if name not in items:
        raise RuntimeRequestError("NOT_FOUND", f"the program has no {what} {name}")
    return items[name]


def _check_index(name: str, index: int | None, size: int) -> None:
    if index is not None and not 0 <= index < size:
        raise RuntimeRequestError("NOT_FOUND", f"{name} has no index {index}: it has {size}")


def _field_match(match: Match) -> FieldMatch:
    match match.kind:
        case MatchKind.TERNARY:
            return FieldMatch(match.value & match.extra, match.extra)
        case MatchKind.RANGE:
            return FieldMatch(0, -1, match.value, match.extra)
        case MatchKind.LPM:
            raise RuntimeRequestError("INVALID_ARGUMENT", "a value set's prefix is given as a ternary match")
    return FieldMatch(match.value, (1 << 4096) - 1)
