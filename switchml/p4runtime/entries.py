"""What a control plane writes to a pipeline and reads from it, by name and in host form: entries, cells, messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class MatchKind(Enum):
    """How a field of a key is matched (section 9.1.1)."""

    EXACT = "exact"
    LPM = "lpm"
    TERNARY = "ternary"
    RANGE = "range"
    OPTIONAL = "optional"


@dataclass(frozen=True)
class Match:
    """One field of a key. EXACT, OPTIONAL: value. LPM: value and prefix length `extra`. TERNARY: value and mask
    `extra`. RANGE: low and high (`extra`), both included. A field that is left out of an entry's key matches anything.
    """

    kind: MatchKind
    value: int
    extra: int = 0


@dataclass(frozen=True)
class ActionCall:
    """An action with its parameters in order."""

    name: str
    arguments: tuple[int, ...] = ()


@dataclass(frozen=True)
class MemberRef:
    """A member of the table's action profile."""

    member: int


@dataclass(frozen=True)
class GroupRef:
    """A group of the table's action selector."""

    group: int


@dataclass(frozen=True)
class OneShot:
    """A weighted set of actions programmed with the entry itself (P4Runtime specification, section 9.2.3)."""

    actions: tuple[tuple[ActionCall, int], ...]


TableAction = ActionCall | MemberRef | GroupRef | OneShot


@dataclass(frozen=True)
class TableEntry:
    """key: by field name as in P4Info ("hdr.ipv4.srcAddr"). priority: larger wins; 0 where the key needs none."""

    key: Mapping[str, Match]
    action: TableAction
    priority: int = 0
    metadata: bytes = b""
    idle_timeout_ns: int = 0


@dataclass(frozen=True)
class CounterValue:
    """A counter's cell."""

    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class MeterRates:
    """Two rates three colours (RFC 2698): committed and peak, units (bytes or packets) a second, and bursts in units."""

    cir: int
    cburst: int
    pir: int
    pburst: int


@dataclass(frozen=True)
class Replica:
    """One copy that a multicast group or clone session makes: `egress_port`, `egress_rid`."""

    port: int
    instance: int = 0


@dataclass(frozen=True)
class CloneSession:
    """truncate: bytes that are kept of a packet, 0 = all."""

    replicas: tuple[Replica, ...]
    truncate: int = 0


@dataclass(frozen=True)
class GroupMember:
    """A member of a group, and how often it is chosen."""

    member: int
    weight: int = 1


@dataclass(frozen=True)
class Digest:
    """One message of a digest: its fields in order."""

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class PacketIn:
    """A packet sent to the control plane's port, without its packet-in header; `metadata` by field name."""

    payload: bytes
    metadata: Mapping[str, int] = field(default_factory=dict)
