"""What a control plane can do to a switch's pipeline, whichever pipeline it is: tables, groups, sessions, state.

The P4Runtime server, the STF runner and the tests speak this interface; the native aggregation pipeline and the P4 pipeline
implement it. Names are the P4 program's full ones ("ingress.job_table"); values are unsigned integers in host form.
Nothing here blocks, and calls come from any thread: an implementation applies them between packets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from switchml.p4runtime.entries import (
    ActionCall,
    CloneSession,
    CounterValue,
    Digest,
    GroupMember,
    Match,
    MeterRates,
    PacketIn,
    Replica,
    TableEntry,
)


class Runtime(Protocol):
    """A running pipeline. All calls raise `RuntimeRequestError`: NOT_FOUND for a name, entry or index there is not,
    ALREADY_EXISTS for a second insertion, INVALID_ARGUMENT for a value that does not fit, RESOURCE_EXHAUSTED for a full
    table, UNIMPLEMENTED for what the pipeline has not got."""

    # Tables
    def insert(self, table: str, entry: TableEntry) -> None: ...
    def modify(self, table: str, entry: TableEntry) -> None: ...
    def delete(self, table: str, key: Mapping[str, Match], priority: int = 0) -> None: ...
    def entries(self, table: str) -> Sequence[TableEntry]: ...
    def set_default(self, table: str, action: ActionCall | None) -> None:
        """None restores the program's own default action."""

    def default(self, table: str) -> ActionCall: ...
    def read_direct_counter(
        self, table: str, key: Mapping[str, Match], priority: int = 0
    ) -> CounterValue: ...
    def write_direct_counter(
        self, table: str, key: Mapping[str, Match], value: CounterValue, priority: int = 0
    ) -> None: ...
    def set_direct_meter(
        self, table: str, key: Mapping[str, Match], rates: MeterRates | None, priority: int = 0
    ) -> None: ...
    def get_direct_meter(
        self, table: str, key: Mapping[str, Match], priority: int = 0
    ) -> MeterRates | None: ...

    # Action profiles and selectors
    def insert_member(self, profile: str, member: int, action: ActionCall) -> None: ...
    def modify_member(self, profile: str, member: int, action: ActionCall) -> None: ...
    def delete_member(self, profile: str, member: int) -> None: ...
    def members(self, profile: str) -> Mapping[int, ActionCall]: ...
    def insert_group(
        self, profile: str, group: int, members: Sequence[GroupMember], max_size: int = 0
    ) -> None: ...
    def modify_group(self, profile: str, group: int, members: Sequence[GroupMember]) -> None: ...
    def delete_group(self, profile: str, group: int) -> None: ...
    def groups(self, profile: str) -> Mapping[int, Sequence[GroupMember]]: ...

    # Packet replication
    def set_multicast_group(self, group: int, replicas: Sequence[Replica] | None) -> None:
        """None removes it."""

    def multicast_groups(self) -> Mapping[int, Sequence[Replica]]: ...
    def set_clone_session(self, session: int, value: CloneSession | None) -> None: ...
    def clone_sessions(self) -> Mapping[int, CloneSession]: ...

    # State
    def read_counter(self, counter: str, index: int | None = None) -> Sequence[CounterValue]:
        """None reads all."""

    def write_counter(self, counter: str, index: int, value: CounterValue) -> None: ...
    def set_meter(self, meter: str, index: int, rates: MeterRates | None) -> None: ...
    def get_meter(self, meter: str, index: int) -> MeterRates | None: ...
    def read_register(self, register: str, index: int | None = None) -> Sequence[int]: ...
    def write_register(self, register: str, index: int | None, value: int) -> None:
        """None writes all."""

    def set_value_set(self, name: str, members: Sequence[Sequence[Match]]) -> None:
        """Members of a parser's value set: one sequence of matches (one a field) each."""

    # Towards the control plane
    def on_digest(self, receive: Callable[[Digest], None] | None) -> None: ...
    def on_packet_in(self, receive: Callable[[PacketIn], None] | None) -> None: ...
    def packet_out(self, payload: bytes, metadata: Mapping[str, int]) -> None: ...
    def on_idle_timeout(self, receive: Callable[[str, TableEntry], None] | None) -> None: ...


class Device(Protocol):
    """A switch that takes a forwarding pipeline: what P4Runtime's SetForwardingPipelineConfig speaks to.

    p4info: the serialised P4Info in force, b"" before the first. config: the device's own form of the program (BMv2 JSON).
    """

    device_id: int

    @property
    def p4info(self) -> bytes: ...

    @property
    def config(self) -> bytes: ...

    @property
    def runtime(self) -> Runtime:
        """Raises RuntimeRequestError FAILED_PRECONDITION while there is no pipeline."""

    def verify(self, p4info: bytes, config: bytes) -> None:
        """Raises RuntimeRequestError when the pipeline can't be taken."""

    def commit(self, p4info: bytes, config: bytes) -> None:
        """Put the pipeline in force, with empty tables and state."""
