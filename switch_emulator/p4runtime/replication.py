"""`MulticastGroupEntry` and `CloneSessionEntry` of the packet replication engine (P4Runtime specification, section 9.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from switchml.p4runtime.bytestrings import decode, encode
from switchml.p4runtime.entries import CloneSession, Replica
from switchml.p4runtime.refusals import invalid, too_many, unimplemented
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.updates import check_presence

PORT_WIDTH = 32  # bits of a port towards the control plane; the pipeline knows which ones it has
INSTANCE_WIDTH = 16  # bits of egress_rid in v1model


def write(pipeline: PipelineContext, update: str, message: Any) -> None:
    """Carry out an update of a `PacketReplicationEngineEntry`."""
    kind = message.WhichOneof("type")
    if kind == "multicast_group_entry":
        _write_group(pipeline, update, message.multicast_group_entry)
    elif kind == "clone_session_entry":
        _write_session(pipeline, update, message.clone_session_entry)
    else:
        raise invalid("the packet replication engine entry is neither a multicast group nor a clone session")


def read(pipeline: PipelineContext, message: Any) -> Iterator[Any]:
    """A group or session id of 0 reads all."""
    kind = message.WhichOneof("type")
    if kind == "multicast_group_entry":
        yield from _read_groups(pipeline, message.multicast_group_entry.multicast_group_id)
    elif kind == "clone_session_entry":
        yield from _read_sessions(pipeline, message.clone_session_entry.session_id)
    else:
        raise invalid("the packet replication engine entry is neither a multicast group nor a clone session")


def _write_group(pipeline: PipelineContext, update: str, message: Any) -> None:
    group = message.multicast_group_id
    present = pipeline.runtime.multicast_groups()
    check_presence(update, group, group in present, f"multicast group {group}")
    memory = pipeline.memory
    metadata = message.metadata
    if update == "DELETE":
        pipeline.runtime.set_multicast_group(group, None)
        memory.multicast_metadata.pop(group, None)
        memory.old_ports.discard(("multicast", group))
        return
    replicas = _replicas(message.replicas, f"multicast group {group}", unique=True)
    _check_limits(pipeline, group, present, replicas)
    pipeline.runtime.set_multicast_group(group, replicas)
    memory.multicast_metadata.pop(group, None)
    if metadata:
        memory.multicast_metadata[group] = metadata
    _remember_ports(pipeline, ("multicast", group), message.replicas)


def _read_groups(pipeline: PipelineContext, wanted: int) -> Iterator[Any]:
    for group, replicas in pipeline.runtime.multicast_groups().items():
        if wanted in (0, group):
            entity = pb.Entity()
            found = entity.packet_replication_engine_entry.multicast_group_entry
            found.multicast_group_id = group
            _add_replicas(found.replicas, replicas, ("multicast", group) in pipeline.memory.old_ports)
            if metadata := pipeline.memory.multicast_metadata.get(group):
                found.metadata = metadata
            yield entity


def _write_session(pipeline: PipelineContext, update: str, message: Any) -> None:
    session = message.session_id
    what = f"clone session {session}"
    check_presence(update, session, session in pipeline.runtime.clone_sessions(), what)
    if update == "DELETE":
        pipeline.runtime.set_clone_session(session, None)
        pipeline.memory.old_ports.discard(("clone", session))
        return
    if message.class_of_service:
        raise invalid(f"{what}: class of service {message.class_of_service}; there is only 0")
    if message.packet_length_bytes < 0:
        raise invalid(f"{what}: a packet length can't be below 0")
    replicas = _replicas(message.replicas, what, unique=False)
    pipeline.runtime.set_clone_session(session, CloneSession(tuple(replicas), message.packet_length_bytes))
    _remember_ports(pipeline, ("clone", session), message.replicas)


def _read_sessions(pipeline: PipelineContext, wanted: int) -> Iterator[Any]:
    for session, value in pipeline.runtime.clone_sessions().items():
        if wanted in (0, session):
            entity = pb.Entity()
            found = entity.packet_replication_engine_entry.clone_session_entry
            found.session_id = session
            found.packet_length_bytes = value.truncate
            _add_replicas(found.replicas, value.replicas, ("clone", session) in pipeline.memory.old_ports)
            yield entity


def _replicas(messages: Any, what: str, *, unique: bool) -> list[Replica]:
    replicas = []
    for message in messages:
        if message.backup_replicas:
            raise unimplemented(f"{what}: backup replicas are not supported")
        if message.instance >> INSTANCE_WIDTH:
            raise invalid(f"{what}: instance {message.instance} does not fit bit<{INSTANCE_WIDTH}>")
        if message.WhichOneof("port_kind") == "port":
            port = decode(message.port, PORT_WIDTH, f"{what}: port")
        else:
            port = message.egress_port
        replica = Replica(port, message.instance)
        if unique and replica in replicas:
            raise invalid(f"{what}: port {port} with instance {message.instance} is there twice")
        replicas.append(replica)
    return replicas


def _add_replicas(messages: Any, replicas: Sequence[Replica], old_ports: bool) -> None:
    for replica in replicas:
        if old_ports:
            messages.add(egress_port=replica.port, instance=replica.instance)
        else:
            messages.add(port=encode(replica.port), instance=replica.instance)


def _remember_ports(pipeline: PipelineContext, name: tuple[str, int], messages: Any) -> None:
    if any(message.WhichOneof("port_kind") != "port" for message in messages):
        pipeline.memory.old_ports.add(name)
    else:
        pipeline.memory.old_ports.discard(name)


def _check_limits(pipeline: PipelineContext, group: int, present: Any, replicas: Sequence[Replica]) -> None:
    """What the P4Info says of the platform: groups, replicas of one, replicas of all; 0 = not said."""
    limits = pipeline.schema.message.pkg_info.platform_properties
    others = [value for key, value in present.items() if key != group]
    total = sum(map(len, others)) + len(replicas)
    for value, limit, what in (
        (len(others) + 1, limits.multicast_group_table_size, "multicast groups"),
        (total, limits.multicast_group_table_total_replicas, "replicas in all multicast groups"),
        (len(replicas), limits.multicast_group_table_max_replicas_per_entry, "replicas in a multicast group"),
    ):
        if 0 < limit < value:
            raise too_many(f"{value} {what}; this platform has room for {limit}")
