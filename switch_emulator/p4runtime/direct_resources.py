"""`DirectCounterEntry` and `DirectMeterEntry`: the counter and meter of a table entry (P4Runtime specification, 9.3.1, 9.4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from switchml.p4runtime.entries import TableEntry
from switchml.p4runtime.refusals import invalid, not_found, unimplemented
from switchml.p4runtime.schema import TableInfo
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.meter_rates import (
    counter_message,
    parse_counter,
    parse_rates,
    rates_message,
    refuse_colour_counters,
)
from switchml.switch_emulator.p4runtime.table_entries import entry_key, entry_message, matching_entries
from switchml.switch_emulator.p4runtime.updates import only_modify


def write_counter(pipeline: PipelineContext, update: str, message: Any) -> None:
    """Carry out an update of a `DirectCounterEntry`; the table entry must be there."""
    only_modify(update, "a direct counter")
    table, entry = _entry(pipeline, message, "counter")
    if message.HasField("data"):
        value = parse_counter(message.data, f"table {table.name}")
        pipeline.runtime.write_direct_counter(table.name, entry.key, value, entry.priority)


def read_counters(pipeline: PipelineContext, message: Any) -> Iterator[Any]:
    """Table id 0 reads the counters of all tables, no key those of all entries."""
    for table, entry in _selected(pipeline, message, "counter"):
        value = pipeline.runtime.read_direct_counter(table.name, entry.key, entry.priority)
        found = pb.DirectCounterEntry(
            table_entry=entry_message(pipeline, table, entry), data=counter_message(value)
        )
        yield pb.Entity(direct_counter_entry=found)


def write_meter(pipeline: PipelineContext, update: str, message: Any) -> None:
    """Carry out an update of a `DirectMeterEntry`; the table entry must be there."""
    only_modify(update, "a direct meter")
    refuse_colour_counters(message, "counter_data", "direct meter")
    table, entry = _entry(pipeline, message, "meter")
    rates = None
    if message.HasField("config"):
        rates = parse_rates(message.config, pipeline.schema.meter_kind_of(table), f"table {table.name}")
    pipeline.runtime.set_direct_meter(table.name, entry.key, rates, entry.priority)


def read_meters(pipeline: PipelineContext, message: Any) -> Iterator[Any]:
    """Table id 0 reads the meters of all tables, no key those of all entries."""
    refuse_colour_counters(message, "counter_data", "direct meter")
    for table, entry in _selected(pipeline, message, "meter"):
        rates = pipeline.runtime.get_direct_meter(table.name, entry.key, entry.priority)
        found = pb.DirectMeterEntry(
            table_entry=entry_message(pipeline, table, entry),
            config=rates_message(rates) if rates else None,
        )
        yield pb.Entity(direct_meter_entry=found)


def _entry(pipeline: PipelineContext, message: Any, resource: str) -> tuple[TableInfo, TableEntry]:
    """The entry that a write names, which must be there."""
    if not message.HasField("table_entry"):
        raise invalid(f"a direct {resource} belongs to a table entry: table_entry is not set")
    wanted = message.table_entry
    table = pipeline.schema.tables.get(wanted.table_id)
    _check(table, wanted, resource)
    key, priority = entry_key(table, wanted)
    for entry in matching_entries(pipeline, table, wanted):
        if entry.priority == priority and (key or not entry.key):
            return table, entry
    raise not_found(f"table {table.name} has no such entry")


def _selected(
    pipeline: PipelineContext, message: Any, resource: str
) -> Iterator[tuple[TableInfo, TableEntry]]:
    if not message.HasField("table_entry"):
        raise invalid("table_entry is not set; give one with table id 0 to read those of all tables")
    wanted = message.table_entry
    for table in pipeline.schema.tables.select(wanted.table_id):
        if wanted.table_id == 0 and not getattr(table, resource):
            continue
        _check(table, wanted, resource)
        empty = True
        for entry in matching_entries(pipeline, table, wanted):
            if wanted.match or wanted.priority in (0, entry.priority):
                empty = False
                yield table, entry
        if empty and wanted.match:
            raise not_found(f"table {table.name} has no such entry")


def _check(table: TableInfo, wanted: Any, resource: str) -> None:
    if not getattr(table, resource):
        raise invalid(f"table {table.name} has no direct {resource}")
    if wanted.is_default_action:
        raise unimplemented(f"table {table.name}: the default entry has no {resource} of its own here")
