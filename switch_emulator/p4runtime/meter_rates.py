"""`MeterConfig` and `CounterData` messages (P4Runtime specification, sections 9.3 and 9.4)."""

from __future__ import annotations

from typing import Any

from switchml.p4runtime.entries import CounterValue, MeterRates
from switchml.p4runtime.refusals import invalid, unimplemented
from switchml.p4runtime.stubs import p4runtime_pb2 as pb


def parse_rates(config: Any, kind: str, what: str) -> MeterRates:
    """kind: the meter's type by name. Raises INVALID_ARGUMENT for rates that a meter of that type can't have."""
    rates = MeterRates(config.cir, config.cburst, config.pir, config.pburst)
    if min(rates.cir, rates.cburst, rates.pir, rates.pburst) < 0:
        raise invalid(f"{what}: rates and bursts can't be below 0")
    if rates.pir < rates.cir:
        raise invalid(f"{what}: the peak rate {rates.pir} is below the committed one, {rates.cir}")
    if kind != "TWO_RATE_THREE_COLOR" and (rates.pir, rates.pburst) != (rates.cir, rates.cburst):
        raise invalid(f"{what}: a meter of one rate wants pir = cir and pburst = cburst")
    if config.eburst:
        if kind == "SINGLE_RATE_THREE_COLOR":
            raise unimplemented(f"{what}: excess bursts are not supported")
        raise invalid(f"{what}: eburst belongs to meters of one rate and three colours")
    return rates


def rates_message(rates: MeterRates) -> Any:
    """The message of a meter's rates."""
    return pb.MeterConfig(cir=rates.cir, cburst=rates.cburst, pir=rates.pir, pburst=rates.pburst)


def parse_counter(data: Any, what: str) -> CounterValue:
    """The cell that a message gives. Raises INVALID_ARGUMENT for counts below 0."""
    if data.packet_count < 0 or data.byte_count < 0:
        raise invalid(f"{what}: counts can't be below 0")
    return CounterValue(data.packet_count, data.byte_count)


def counter_message(value: CounterValue) -> Any:
    """The message of a counter's cell."""
    return pb.CounterData(packet_count=value.packets, byte_count=value.bytes)


def refuse_colour_counters(message: Any, field: str, what: str) -> None:
    """Meters do not count their packets by colour here."""
    if message.HasField(field):
        raise unimplemented(f"{what}: packets are not counted by colour; leave {field} unset")
