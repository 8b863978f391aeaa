"""Every kind of entity that Write and Read know, and what carries it out (P4Runtime specification, section 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from switchml.p4runtime.refusals import invalid, unimplemented
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime import (
    arrays,
    digest_entries,
    direct_resources,
    profile_entries,
    replication,
    table_entries,
    value_sets,
)
from switchml.switch_emulator.p4runtime.context import PipelineContext


@dataclass(frozen=True)
class EntityKind:
    """write: of one update ("INSERT", "MODIFY" or "DELETE"). read: the entities that one request selects."""

    write: Callable[[PipelineContext, str, Any], None]
    read: Callable[[PipelineContext, Any], Iterator[Any]]


KINDS = {  # by the name of the field in `Entity`
    "table_entry": EntityKind(table_entries.write, table_entries.read),
    "action_profile_member": EntityKind(profile_entries.write_member, profile_entries.read_members),
    "action_profile_group": EntityKind(profile_entries.write_group, profile_entries.read_groups),
    "meter_entry": EntityKind(arrays.write_meter, arrays.read_meters),
    "direct_meter_entry": EntityKind(direct_resources.write_meter, direct_resources.read_meters),
    "counter_entry": EntityKind(arrays.write_counter, arrays.read_counters),
    "direct_counter_entry": EntityKind(direct_resources.write_counter, direct_resources.read_counters),
    "packet_replication_engine_entry": EntityKind(replication.write, replication.read),
    "value_set_entry": EntityKind(value_sets.write, value_sets.read),
    "register_entry": EntityKind(arrays.write_register, arrays.read_registers),
    "digest_entry": EntityKind(digest_entries.write, digest_entries.read),
}


def write_update(pipeline: PipelineContext, update: Any) -> None:
    """Carries out one `Update`. Raises RuntimeRequestError."""
    kind, message = _kind(update.entity)
    name = pb.Update.Type.Name(update.type) if update.type in pb.Update.Type.values() else "UNSPECIFIED"
    if name == "UNSPECIFIED":
        raise invalid("the type of the update is not set")
    kind.write(pipeline, name, message)


def read_entity(pipeline: PipelineContext, entity: Any) -> list[Any]:
    """What one request of a Read selects. Raises RuntimeRequestError."""
    kind, message = _kind(entity)
    return list(kind.read(pipeline, message))


def _kind(entity: Any) -> tuple[EntityKind, Any]:
    name = entity.WhichOneof("entity")
    if name is None:
        raise invalid("the entity is not set")
    if name not in KINDS:
        raise unimplemented(f"{name} is not supported: this pipeline has no externs of its own kind")
    return KINDS[name], getattr(entity, name)
