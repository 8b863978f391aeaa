"""What stands for a switch in the tests of the runner: a runtime that keeps what it is told, and the names of a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from switchml.p4runtime.entries import (
    ActionCall,
    CloneSession,
    CounterValue,
    Match,
    MeterRates,
    Replica,
    TableEntry,
)
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.stf.declarations import Names, read_names

NAMES: Names = read_names(
    {
        "header_types": [{"name": "h_t", "fields": [["f", 16, False], ["g", 8, False], ["a", 32, False]]}],
        "headers": [{"name": name, "header_type": "h_t"} for name in ("h", "e[0]")],
        "actions": [
            {"id": 0, "name": "in.go", "runtime_data": [{"name": "port", "bitwidth": 9}, {"name": "x", "bitwidth": 4}]},
            {"id": 1, "name": "NoAction", "runtime_data": []},
            {"id": 2, "name": "other.go", "runtime_data": []},
            {"id": 3, "name": "in.nogo", "runtime_data": []},
        ],
        "pipelines": [
            {
                "tables": [
                    {"name": "in.t", "match_type": "exact", "action_ids": [0, 1, 3], "key": [
                        {"name": "hdr.h.f", "target": ["h", "f"], "match_type": "exact"},
                        {"name": "hdr.h.$valid$", "target": ["h", "$valid$"], "match_type": "exact"},
                    ]},
                    {"name": "in.tern", "match_type": "ternary", "action_ids": [0, 2, 1], "key": [
                        {"target": ["h", "f"], "match_type": "ternary"},
                        {"target": ["h", "a"], "match_type": "lpm"},
                        {"target": ["e[0]", "g"], "match_type": "exact"},
                    ]},
                ]
            },
            {"tables": [{"name": "out.t", "match_type": "lpm", "action_ids": [1], "key": [
                {"target": ["h", "a"], "match_type": "lpm"}]}]},
        ],
        "counter_arrays": [
            {"name": "in.c", "size": 4, "is_direct": False},
            {"name": "in.direct", "is_direct": True, "binding": "in.t"},
        ],
        "register_arrays": [{"name": "in.r", "size": 4, "bitwidth": 8}],
        "meter_arrays": [{"name": "in.m", "size": 2, "is_direct": False}],
    }
)  # fmt: skip


class FakeRuntime:
    """Tables, groups and state as dictionaries; packets go to `forward`."""

    def __init__(self, forward: Callable[[int, bytes], Sequence[tuple[int, bytes]]] | None = None) -> None:
        self.process = forward or (lambda port, frame: [(port + 1, frame)])
        self.tables: dict[str, list[TableEntry]] = {}
        self.defaults: dict[str, ActionCall | None] = {}
        self.groups: dict[int, Sequence[Replica]] = {}
        self.sessions: dict[int, CloneSession] = {}
        self.counters = [CounterValue() for _ in range(4)]
        self.direct: dict[Any, CounterValue] = {}
        self.registers = [0] * 4
        self.meters: dict[int, MeterRates] = {}

    def insert(self, table: str, entry: TableEntry) -> None:
        held = self.tables.setdefault(table, [])
        if any((old.key, old.priority) == (entry.key, entry.priority) for old in held):
            raise RuntimeRequestError("ALREADY_EXISTS", f"{table} has this entry")
        held.append(entry)

    def delete(self, table: str, key: Mapping[str, Match], priority: int = 0) -> None:
        held = self.tables.get(table, [])
        kept = [entry for entry in held if (entry.key, entry.priority) != (key, priority)]
        if len(kept) == len(held):
            raise RuntimeRequestError("NOT_FOUND", f"{table} has no such entry")
        self.tables[table] = kept

    def entries(self, table: str) -> Sequence[TableEntry]:
        return self.tables.get(table, [])

    def set_default(self, table: str, action: ActionCall | None) -> None:
        self.defaults[table] = action

    def set_multicast_group(self, group: int, replicas: Sequence[Replica] | None) -> None:
        if replicas is None:
            del self.groups[group]
        else:
            self.groups[group] = tuple(replicas)

    def set_clone_session(self, session: int, value: CloneSession | None) -> None:
        if value is None:
            del self.sessions[session]
        else:
            self.sessions[session] = value

    def clone_sessions(self) -> Mapping[int, CloneSession]:
        return self.sessions

    def read_counter(self, counter: str, index: int | None = None) -> Sequence[CounterValue]:
        return self.counters if index is None else [self.counters[index]]

    def write_counter(self, counter: str, index: int, value: CounterValue) -> None:
        self.counters[index] = value

    def read_direct_counter(self, table: str, key: Mapping[str, Match], priority: int = 0) -> CounterValue:
        return self.direct[table, frozenset(key.items()), priority]

    def read_register(self, register: str, index: int | None = None) -> Sequence[int]:
        return self.registers if index is None else [self.registers[index]]

    def write_register(self, register: str, index: int | None, value: int) -> None:
        for at in range(4) if index is None else (index,):
            self.registers[at] = value

    def set_meter(self, meter: str, index: int, rates: MeterRates | None) -> None:
        assert rates is not None
        self.meters[index] = rates

    def get_meter(self, meter: str, index: int) -> MeterRates | None:
        return self.meters.get(index)
