"""A pipeline as requests see it: its P4Info, the runtime behind it, and what requests carry that no runtime keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from switchml.p4runtime.entries import Match
from switchml.p4runtime.schema import Schema
from switchml.switch_emulator.p4runtime.digests import DigestBuffers
from switchml.switch_emulator.runtime import Runtime

Key = Mapping[str, Match]
EntryName = tuple[str, frozenset[tuple[str, Match]], int]


def entry_name(table: str, key: Key, priority: int) -> EntryName:
    """What identifies a table entry."""
    return table, frozenset(key.items()), priority


@dataclass
class Memory:
    """Reads give back what writes gave; a runtime has no place for these.

    cookies: `controller_metadata` of an entry. defaults: `metadata` and `controller_metadata` of a default entry, by table.
    group_sizes: `max_size`, by profile and group. old_ports: groups ("multicast" or "clone", id) whose replicas came with the
    deprecated field `egress_port`. styles: for each action selector, the entries that use it, and whether as one-shots.
    """

    cookies: dict[EntryName, int] = field(default_factory=dict)
    defaults: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    group_sizes: dict[tuple[str, int], int] = field(default_factory=dict)
    multicast_metadata: dict[int, bytes] = field(default_factory=dict)
    old_ports: set[tuple[str, int]] = field(default_factory=set)
    styles: dict[str, dict[EntryName, bool]] = field(default_factory=dict)
    value_sets: dict[str, tuple[tuple[Match, ...], ...]] = field(default_factory=dict)


@dataclass
class PipelineContext:
    """What requests need to know of one pipeline."""

    schema: Schema
    runtime: Runtime
    digests: DigestBuffers = field(default_factory=DigestBuffers)
    memory: Memory = field(default_factory=Memory)
