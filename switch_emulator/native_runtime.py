"""The native aggregation pipeline, programmed like a P4 switch: through the P4Info of our P4 program, by the same names.

Tables are kept as they are written, and what they say about workers is brought into the pipeline's own tables after every
change: a worker is one whose address and port are in `job_table` and, for the same job, in `sender_table`; `worker_rewrite` may
send its results somewhere else; `claim` says by what secret it proves its address; more entries of it in `job_table`, with other
numbers, let its job's packets carry any. Registers and counters are the pipeline's own state. The rest of the program (addresses,
stations, forwarding, replicas) is taken and has no effect: sockets do that work here, so every worker is reachable and no digest
is ever sent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from switchml.control.target import JobProgram, WorkerProgram
from switchml.errors import SwitchMLError
from switchml.p4runtime.entries import (
    ActionCall,
    CounterValue,
    Match,
    MatchKind,
    Replica,
    TableAction,
    TableEntry,
)
from switchml.p4runtime.refusals import (
    RuntimeRequestError,
    exists,
    invalid,
    not_found,
    out_of_range,
    too_many,
    unimplemented,
)
from switchml.p4runtime.schema import Schema
from switchml.protocol.counters import SWITCH_COUNTERS, indices
from switchml.protocol.messages import ELEMENT_BYTES, FLOAT32, PAYLOADS
from switchml.protocol.probes import secret_on_the_wire, ticket_of_secret
from switchml.switch_emulator.native_target import POOL_SLOTS, EmulatorTarget
from switchml.switch_emulator.pipeline import NO_JOB
from switchml.switch_emulator.runtime import Device, Runtime

_JOB_TABLE = "SwitchIngress.job_table"
_SENDER_TABLE = "SwitchIngress.sender_table"
_WORKER_REWRITE = "SwitchEgress.worker_rewrite"
_CLAIM = "SwitchIngress.claim"
_SET_WORKER = "SwitchIngress.set_worker"
_NEEDED = (_JOB_TABLE, _SENDER_TABLE, _WORKER_REWRITE)
_LANES = "SwitchIngress.lanes_even"
_SUM = re.compile(r"SwitchIngress\.sum_(\d+)")
_SEEN_BITS = 64
_FRAME_BYTES = 42  # Ethernet, IPv4 and UDP headers, which a P4 program counts as well
_AT = indices(SWITCH_COUNTERS)
_BYTES_OF = {"packets_received": "bytes_received", "packets_sent": "bytes_sent"}

Key = tuple[int, ...]
"""Values of a key's fields, in the order of the table's."""


@dataclass(frozen=True)
class _Membership:
    """What the tables say about one worker."""

    job: int
    rank: int
    address: str
    port: int
    results: tuple[str, int]  # where its results go
    ticket: str  # what proves its address; "" = nothing has to


@dataclass(frozen=True)
class _Layout:
    """What the tables say about one job, the same in the entries of all its workers."""

    workers: int
    pool_base: int
    window: int
    paper: bool
    epoch: int
    any_number: bool


class NativeRuntime(Runtime):
    """The native pipeline of `target`, with the names and sizes of `schema`.

    Raises:
        RuntimeRequestError: it is not the P4Info of the SwitchML program.
    """

    def __init__(self, target: EmulatorTarget, schema: Schema) -> None:
        self._target = target
        self._schema = schema
        missing = [name for name in _NEEDED if name not in schema.tables.by_name]
        if missing or _SET_WORKER not in schema.actions.by_name:
            raise invalid(
                f"the native pipeline takes the P4Info of our P4 program only, and this one has no {missing or _SET_WORKER}"
            )
        self._payload = ELEMENT_BYTES * sum(bool(_SUM.fullmatch(name)) for name in schema.registers.by_name)
        if self._payload not in PAYLOADS:
            raise invalid(
                f"the program's {self._payload} bytes of sums a slot are no payload of this protocol",
            )
        # A program that knows narrow lanes takes them in every job.
        self._wire = "int8" if _LANES in schema.registers.by_name else FLOAT32
        self._entries: dict[str, dict[Key, TableEntry]] = {name: {} for name in schema.tables.by_name}
        self._groups: dict[int, tuple[Replica, ...]] = {}
        self._members: dict[tuple[int, int], _Membership] = {}  # by job and rank
        self._jobs: dict[int, _Layout] = {}

    def close(self) -> None:
        """End the jobs."""
        self._target.between_packets(lambda: self._apply({}, {}))

    # Tables

    @override
    def insert(self, table: str, entry: TableEntry) -> None:
        entries, key = self._find(table), self._key(table, entry.key)
        if key in entries:
            raise exists(f"{table} has an entry with this key already")
        if len(entries) >= self._schema.tables.named(table).size:
            raise too_many(f"{table} is full: {len(entries)} entries")
        self._put(table, key, entry)

    @override
    def modify(self, table: str, entry: TableEntry) -> None:
        self._existing(table, entry.key)
        self._put(table, self._key(table, entry.key), entry)

    @override
    def delete(self, table: str, key: Mapping[str, Match], priority: int = 0) -> None:
        self._existing(table, key)
        self._put(table, self._key(table, key), None)

    @override
    def entries(self, table: str) -> Sequence[TableEntry]:
        return tuple(self._find(table).values())

    @override
    def set_default(self, table: str, action: ActionCall | None) -> None:
        if action is not None and action != self.default(table):
            self._check_action(table, action)
            raise unimplemented(
                f"{table}: default actions of the native pipeline are fixed; losses are set at its start (--loss)"
            )

    @override
    def default(self, table: str) -> ActionCall:
        return self._schema.tables.named(table).default

    # Packet replication

    @override
    def set_multicast_group(self, group: int, replicas: Sequence[Replica] | None) -> None:
        if replicas is None:
            if self._groups.pop(group, None) is None:
                raise not_found(f"the native pipeline has no multicast group {group}")
        else:
            self._groups[group] = tuple(replicas)

    @override
    def multicast_groups(self) -> Mapping[int, Sequence[Replica]]:
        return dict(self._groups)

    # State

    @override
    def read_counter(self, counter: str, index: int | None = None) -> Sequence[CounterValue]:
        size = self._schema.counters.named(counter).size
        rows = range(size) if index is None else (_checked(index, size, counter),)
        column = self._column(counter)
        if column is None:
            return [CounterValue()] * len(rows)
        counters = self._target.switch.counters
        wide = _BYTES_OF.get(SWITCH_COUNTERS[column].name)
        values = []
        for row in rows:
            packets = int(counters[row, column]) if row <= NO_JOB else 0
            size_at = int(counters[row, _AT[wide]]) + _FRAME_BYTES * packets if wide and row <= NO_JOB else 0
            values.append(CounterValue(packets, size_at))
        return values

    @override
    def write_counter(self, counter: str, index: int, value: CounterValue) -> None:
        _checked(index, self._schema.counters.named(counter).size, counter)
        column = self._column(counter)
        if column is None or index > NO_JOB:
            return

        def write() -> None:
            row = self._target.switch.counters[index]
            row[column] = value.packets
            wide = _BYTES_OF.get(SWITCH_COUNTERS[column].name)
            if wide:
                row[_AT[wide]] = max(0, value.bytes - _FRAME_BYTES * value.packets)

        self._target.between_packets(write)

    @override
    def read_register(self, register: str, index: int | None = None) -> Sequence[int]:
        size = self._schema.registers.named(register).size
        places = list(range(size)) if index is None else [_checked(index, size, register)]
        return self._target.between_packets(
            lambda: [self._get(register.rpartition(".")[2], at) for at in places]
        )

    @override
    def write_register(self, register: str, index: int | None, value: int) -> None:
        size = self._schema.registers.named(register).size
        places = list(range(size)) if index is None else [_checked(index, size, register)]

        def write() -> None:
            for at in places:
                self._set(register.rpartition(".")[2], at, value)

        self._target.between_packets(write)

    # Tables, inside

    def _find(self, table: str) -> dict[Key, TableEntry]:
        return self._entries[self._schema.tables.named(table).name]

    def _key(self, table: str, key: Mapping[str, Match]) -> Key:
        fields = [field.name for field in self._schema.tables.named(table).fields.values()]
        if set(key) != set(fields) or any(match.kind is not MatchKind.EXACT for match in key.values()):
            raise invalid(f"{table} needs an exact match on each of {', '.join(fields)}")
        return tuple(key[name].value for name in fields)

    def _existing(self, table: str, key: Mapping[str, Match]) -> None:
        if self._key(table, key) not in self._find(table):
            raise not_found(f"{table} has no entry with this key")

    def _check_action(self, table: str, action: TableAction) -> None:
        known = {action.name: action for action, _ in self._schema.tables.named(table).actions.values()}
        if not isinstance(action, ActionCall) or action.name not in known:
            raise invalid(f"{table} does not take the action {action}")
        names = known[action.name].names
        if len(action.arguments) != len(names):
            raise invalid(f"{action.name} takes {', '.join(names)}")

    def _put(self, table: str, key: Key, entry: TableEntry | None) -> None:
        """Write or delete an entry; all as before when the pipeline can't take what the tables then say."""
        entries = self._entries[table]
        before = entries.get(key)
        if entry is None:
            del entries[key]
        else:
            self._check_action(table, entry.action)
            entries[key] = entry
        if table not in _NEEDED:
            return
        try:
            members, jobs = self._wanted()
            if members != self._members or jobs != self._jobs:
                self._target.between_packets(lambda: self._apply(members, jobs))
        except SwitchMLError as error:
            if before is None:
                del entries[key]
            else:
                entries[key] = before
            members, jobs = self._wanted()
            self._target.between_packets(lambda: self._apply(members, jobs))
            if isinstance(error, RuntimeRequestError):
                raise
            raise too_many(str(error)) from error

    def _arguments(self, entry: TableEntry) -> dict[str, int]:
        action = entry.action
        assert isinstance(action, ActionCall)
        return self._schema.actions.named(action.name).arguments(action)

    def _wanted(self) -> tuple[dict[tuple[int, int], _Membership], dict[int, _Layout]]:
        """The workers and jobs that the tables describe."""
        members: dict[tuple[int, int], _Membership] = {}
        jobs: dict[int, _Layout] = {}
        senders, rewrites = self._entries[_SENDER_TABLE], self._entries[_WORKER_REWRITE]
        claims = self._entries.get(_CLAIM, {})
        jobs_of = {key: self._arguments(entry).get("job") for key, entry in senders.items()}
        rows = self._entries[_JOB_TABLE].items()
        # Here it is one number or all: a second one for a worker makes it all for the job.
        loose = {
            jobs_of[address, port]
            for (address, port, number), _ in rows
            if jobs_of.get((address, port), number) != number
        }
        for (address, port, job), entry in rows:
            values = self._arguments(entry)
            if not values or jobs_of.get((address, port)) != job:
                continue
            rank = values["worker"]
            layout = _layout(job, rank, values, job in loose)
            if jobs.setdefault(job, layout) != layout:
                raise invalid(
                    f"job {job}: in the native pipeline all entries of a job have the same workers, range of slots and flags",
                )
            rewrite = rewrites.get((job, rank))
            where = self._arguments(rewrite) if rewrite is not None else {}
            results = (_dotted(where.get("addr", address)), where.get("udp_port", port))
            asked = claims.get((job, rank))
            secret = secret_on_the_wire(self._arguments(asked).get("secret", 0)) if asked is not None else 0
            ticket = ticket_of_secret(secret) if secret else ""
            members[job, rank] = _Membership(job, rank, _dotted(address), port, results, ticket)
        return members, jobs

    def _apply(self, members: Mapping[tuple[int, int], _Membership], jobs: Mapping[int, _Layout]) -> None:
        """Change what differs. Between packets."""
        for number, layout in list(self._jobs.items()):
            if jobs.get(number) != layout:
                self._target.close_job(number)
                del self._jobs[number]
                self._members = {at: member for at, member in self._members.items() if at[0] != number}
        for at, member in list(self._members.items()):
            if members.get(at) != member:
                self._target.dismiss(*at)
                del self._members[at]
        for number, layout in jobs.items():
            if number not in self._jobs:
                self._target.open_job(_program(number, layout, self._payload, self._wire), layout.workers)
                self._jobs[number] = layout
        for at, member in members.items():
            if at not in self._members:
                worker = WorkerProgram(member.rank, "udp", member.address, member.port, member.ticket)
                self._target.admit(member.job, worker)
                self._members[at] = member
                if member.results != (member.address, member.port):
                    self._target.readdress(member.job, member.rank, *member.results)

    # Registers, inside: called between packets.

    def _column(self, counter: str) -> int | None:
        """The pipeline's counter of that name; egress has one of its own for what leaves alone."""
        control, _, name = counter.rpartition(".")
        return _AT.get(name) if name == "packets_sent" or control == "SwitchIngress" else None

    def _job_at(self, index: int) -> tuple[int, _Layout] | None:
        """The job that a copy belongs to."""
        slot = index // 2
        for number, layout in self._jobs.items():
            if layout.pool_base <= slot < layout.pool_base + layout.window:
                return number, layout
        return None

    def _sum_at(self, name: str, index: int) -> int | None:
        """Where in the pipeline's sums an element of a copy is; None where no job has the slot."""
        found = self._job_at(index)
        if found is None:
            return None
        job = self._target.switch.tables.jobs[found[0]]
        copy = index - 2 * found[1].pool_base
        return int(job["sums_base"]) + copy * int(job["sums"]) + int(name.removeprefix("sum_"))

    def _get(self, name: str, index: int) -> int:
        switch = self._target.switch
        if name == "elements_added":
            return int(switch.counters[index, _AT[name]]) if index <= NO_JOB else 0
        if name.startswith("sum_"):
            at = self._sum_at(name, index)
            return 0 if at is None else int(switch.pool.sums[at])
        copy = switch.pool.slots[index]
        match name:
            case "used":
                found = self._job_at(index)
                return int(copy["used"]) * (found[1].epoch if found else 1)
            case "seen":
                return int(copy["seen"][0])
            case "kind":
                return int(copy["kind"]) if copy["used"] else 0
            case "e0" | "e1":
                return int(copy[name]) & 0xFF
            case "stamp" | "seen_count":
                return int(copy[name])
        return 0

    def _set(self, name: str, index: int, value: int) -> None:
        switch = self._target.switch
        if name == "elements_added":
            switch.counters[index, _AT[name]] = value
            return
        if name.startswith("sum_"):
            at = self._sum_at(name, index)
            if at is not None:
                switch.pool.sums[at] = value
            return
        copy = switch.pool.slots[index]
        match name:
            case "used":
                found = self._job_at(index)
                copy["used"] = value == (found[1].epoch if found else 1)
            case "seen":
                copy["seen"][:] = 0
                copy["seen"][0] = value
                copy["seen_count"] = value.bit_count()
            case "kind":
                copy["kind"] = value
            case "e0" | "e1":
                copy[name] = int(np.uint8(value).view(np.int8))
            case "stamp" | "seen_count":
                copy[name] = value


class NativeDevice(Device[NativeRuntime]):
    """Takes our P4 program's P4Info and runs the native pipeline; the program's code is not looked at. What P4Runtime programmed
    ends with its pipeline; jobs of the switch's own controller go on.
    """

    has_room = False

    def __init__(self, target: EmulatorTarget, device_id: int = 0) -> None:
        super().__init__(device_id)
        self._target = target

    @override
    def stage(self, p4info: bytes, config: bytes) -> NativeRuntime:
        return NativeRuntime(self._target, Schema.parse(p4info))

    @override
    def install(self, p4info: bytes, config: bytes, runtime: NativeRuntime) -> None:
        if self._runtime is not None:
            self._runtime.close()
        super().install(p4info, config, runtime)


def _layout(job: int, rank: int, values: Mapping[str, int], any_number: bool) -> _Layout:
    workers, base, window = values["workers"], values["pool_base"], values["window"]
    fits = (
        window > 0
        and window & (window - 1) == 0
        and base + window <= POOL_SLOTS
        and rank < workers <= _SEEN_BITS
        and values["bit_of_worker"] == 1 << rank
        and values["everyone"] == (1 << workers) - 1
    )
    if not fits:
        raise invalid(
            f"job {job}, worker {rank}: the native pipeline needs a window that is a power of two inside the pool, at most "
            f"{_SEEN_BITS} workers, bit_of_worker = 1 << worker and everyone = (1 << workers) - 1",
        )
    return _Layout(workers, base, window, values["paper"] != 0, values.get("epoch", 1), any_number)


def _program(number: int, layout: _Layout, payload: int, wire: str) -> JobProgram:
    return JobProgram(
        *(number, layout.pool_base, layout.window, payload, layout.paper, (), "", 0, layout.any_number),
        wire=wire,
    )


def _dotted(address: int) -> str:
    return str(ipaddress.IPv4Address(address))


def _checked(index: int, size: int, name: str) -> int:
    if not 0 <= index < size:
        raise out_of_range(f"{name} has {size} entries, none at {index}")
    return index
