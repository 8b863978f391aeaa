"""`ValueSetEntry`: the values that a parser looks for (P4Runtime specification, section 9.6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from switchml.p4runtime.codec import anything, as_ternary, key_messages, parse_key
from switchml.p4runtime.refusals import exists, too_many
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.updates import only_modify


def write(pipeline: PipelineContext, update: str, message: Any) -> None:
    """Carry out an update of a `ValueSetEntry`."""
    only_modify(update, "a value set")
    value_set = pipeline.schema.value_sets.get(message.value_set_id)
    what = f"value set {value_set.name}"
    if len(message.members) > value_set.size:
        raise too_many(f"{what}: {len(message.members)} members; it takes {value_set.size}")
    fields = value_set.fields.values()
    members = []
    for each in message.members:
        key = parse_key(value_set.fields, each.match, what)
        member = tuple(key.get(field.name) or anything(field) for field in fields)
        if member in members:
            raise exists(f"{what}: a member is there twice")
        members.append(member)
    pipeline.runtime.set_value_set(
        value_set.name,
        [
            tuple(as_ternary(match, field.width) for match, field in zip(member, fields, strict=True))
            for member in members
        ],
    )
    pipeline.memory.value_sets[value_set.name] = tuple(members)


def read(pipeline: PipelineContext, message: Any) -> Iterator[Any]:
    """A value set id of 0 reads all."""
    for value_set in pipeline.schema.value_sets.select(message.value_set_id):
        found = pb.ValueSetEntry(value_set_id=value_set.id)
        names = [field.name for field in value_set.fields.values()]
        for member in pipeline.memory.value_sets.get(value_set.name, ()):
            found.members.add(match=key_messages(value_set.fields, dict(zip(names, member, strict=True))))
        yield pb.Entity(value_set_entry=found)
