"""The native aggregation pipeline, programmed like a P4 switch: through the P4Info of our P4 program, by the same names.

Tables are kept as they are written, and what they say about workers is brought into the pipeline's own tables after every
change: a worker is one whose address and port are in `job_table` and, for the same job, in `sender_table`; `worker_rewrite` may
send its results somewhere else; more entries of it in `job_table`, with other numbers, let its job's packets carry any. Registers
and counters are the pipeline's own state. The rest of the program (addresses, stations, forwarding, replicas) is taken and has no
effect: sockets do that work here, so every worker is reachable and no digest is ever sent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from switchml.control.target import JobProgram, WorkerProgram
from switchml.errors import SwitchMLError
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
from switchml.p4runtime.stubs import p4info_pb2
from switchml.protocol.counters import SWITCH_COUNTERS, indices
from switchml.protocol.messages import ELEMENT_BYTES, EXPONENTS, PAYLOAD_SIZES, SUM
from switchml.switch_emulator.native_target import POOL_SLOTS, EmulatorTarget
from switchml.switch_emulator.pipeline import NO_JOB

_JOB_TABLE = "SwitchIngress.job_table"
_SENDER_TABLE = "SwitchIngress.sender_table"
_WORKER_REWRITE = "SwitchEgress.worker_rewrite"
_SET_WORKER = "SwitchIngress.set_worker"
_NEEDED = (_JOB_TABLE, _SENDER_TABLE, _WORKER_REWRITE)
_SUM = re.compile(r"SwitchIngress\.sum_(\d+)")
_SEEN_BITS = 64
_FRAME_BYTES = 42  # Ethernet, IPv4 and UDP headers, which a P4 program counts as well
_AT = indices(SWITCH_COUNTERS)
_BYTES_OF = {"packets_received": "bytes_received", "packets_sent": "bytes_sent"}

Key = tuple[int, ...]
"""Values of a key's fields, in the order of the table's."""


@dataclass(frozen=True)
class _Table:
    fields: tuple[str, ...]
    actions: frozenset[str]
    size: int
    default: ActionCall


@dataclass(frozen=True)
class _Membership:
    """What the tables say about one worker."""

    job: int
    rank: int
    address: str
    port: int
    results: tuple[str, int]  # where its results go


@dataclass(frozen=True)
class _Layout:
    """What the tables say about one job, the same in the entries of all its workers."""

    workers: int
    pool_base: int
    window: int
    paper: bool
    epoch: int
    any_number: bool


class NativeRuntime:
    """A `Runtime` over the native pipeline of `target`, with the names and sizes of `p4info`.

    Raises:
        RuntimeRequestError: it is not the P4Info of the SwitchML program.
    """

    def __init__(self, target: EmulatorTarget, p4info: Any) -> None:
        self._target = target
        self._actions = {
            action.preamble.name: tuple(p.name for p in action.params) for action in p4info.actions
        }
        names = {action.preamble.id: action.preamble.name for action in p4info.actions}
        self._tables = {table.preamble.name: _table(table, names) for table in p4info.tables}
        missing = [name for name in _NEEDED if name not in self._tables]
        if missing or _SET_WORKER not in self._actions:
            raise RuntimeRequestError(
                "INVALID_ARGUMENT",
                f"the native pipeline takes the P4Info of our P4 program only, and this one has no {missing or _SET_WORKER}",
            )
        self._counters = {counter.preamble.name: int(counter.size) for counter in p4info.counters}
        self._registers = {register.preamble.name: int(register.size) for register in p4info.registers}
        self._payload = ELEMENT_BYTES * sum(bool(_SUM.fullmatch(name)) for name in self._registers)
        if self._payload not in {size.payload for size in PAYLOAD_SIZES}:
            raise RuntimeRequestError(
                "INVALID_ARGUMENT",
                f"the program's {self._payload} bytes of sums a slot are no payload of this protocol",
            )
        self._entries: dict[str, dict[Key, TableEntry]] = {name: {} for name in self._tables}
        self._defaults: dict[str, ActionCall] = {}
        self._groups: dict[int, tuple[Replica, ...]] = {}
        self._members: dict[tuple[int, int], _Membership] = {}  # by job and rank
        self._jobs: dict[int, _Layout] = {}

    def close(self) -> None:
        """End the jobs."""
        self._target.between_packets(lambda: self._bring_about({}, {}))

    # Tables

    def insert(self, table: str, entry: TableEntry) -> None:
        entries, key = self._find(table), self._key(table, entry.key)
        if key in entries:
            raise RuntimeRequestError("ALREADY_EXISTS", f"{table} has an entry with this key already")
        if len(entries) >= self._tables[table].size:
            raise RuntimeRequestError("RESOURCE_EXHAUSTED", f"{table} is full: {len(entries)} entries")
        self._put(table, key, entry)

    def modify(self, table: str, entry: TableEntry) -> None:
        self._existing(table, entry.key)
        self._put(table, self._key(table, entry.key), entry)

    def delete(self, table: str, key: Mapping[str, Match], priority: int = 0) -> None:
        self._existing(table, key)
        self._put(table, self._key(table, key), None)

    def entries(self, table: str) -> Sequence[TableEntry]:
        return tuple(self._find(table).values())

    def set_default(self, table: str, action: ActionCall | None) -> None:
        if action is None or action == self._tables_of(table).default:
            self._defaults.pop(table, None)
            return
        self._check_action(table, action)
        raise RuntimeRequestError(
            "UNIMPLEMENTED",
            f"{table}: default actions of the native pipeline are fixed; losses are set at its start (--loss)",
        )

    def default(self, table: str) -> ActionCall:
        return self._tables_of(table).default

    def read_direct_counter(self, table: str, key: Mapping[str, Match], priority: int = 0) -> CounterValue:
        raise _unimplemented("direct counters")

    def write_direct_counter(
        self, table: str, key: Mapping[str, Match], value: CounterValue, priority: int = 0
    ) -> None:
        raise _unimplemented("direct counters")

    def set_direct_meter(
        self, table: str, key: Mapping[str, Match], rates: MeterRates | None, priority: int = 0
    ) -> None:
        raise _unimplemented("direct meters")

    def get_direct_meter(self, table: str, key: Mapping[str, Match], priority: int = 0) -> MeterRates | None:
        raise _unimplemented("direct meters")

    # Action profiles and selectors: the program has none.

    def insert_member(self, profile: str, member: int, action: ActionCall) -> None:
        raise _not_found("action profile", profile)

    def modify_member(self, profile: str, member: int, action: ActionCall) -> None:
        raise _not_found("action profile", profile)

    def delete_member(self, profile: str, member: int) -> None:
        raise _not_found("action profile", profile)

    def members(self, profile: str) -> Mapping[int, ActionCall]:
        raise _not_found("action profile", profile)

    def insert_group(
        self, profile: str, group: int, members: Sequence[GroupMember], max_size: int = 0
    ) -> None:
        raise _not_found("action profile", profile)

    def modify_group(self, profile: str, group: int, members: Sequence[GroupMember]) -> None:
        raise _not_found("action profile", profile)

    def delete_group(self, profile: str, group: int) -> None:
        raise _not_found("action profile", profile)

    def groups(self, profile: str) -> Mapping[int, Sequence[GroupMember]]:
        raise _not_found("action profile", profile)

    # Packet replication

    def set_multicast_group(self, group: int, replicas: Sequence[Replica] | None) -> None:
        if replicas is None:
            if self._groups.pop(group, None) is None:
                raise _not_found("multicast group", str(group))
        else:
            self._groups[group] = tuple(replicas)

    def multicast_groups(self) -> Mapping[int, Sequence[Replica]]:
        return dict(self._groups)

    def set_clone_session(self, session: int, value: CloneSession | None) -> None:
        raise _unimplemented("clone sessions")

    def clone_sessions(self) -> Mapping[int, CloneSession]:
        return {}

    # State

    def read_counter(self, counter: str, index: int | None = None) -> Sequence[CounterValue]:
        size = self._size(self._counters, "counter", counter)
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

    def write_counter(self, counter: str, index: int, value: CounterValue) -> None:
        _checked(index, self._size(self._counters, "counter", counter), counter)
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

    def set_meter(self, meter: str, index: int, rates: MeterRates | None) -> None:
        raise _not_found("meter", meter)

    def get_meter(self, meter: str, index: int) -> MeterRates | None:
        raise _not_found("meter", meter)

    def read_register(self, register: str, index: int | None = None) -> Sequence[int]:
        size = self._size(self._registers, "register", register)
        places = list(range(size)) if index is None else [_checked(index, size, register)]
        return self._target.between_packets(
            lambda: [self._get(register.rpartition(".")[2], at) for at in places]
        )

    def write_register(self, register: str, index: int | None, value: int) -> None:
        size = self._size(self._registers, "register", register)
        places = list(range(size)) if index is None else [_checked(index, size, register)]

        def write() -> None:
            for at in places:
                self._set(register.rpartition(".")[2], at, value)

        self._target.between_packets(write)

    def set_value_set(self, name: str, members: Sequence[Sequence[Match]]) -> None:
        raise _not_found("value set", name)

    # Towards the control plane: nothing is ever sent there.

    def on_digest(self, receive: Callable[[Digest], None] | None) -> None:
        pass

    def on_packet_in(self, receive: Callable[[PacketIn], None] | None) -> None:
        pass

    def packet_out(self, payload: bytes, metadata: Mapping[str, int]) -> None:
        raise _unimplemented("packets from the controller")

    def on_idle_timeout(self, receive: Callable[[str, TableEntry], None] | None) -> None:
        pass

    # Tables, inside

    def _tables_of(self, table: str) -> _Table:
        if table not in self._tables:
            raise _not_found("table", table)
        return self._tables[table]

    def _find(self, table: str) -> dict[Key, TableEntry]:
        self._tables_of(table)
        return self._entries[table]

    def _key(self, table: str, key: Mapping[str, Match]) -> Key:
        fields = self._tables_of(table).fields
        if set(key) != set(fields) or any(match.kind is not MatchKind.EXACT for match in key.values()):
            raise RuntimeRequestError(
                "INVALID_ARGUMENT", f"{table} needs an exact match on each of {', '.join(fields)}"
            )
        return tuple(key[name].value for name in fields)

    def _existing(self, table: str, key: Mapping[str, Match]) -> None:
        if self._key(table, key) not in self._find(table):
            raise RuntimeRequestError("NOT_FOUND", f"{table} has no entry with this key")

    def _check_action(self, table: str, action: Any) -> ActionCall:
        if not isinstance(action, ActionCall) or action.name not in self._tables_of(table).actions:
            raise RuntimeRequestError("INVALID_ARGUMENT", f"{table} does not take the action {action}")
        if len(action.arguments) != len(self._actions[action.name]):
            raise RuntimeRequestError(
                "INVALID_ARGUMENT", f"{action.name} takes {', '.join(self._actions[action.name])}"
            )
        return action

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
                self._target.between_packets(lambda: self._bring_about(members, jobs))
        except SwitchMLError as error:
            if before is None:
                del entries[key]
            else:
                entries[key] = before
            members, jobs = self._wanted()
            self._target.between_packets(lambda: self._bring_about(members, jobs))
            if isinstance(error, RuntimeRequestError):
                raise
            raise RuntimeRequestError("RESOURCE_EXHAUSTED", str(error)) from error

    def _arguments(self, entry: TableEntry) -> dict[str, int]:
        action = entry.action
        assert isinstance(action, ActionCall)
        return dict(zip(self._actions[action.name], action.arguments, strict=True))

    def _wanted(self) -> tuple[dict[tuple[int, int], _Membership], dict[int, _Layout]]:
        """The workers and jobs that the tables describe."""
        members: dict[tuple[int, int], _Membership] = {}
        jobs: dict[int, _Layout] = {}
        senders, rewrites = self._entries[_SENDER_TABLE], self._entries[_WORKER_REWRITE]
        jobs_of = {key: self._arguments(entry).get("job") for key, entry in senders.items()}
        rows = self._entries[_JOB_TABLE].items()
        # Here it is one number or all: a second one for a worker makes it all for the job.
        loose = {
            jobs_of[address, port]
            for (address, port, number), _ in rows
            if jobs_of.get((address, port), number) != number
        }
        for (address, port, job), entry in rows:
            says = self._arguments(entry)
            if not says or jobs_of.get((address, port)) != job:
                continue
            rank = says["worker"]
            layout = _layout(job, rank, says, job in loose)
            if jobs.setdefault(job, layout) != layout:
                raise RuntimeRequestError(
                    "INVALID_ARGUMENT",
                    f"job {job}: in the native pipeline all entries of a job have the same workers, range of slots and flags",
                )
            rewrite = rewrites.get((job, rank))
            where = self._arguments(rewrite) if rewrite is not None else {}
            results = (_dotted(where.get("addr", address)), where.get("udp_port", port))
            members[job, rank] = _Membership(job, rank, _dotted(address), port, results)
        return members, jobs

    def _bring_about(
        self, members: Mapping[tuple[int, int], _Membership], jobs: Mapping[int, _Layout]
    ) -> None:
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
                self._target.open_job(_program(number, layout, self._payload), layout.workers)
                self._jobs[number] = layout
        for at, member in members.items():
            if at not in self._members:
                self._target.admit(
                    member.job, WorkerProgram(member.rank, "udp", member.address, member.port, "")
                )
                self._members[at] = member
                if member.results != (member.address, member.port):
                    self._target.readdress(member.job, member.rank, *member.results)

    # Registers, inside: called between packets.

    def _size(self, sizes: Mapping[str, int], kind: str, name: str) -> int:
        if name not in sizes:
            raise _not_found(kind, name)
        return sizes[name]

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
        return int(job["sums_base"]) + copy * int(job["elements"]) + int(name.removeprefix("sum_"))

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
                return 0 if not copy["used"] else SUM if copy["elements"] else EXPONENTS
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
                copy["elements"] = self._payload // ELEMENT_BYTES if value == SUM else 0
            case "e0" | "e1":
                copy[name] = int(np.uint8(value).view(np.int8))
            case "stamp" | "seen_count":
                copy[name] = value


class NativeDevice:
    """A `Device` that takes our P4 program's P4Info and runs the native pipeline; the program's code is not looked at."""

    def __init__(self, target: EmulatorTarget, device_id: int = 0) -> None:
        self.device_id = device_id
        self._target = target
        self._p4info = b""
        self._config = b""
        self._runtime: NativeRuntime | None = None

    @property
    def p4info(self) -> bytes:
        return self._p4info

    @property
    def config(self) -> bytes:
        return self._config

    @property
    def runtime(self) -> NativeRuntime:
        """Raises RuntimeRequestError FAILED_PRECONDITION while there is no pipeline."""
        if self._runtime is None:
            raise RuntimeRequestError(
                "FAILED_PRECONDITION", "there is no pipeline yet: set a forwarding pipeline config first"
            )
        return self._runtime

    def verify(self, p4info: bytes, config: bytes) -> None:
        """Raises RuntimeRequestError INVALID_ARGUMENT for another program's P4Info."""
        NativeRuntime(self._target, _parsed(p4info))

    def commit(self, p4info: bytes, config: bytes) -> None:
        """Empty tables and zero counters of what P4Runtime programmed; jobs of the switch's own controller go on."""
        fresh = NativeRuntime(self._target, _parsed(p4info))
        if self._runtime is not None:
            self._runtime.close()
        self._p4info, self._config, self._runtime = p4info, config, fresh


def _parsed(p4info: bytes) -> Any:
    try:
        return p4info_pb2.P4Info.FromString(p4info)
    except Exception as error:  # protobuf's own, whose type differs between its versions
        raise RuntimeRequestError("INVALID_ARGUMENT", f"that is no P4Info: {error}") from error


def _table(table: Any, actions: Mapping[int, str]) -> _Table:
    names = [actions[reference.id] for reference in table.action_refs]
    default = next((name for name in names if name == "NoAction"), names[-1] if names else "NoAction")
    if table.HasField("initial_default_action"):
        initial = table.initial_default_action
        values = tuple(int.from_bytes(argument.value, "big") for argument in initial.arguments)
        call = ActionCall(actions[initial.action_id], values)
    else:
        call = ActionCall(default)
    return _Table(tuple(field.name for field in table.match_fields), frozenset(names), int(table.size), call)


def _layout(job: int, rank: int, says: Mapping[str, int], any_number: bool) -> _Layout:
    workers, base, window = says["workers"], says["pool_base"], says["window"]
    fits = (
        window > 0
        and window & (window - 1) == 0
        and base + window <= POOL_SLOTS
        and rank < workers <= _SEEN_BITS
        and says["bit_of_worker"] == 1 << rank
        and says["everyone"] == (1 << workers) - 1
    )
    if not fits:
        raise RuntimeRequestError(
            "INVALID_ARGUMENT",
            f"job {job}, worker {rank}: the native pipeline needs a window that is a power of two inside the pool, at most "
            f"{_SEEN_BITS} workers, bit_of_worker = 1 << worker and everyone = (1 << workers) - 1",
        )
    return _Layout(workers, base, window, says["paper"] != 0, says.get("epoch", 1), any_number)


def _program(number: int, layout: _Layout, payload: int) -> JobProgram:
    return JobProgram(
        *(number, layout.pool_base, layout.window, payload, layout.paper, (), "", 0, layout.any_number)
    )


def _dotted(address: int) -> str:
    return str(ipaddress.IPv4Address(address))


def _checked(index: int, size: int, name: str) -> int:
    if not 0 <= index < size:
        raise RuntimeRequestError("OUT_OF_RANGE", f"{name} has {size} entries, none at {index}")
    return index


def _not_found(kind: str, name: str) -> RuntimeRequestError:
    return RuntimeRequestError("NOT_FOUND", f"the native pipeline has no {kind} {name}")


def _unimplemented(what: str) -> RuntimeRequestError:
    return RuntimeRequestError("UNIMPLEMENTED", f"the native pipeline has no {what}")
