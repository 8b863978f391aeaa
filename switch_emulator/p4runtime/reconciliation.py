"""State of one pipeline carried over to another: RECONCILE_AND_COMMIT (P4Runtime specification, section 14).

State is what reads of the old pipeline return, and the new one is given it by writes: so it fits when ids, keys and values do.
What packets change between the reading and the moment the new pipeline is in force is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import text_format

from switchml.p4runtime.refusals import RuntimeRequestError, invalid
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.entities import read_entity, write_update

# What is inserted, each after what it refers to, and what is always there.
_CONTAINERS = (
    "action_profile_member { }",
    "action_profile_group { }",
    "packet_replication_engine_entry { multicast_group_entry { } }",
    "packet_replication_engine_entry { clone_session_entry { } }",
    "table_entry { counter_data { } meter_config { } }",
    "digest_entry { }",
)
_CELLS = ("counter_entry { }", "meter_entry { }", "value_set_entry { }")


def carry_over(old: PipelineContext, new: PipelineContext) -> None:
    """Raises INVALID_ARGUMENT, naming what the new pipeline has no place for; what it was given till then stays."""
    for query in reversed(_CONTAINERS):  # entries that the program itself brings
        for entity in _read(new, query):
            _write(new, "DELETE", entity)
    for query in _CONTAINERS:
        for entity in _read(old, query):
            _write(new, "INSERT", entity)
    for entity in _changed_defaults(old):
        _write(new, "MODIFY", entity)
    for query in _CELLS:
        there = {entity.SerializeToString(deterministic=True) for entity in _read(new, query)}
        for entity in _read(old, query):
            if not _is_blank(entity) and entity.SerializeToString(deterministic=True) not in there:
                _write(new, "MODIFY", entity)
    for entity in _changed_registers(old, new):
        _write(new, "MODIFY", entity)


def _read(pipeline: PipelineContext, query: str) -> Iterator[Any]:
    """Constant entries are the program's, no state."""
    for entity in read_entity(pipeline, text_format.Parse(query, pb.Entity())):
        if not (entity.HasField("table_entry") and entity.table_entry.is_const):
            yield entity


def _changed_defaults(pipeline: PipelineContext) -> Iterator[Any]:
    for name in pipeline.memory.defaults:
        query = pb.Entity()
        query.table_entry.table_id = pipeline.schema.tables.by_name[name].id
        query.table_entry.is_default_action = True
        yield from read_entity(pipeline, query)


def _changed_registers(old: PipelineContext, new: PipelineContext) -> Iterator[Any]:
    """Cells that hold something else than in the new pipeline. There may be hundreds of thousands: no message for each."""
    for register in old.schema.registers.by_id.values():
        known = new.schema.registers.by_id.get(register.id)
        there = new.runtime.read_register(known.name) if known else ()
        for index, value in enumerate(old.runtime.read_register(register.name)):
            if value != (there[index] if index < len(there) else 0):
                query = pb.Entity(register_entry=pb.RegisterEntry(register_id=register.id))
                query.register_entry.index.index = index
                yield from read_entity(old, query)


def _is_blank(entity: Any) -> bool:
    """A cell as it was in the beginning need not have a place."""
    kind = entity.WhichOneof("entity")
    if kind == "counter_entry":
        return bool(entity.counter_entry.data == pb.CounterData())
    if kind == "meter_entry":
        return not entity.meter_entry.HasField("config")
    return not entity.value_set_entry.members


def _write(pipeline: PipelineContext, update: str, entity: Any) -> None:
    try:
        write_update(pipeline, pb.Update(type=pb.Update.Type.Value(update), entity=entity))
    except RuntimeRequestError as error:
        what = text_format.MessageToString(entity, as_one_line=True)
        raise invalid(f"the state can't be kept: {what[:300]}: {error}") from error
