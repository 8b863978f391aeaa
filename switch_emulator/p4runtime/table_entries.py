"""`TableEntry`: match-action entries and default entries with their direct resources (P4Runtime specification, section 9.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from switchml.p4runtime.codec import action_message, canonical_key, key_messages, parse_action, parse_key
from switchml.p4runtime.entries import CounterValue, MeterRates, OneShot, TableEntry
from switchml.p4runtime.refusals import RuntimeRequestError, denied, invalid, not_found, unimplemented
from switchml.p4runtime.schema import TableInfo
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.actions import parse_table_action, table_action_message
from switchml.switch_emulator.p4runtime.context import EntryName, Key, PipelineContext, entry_name
from switchml.switch_emulator.p4runtime.meter_rates import (
    counter_message,
    parse_counter,
    parse_rates,
    rates_message,
    refuse_colour_counters,
)


def write(pipeline: PipelineContext, update: str, message: Any) -> None:
    """Carry out an update of a `TableEntry`."""
    table = pipeline.schema.tables.get(message.table_id)
    if message.is_default_action:
        _write_default(pipeline, table, update, message)
        return
    if update == "INSERT" and not table.fields:
        raise invalid(f"table {table.name} has no key, so it has no entry but the default")
    key, priority = entry_key(table, message)
    if update == "DELETE":
        _refuse_is_const(message, table)  # the one field outside the key that DELETE looks at
        _refuse_constant(table)
        pipeline.runtime.delete(table.name, key, priority)
        _forget(pipeline, table, entry_name(table.name, key, priority))
        return
    _refuse_read_only_fields(message, table)
    rates, count = _direct_resources(pipeline, table, message)
    if update == "INSERT":
        _insert(pipeline, table, message, key, rates, count)
    else:
        _modify(pipeline, table, message, key, rates, count)


def read(pipeline: PipelineContext, message: Any) -> Iterator[Any]:
    """Entries that pass the filters set in `message`; a table id of 0 reads all tables."""
    refuse_colour_counters(message, "meter_counter_data", "table entry")
    tables = pipeline.schema.tables.select(message.table_id)
    if message.table_id == 0 and message.match:
        raise invalid("a key filters the entries of one table; set the table id")
    if message.HasField("time_since_last_hit") and message.table_id and not tables[0].idle_timeout:
        raise invalid(f"table {tables[0].name} has no idle timeout")
    for table in tables:
        if message.is_default_action:
            yield from _read_default(pipeline, table, message)
            continue
        for entry in matching_entries(pipeline, table, message):
            found = entry_message(pipeline, table, entry)
            if _passes(message, found):
                _add_direct_resources(pipeline, table, entry, message, found)
                if message.HasField("time_since_last_hit") and table.idle_timeout:
                    found.time_since_last_hit.elapsed_ns = pipeline.runtime.time_since_last_hit(
                        table.name, entry.key, entry.priority
                    )
                yield pb.Entity(table_entry=found)


def entry_key(table: TableInfo, message: Any) -> tuple[dict[str, Any], int]:
    """What identifies an entry: key and priority, checked."""
    key = parse_key(table.fields, message.match, f"table {table.name}")
    if table.needs_priority and message.priority <= 0:
        raise invalid(f"table {table.name}: a priority of {message.priority}; this key needs one above 0")
    if not table.needs_priority and message.priority != 0:
        raise invalid(f"table {table.name}: a priority of {message.priority}; this key has none, so 0")
    return key, message.priority


def matching_entries(pipeline: PipelineContext, table: TableInfo, message: Any) -> Iterator[TableEntry]:
    """The entries of a table; with a key in `message`, the one that has it (and, when set, that priority)."""
    entries = pipeline.runtime.entries(table.name)
    if not message.match:
        yield from entries
        return
    wanted = parse_key(table.fields, message.match, f"table {table.name}")
    for entry in entries:
        if message.priority in (0, entry.priority) and canonical_key(table.fields, entry.key) == wanted:
            yield entry


def entry_message(pipeline: PipelineContext, table: TableInfo, entry: TableEntry) -> Any:
    """An entry without its direct resources."""
    cookie = pipeline.memory.cookies.get(entry_name(table.name, entry.key, entry.priority), 0)
    message = pb.TableEntry(
        table_id=table.id,
        match=key_messages(table.fields, entry.key),
        action=table_action_message(pipeline, entry.action),
        priority=entry.priority,
        metadata=entry.metadata,
        controller_metadata=cookie,
        idle_timeout_ns=entry.idle_timeout_ns,
    )
    if table.const:
        message.is_const = True
    return message


def _insert(
    pipeline: PipelineContext,
    table: TableInfo,
    message: Any,
    key: Key,
    rates: MeterRates | None,
    count: CounterValue | None,
) -> None:
    _refuse_constant(table)
    action = parse_table_action(pipeline, table, message.action)
    priority = message.priority
    entry = TableEntry(key, action, priority, message.metadata, message.idle_timeout_ns)
    _check_style(pipeline, table, entry)
    pipeline.runtime.insert(table.name, entry)
    try:
        if rates is not None:
            pipeline.runtime.set_direct_meter(table.name, key, rates, priority)
        if count is not None:
            pipeline.runtime.write_direct_counter(table.name, key, count, priority)
    except RuntimeRequestError:
        pipeline.runtime.delete(table.name, key, priority)
        raise
    _remember(pipeline, table, entry, message.controller_metadata)


def _modify(
    pipeline: PipelineContext,
    table: TableInfo,
    message: Any,
    key: Key,
    rates: MeterRates | None,
    count: CounterValue | None,
) -> None:
    priority = message.priority
    if message.HasField("action"):
        _refuse_constant(table)
        action = parse_table_action(pipeline, table, message.action)
        entry = TableEntry(key, action, priority, message.metadata, message.idle_timeout_ns)
        _check_style(pipeline, table, entry)
        pipeline.runtime.modify(table.name, entry)
        _remember(pipeline, table, entry, message.controller_metadata)
    elif next(matching_entries(pipeline, table, message), None) is None:
        raise not_found(f"table {table.name} has no such entry")
    if table.meter:
        pipeline.runtime.set_direct_meter(table.name, key, rates, priority)
    if count is not None:
        pipeline.runtime.write_direct_counter(table.name, key, count, priority)


def _write_default(pipeline: PipelineContext, table: TableInfo, update: str, message: Any) -> None:
    what = f"table {table.name}: the default entry"
    if update != "MODIFY":
        raise invalid(f"{what} is always there: it can only be modified")
    if message.match or message.priority:
        raise invalid(f"{what} has neither key nor priority")
    if message.idle_timeout_ns:
        raise invalid(f"{what} has no idle timeout")
    _refuse_read_only_fields(message, table)
    if message.HasField("counter_data") or message.HasField("meter_config"):
        raise unimplemented(f"{what} has no counter or meter of its own here")
    if table.const_default or table.profile is not None:
        raise denied(f"{what} is constant")
    if not message.HasField("action"):
        pipeline.runtime.set_default(table.name, None)
        pipeline.memory.defaults.pop(table.name, None)
        return
    if message.action.WhichOneof("type") != "action":
        raise invalid(f"{what} takes an action")
    action = parse_action(table.actions, message.action.action, what, default=True)
    pipeline.runtime.set_default(table.name, action)
    pipeline.memory.defaults[table.name] = (message.metadata, message.controller_metadata)


def _read_default(pipeline: PipelineContext, table: TableInfo, filters: Any) -> Iterator[Any]:
    if filters.match or filters.priority:
        raise invalid(f"table {table.name}: the default entry has neither key nor priority")
    metadata, cookie = pipeline.memory.defaults.get(table.name, (b"", 0))
    message = pb.TableEntry(
        table_id=table.id, is_default_action=True, metadata=metadata, controller_metadata=cookie
    )
    if table.profile is None:
        action = action_message(pipeline.schema, pipeline.runtime.default(table.name))
        if action is not None:
            message.action.action.CopyFrom(action)
    if _passes(filters, message):
        yield pb.Entity(table_entry=message)


def _passes(filters: Any, found: Any) -> bool:
    if filters.HasField("action"):
        if filters.action.WhichOneof("type") != "action":
            raise invalid("entries can be filtered by action id only")
        if filters.action.action.action_id not in (0, found.action.action.action_id):
            return False
    return (
        filters.priority in (0, found.priority)
        and filters.metadata in (b"", found.metadata)
        and filters.controller_metadata in (0, found.controller_metadata)
    )


def _add_direct_resources(
    pipeline: PipelineContext, table: TableInfo, entry: TableEntry, filters: Any, found: Any
) -> None:
    if filters.HasField("counter_data") and table.counter:
        value = pipeline.runtime.read_direct_counter(table.name, entry.key, entry.priority)
        found.counter_data.CopyFrom(counter_message(value))
    if filters.HasField("meter_config") and table.meter:
        rates = pipeline.runtime.get_direct_meter(table.name, entry.key, entry.priority)
        if rates is not None:
            found.meter_config.CopyFrom(rates_message(rates))


def _direct_resources(
    pipeline: PipelineContext, table: TableInfo, message: Any
) -> tuple[MeterRates | None, CounterValue | None]:
    what = f"table {table.name}"
    rates = count = None
    if message.HasField("meter_config"):
        if not table.meter:
            raise invalid(f"{what} has no direct meter")
        rates = parse_rates(message.meter_config, pipeline.schema.meter_kind_of(table), what)
    if message.HasField("counter_data"):
        if not table.counter:
            raise invalid(f"{what} has no direct counter")
        count = parse_counter(message.counter_data, what)
    return rates, count


def _refuse_read_only_fields(message: Any, table: TableInfo) -> None:
    what = f"table {table.name}"
    _refuse_is_const(message, table)
    if message.HasField("time_since_last_hit"):
        raise invalid(f"{what}: time_since_last_hit can only be read")
    if message.idle_timeout_ns and not table.idle_timeout:
        raise invalid(f"{what} has no idle timeout")
    if message.idle_timeout_ns < 0:
        raise invalid(f"{what}: an idle timeout can't be below 0")
    refuse_colour_counters(message, "meter_counter_data", what)


def _refuse_is_const(message: Any, table: TableInfo) -> None:
    if message.is_const:
        raise invalid(f"table {table.name}: constant entries are the program's; leave is_const unset")


def _refuse_constant(table: TableInfo) -> None:
    if table.const:
        raise denied(f"the entries of table {table.name} are constant")


def _check_style(pipeline: PipelineContext, table: TableInfo, entry: TableEntry) -> None:
    """The tables of a selector hold one-shots, or members and groups: never both (section 9.2.3)."""
    if table.profile is None:
        return
    name = entry_name(table.name, entry.key, entry.priority)
    styles = pipeline.memory.styles.get(table.profile.name, {})
    other = next((each for each in styles if each != name), None)  # all others are alike
    if other is not None and styles[other] is not isinstance(entry.action, OneShot):
        has = "one-shots" if styles[other] else "members and groups"
        raise invalid(
            f"table {table.name}: {table.profile.name} is programmed with {has}, and takes no mixture"
        )


def _remember(pipeline: PipelineContext, table: TableInfo, entry: TableEntry, cookie: int) -> None:
    name = entry_name(table.name, entry.key, entry.priority)
    _forget(pipeline, table, name)
    if cookie:
        pipeline.memory.cookies[name] = cookie
    if table.profile is not None:
        styles = pipeline.memory.styles.setdefault(table.profile.name, {})
        styles[name] = isinstance(entry.action, OneShot)


def _forget(pipeline: PipelineContext, table: TableInfo, name: EntryName) -> None:
    pipeline.memory.cookies.pop(name, None)
    if table.profile is not None:
        pipeline.memory.styles.get(table.profile.name, {}).pop(name, None)
