"""What a control plane can do to a switch and its pipeline, whichever pipeline it is: tables, groups, sessions, state.

The P4Runtime server, the STF runner and the tests speak this interface; the native aggregation pipeline and the P4 pipeline
implement it. Names are the P4 program's full ones ("ingress.job_table"); values are unsigned integers in host form.
Nothing here blocks, and calls come from any thread: an implementation applies them between packets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NoReturn, TypeVar

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
from switchml.p4runtime.refusals import precondition, unimplemented

Key = Mapping[str, Match]


class Runtime:
    """A running pipeline: it overrides what it has, and the rest refuses with UNIMPLEMENTED. All calls raise
    `RuntimeRequestError`: NOT_FOUND for a name, entry or index there is not, ALREADY_EXISTS for a second insertion,
    INVALID_ARGUMENT for a value that does not fit, RESOURCE_EXHAUSTED for a full table.
    """

    # Tables

    def insert(self, table: str, entry: TableEntry) -> None:
        """Add an entry."""
        _refuse("tables")

    def modify(self, table: str, entry: TableEntry) -> None:
        """Replace the action of the entry that has this key and priority."""
        _refuse("tables")

    def delete(self, table: str, key: Key, priority: int = 0) -> None:
        """Remove the entry that has this key and priority."""
        _refuse("tables")

    def entries(self, table: str) -> Sequence[TableEntry]:
        """All entries but the default one, the program's own among them."""
        _refuse("tables")

    def set_default(self, table: str, action: ActionCall | None) -> None:
        """None restores the program's own default action."""
        _refuse("tables")

    def default(self, table: str) -> ActionCall:
        """The default action in force."""
        _refuse("tables")

    def time_since_last_hit(self, table: str, key: Key, priority: int = 0) -> int:
        """Nanoseconds since a packet hit an entry, or since it was inserted or reported idle."""
        _refuse("record of when an entry was last hit; leave time_since_last_hit unset")

    def read_direct_counter(self, table: str, key: Key, priority: int = 0) -> CounterValue:
        """What has hit the entry."""
        _refuse("direct counters")

    def write_direct_counter(self, table: str, key: Key, value: CounterValue, priority: int = 0) -> None:
        """Overwrite what has hit the entry."""
        _refuse("direct counters")

    def set_direct_meter(self, table: str, key: Key, rates: MeterRates | None, priority: int = 0) -> None:
        """Give the entry's meter rates; None: none, and every packet is green."""
        _refuse("direct meters")

    def get_direct_meter(self, table: str, key: Key, priority: int = 0) -> MeterRates | None:
        """The rates of the entry's meter."""
        _refuse("direct meters")

    # Action profiles and selectors

    def insert_member(self, profile: str, member: int, action: ActionCall) -> None:
        """Add a member to an action profile."""
        _refuse("action profiles")

    def modify_member(self, profile: str, member: int, action: ActionCall) -> None:
        """Give a member another action."""
        _refuse("action profiles")

    def delete_member(self, profile: str, member: int) -> None:
        """Remove a member."""
        _refuse("action profiles")

    def members(self, profile: str) -> Mapping[int, ActionCall]:
        """The actions of an action profile's members, by number."""
        _refuse("action profiles")

    def insert_group(
        self, profile: str, group: int, members: Sequence[GroupMember], max_size: int = 0
    ) -> None:
        """Add a group of members to a selector; max_size: the sum of weights it may have, 0 = no limit."""
        _refuse("action profiles")

    def modify_group(self, profile: str, group: int, members: Sequence[GroupMember]) -> None:
        """Give a group other members."""
        _refuse("action profiles")

    def delete_group(self, profile: str, group: int) -> None:
        """Remove a group."""
        _refuse("action profiles")

    def groups(self, profile: str) -> Mapping[int, Sequence[GroupMember]]:
        """The members of a selector's groups, by number."""
        _refuse("action profiles")

    # Packet replication

    def set_multicast_group(self, group: int, replicas: Sequence[Replica] | None) -> None:
        """None removes it."""
        _refuse("multicast groups")

    def multicast_groups(self) -> Mapping[int, Sequence[Replica]]:
        """The replicas of each group."""
        return {}

    def set_clone_session(self, session: int, value: CloneSession | None) -> None:
        """None removes it."""
        _refuse("clone sessions")

    def clone_sessions(self) -> Mapping[int, CloneSession]:
        """The clone sessions, by number."""
        return {}

    # State

    def read_counter(self, counter: str, index: int | None = None) -> Sequence[CounterValue]:
        """None reads all."""
        _refuse("counters")

    def write_counter(self, counter: str, index: int, value: CounterValue) -> None:
        """Overwrite a counter's cell."""
        _refuse("counters")

    def set_meter(self, meter: str, index: int, rates: MeterRates | None) -> None:
        """Give a meter's cell rates; None: none, and every packet is green."""
        _refuse("meters")

    def get_meter(self, meter: str, index: int) -> MeterRates | None:
        """The rates of a meter's cell."""
        _refuse("meters")

    def read_register(self, register: str, index: int | None = None) -> Sequence[int]:
        """None reads all."""
        _refuse("registers")

    def write_register(self, register: str, index: int | None, value: int) -> None:
        """None writes all."""
        _refuse("registers")

    def set_value_set(self, name: str, members: Sequence[Sequence[Match]]) -> None:
        """Members of a parser's value set: one sequence of matches (one a field) each."""
        _refuse("value sets")

    # Towards the control plane: a pipeline that never calls has nothing to register.

    def on_digest(self, receive: Callable[[Digest], None] | None) -> None:
        """`receive` gets every digest from now on; None: nobody."""
        return

    def on_packet_in(self, receive: Callable[[PacketIn], None] | None) -> None:
        """`receive` gets every packet for the control plane from now on; None: nobody."""
        return

    def on_idle_timeout(self, receive: Callable[[str, TableEntry], None] | None) -> None:
        """`receive` gets table and entry of what was idle for its timeout; None: nobody."""
        return

    def check_idle_timeouts(self) -> None:
        """Report entries that no packet has hit for their idle timeout; each again when it passes once more."""

    def packet_out(self, payload: bytes, metadata: Mapping[str, int]) -> None:
        """Send a packet from the control plane through the pipeline."""
        _refuse("packets from the controller")


def _refuse(what: str) -> NoReturn:
    raise unimplemented(f"this pipeline has no {what}")


R = TypeVar("R", bound=Runtime)


class Device(Generic[R]):
    """A switch that takes a forwarding pipeline: what P4Runtime's SetForwardingPipelineConfig speaks to.

    p4info: the serialised P4Info in force, b"" before the first. config: the device's own form of the program (BMv2 JSON).
    """

    has_room = True
    """Whether a second pipeline can be programmed beside the one in force."""

    def __init__(self, device_id: int = 0) -> None:
        self.device_id = device_id
        self.p4info = b""
        self.config = b""
        self._runtime: R | None = None

    @property
    def runtime(self) -> R:
        """Raises RuntimeRequestError FAILED_PRECONDITION while there is no pipeline."""
        if self._runtime is None:
            raise precondition("there is no pipeline yet: call SetForwardingPipelineConfig first")
        return self._runtime

    def stage(self, p4info: bytes, config: bytes) -> R:
        """A pipeline with empty tables and state, not in force until `install`. Raises RuntimeRequestError when it can't be
        taken.
        """
        raise NotImplementedError

    def install(self, p4info: bytes, config: bytes, runtime: R) -> None:
        """Put in force what `stage` made of the same program, with the state it has got since."""
        self.p4info, self.config, self._runtime = p4info, config, runtime

    def verify(self, p4info: bytes, config: bytes) -> None:
        """Raises as `stage`."""
        self.stage(p4info, config)

    def commit(self, p4info: bytes, config: bytes) -> None:
        """Put the pipeline in force, with empty tables and state. Raises as `stage`."""
        self.install(p4info, config, self.stage(p4info, config))
