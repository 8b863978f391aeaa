"""`CounterEntry`, `MeterEntry` and `RegisterEntry`: arrays with an index (P4Runtime specification, sections 9.3, 9.4, 9.7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from switchml.p4runtime.data_types import encode_all
from switchml.p4runtime.refusals import invalid, out_of_range, unimplemented
from switchml.p4runtime.schema import ArrayInfo, RegisterInfo
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.meter_rates import (
    counter_message,
    parse_counter,
    parse_rates,
    rates_message,
    refuse_colour_counters,
)
from switchml.switch_emulator.p4runtime.updates import only_modify


def write_counter(pipeline: PipelineContext, update: str, message: Any) -> None:
    """Carry out an update of a `CounterEntry` (section 9.3)."""
    only_modify(update, "a counter")
    counter = pipeline.schema.counters.get(message.counter_id)
    cells = _cells(counter, message)
    if not message.HasField("data"):
        return
    value = parse_counter(message.data, f"counter {counter.name}")
    for cell in cells:
        pipeline.runtime.write_counter(counter.name, cell, value)


def read_counters(pipeline: PipelineContext, message: Any) -> Iterator[Any]:
    """A counter id of 0 reads all counters, no index all cells."""
    for counter in pipeline.schema.counters.select(message.counter_id):
        cells, single = _selected_cells(counter, message.counter_id, message)
        values = pipeline.runtime.read_counter(counter.name, single)
        for cell, value in zip(cells, values, strict=False):
            found = pb.CounterEntry(counter_id=counter.id, data=counter_message(value))
            found.index.index = cell
            yield pb.Entity(counter_entry=found)


def write_meter(pipeline: PipelineContext, update: str, message: Any) -> None:
    """Carry out an update of a `MeterEntry` (section 9.4)."""
    only_modify(update, "a meter")
    meter = pipeline.schema.meters.get(message.meter_id)
    refuse_colour_counters(message, "counter_data", f"meter {meter.name}")
    cells = _cells(meter, message)
    rates = None
    if message.HasField("config"):
        rates = parse_rates(message.config, meter.kind, f"meter {meter.name}")
    for cell in cells:
        pipeline.runtime.set_meter(meter.name, cell, rates)


def read_meters(pipeline: PipelineContext, message: Any) -> Iterator[Any]:
    """A meter id of 0 reads all meters, no index all cells."""
    refuse_colour_counters(message, "counter_data", "meter")
    for meter in pipeline.schema.meters.select(message.meter_id):
        for cell in _selected_cells(meter, message.meter_id, message)[0]:
            rates = pipeline.runtime.get_meter(meter.name, cell)
            found = pb.MeterEntry(meter_id=meter.id, config=rates_message(rates) if rates else None)
            found.index.index = cell
            yield pb.Entity(meter_entry=found)


def write_register(pipeline: PipelineContext, update: str, message: Any) -> None:
    """Carry out an update of a `RegisterEntry` (section 9.7)."""
    only_modify(update, "a register")
    register = pipeline.schema.registers.get(message.register_id)
    cells = _cells(register, message)
    values = register.type.decode(message.data, f"register {register.name}")
    if len(values) != 1:
        raise unimplemented(f"register {register.name}: cells of several fields are not supported")
    pipeline.runtime.write_register(
        register.name, cells.start if message.HasField("index") else None, values[0]
    )


def read_registers(pipeline: PipelineContext, message: Any) -> Iterator[Any]:
    """A register id of 0 reads all registers, no index all cells."""
    for register in pipeline.schema.registers.select(message.register_id):
        cells, single = _selected_cells(register, message.register_id, message)
        values = pipeline.runtime.read_register(register.name, single)
        for cell, value in zip(cells, values, strict=False):
            entity = pb.Entity()
            found = entity.register_entry
            found.register_id = register.id
            found.index.index = cell
            encode_all(register.type, (value,), found.data)
            yield entity


def _selected_cells(array: ArrayInfo | RegisterInfo, wanted: int, message: Any) -> tuple[range, int | None]:
    """The cells to read, and the index when it is one. A read of all arrays (`wanted` is 0) means all their cells, whatever
    its index says.
    """
    cells = _cells(array, message) if wanted else range(array.size)
    return cells, cells.start if wanted and message.HasField("index") else None


def _cells(array: ArrayInfo | RegisterInfo, message: Any) -> range:
    """The cells that a request means. Raises INVALID_ARGUMENT for a negative index, OUT_OF_RANGE for one too large."""
    if not message.HasField("index"):
        return range(array.size)
    index = message.index.index
    if index < 0:
        raise invalid(f"{array.name}: an index can't be below 0")
    if index >= array.size:
        raise out_of_range(f"{array.name}: index {index}; it has {array.size} cells")
    return range(index, index + 1)
