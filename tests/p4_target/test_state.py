"""Registers, counters, meters, hashes, random numbers and checksums as an action sees them."""

from __future__ import annotations

import random
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.p4runtime.entries import ActionCall, CounterValue, Match, MatchKind, MeterRates, TableEntry
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4 import PipelineError
from switchml.switch_emulator.p4.hashes import ALGORITHMS


def test_registers_keep_their_width_and_ignore_what_is_out_of_range(builder: Any) -> None:
    program = builder()
    program.simple(("i", 8), ("v", 16))
    program.registers.append({"name": "r", "id": 0, "size": 4, "bitwidth": 12})
    register = program.of("register_array", "r")
    total = program.op("+", program.field("h", "v"), program.const(1))
    program.run(
        [
            program.call("register_write", register, program.field("h", "i"), total),
            program.assign("h", "v", program.const(0xAAAA)),
            program.call("register_read", program.field("h", "v"), register, program.field("h", "i")),
        ]
    )
    switch = program.switch()
    assert switch.process(1, b"\x02\xff\xff") == [(0, b"\x02\x00\x00")]
    assert switch.process(1, b"\x02\x12\x33") == [(0, b"\x02\x02\x34")]
    assert switch.process(1, b"\x04\x12\x33") == [(0, b"\x04\xaa\xaa")]
    assert list(switch.read_register("r")) == [0, 0, 0x234, 0]
    switch.write_register("r", 0, 7)
    assert list(switch.read_register("r", 0)) == [7]
    switch.write_register("r", None, 1)
    assert list(switch.read_register("r")) == [1, 1, 1, 1]
    for name, index, value, code in (
        ("r", 4, 0, "NOT_FOUND"),
        ("s", 0, 0, "NOT_FOUND"),
        ("r", 0, 1 << 12, "INVALID_ARGUMENT"),
    ):
        with pytest.raises(RuntimeRequestError) as refused:
            switch.write_register(name, index, value)
        assert refused.value.code == code


def test_counters_count_packets_and_bytes_as_they_came_in(builder: Any) -> None:
    program = builder()
    program.simple(("i", 8))
    program.counters.append({"name": "c", "id": 0, "size": 2, "is_direct": False})
    program.header("extra", [("x", 32)])
    program.order.append("extra")
    program.run(
        [
            program.call("add_header", program.of("header", "extra")),
            program.call("count", program.of("counter_array", "c"), program.field("h", "i")),
        ]
    )
    switch = program.switch()
    for frame in (b"\x01", b"\x01abc", b"\x02"):
        switch.process(1, frame)
    assert list(switch.read_counter("c")) == [CounterValue(), CounterValue(2, 5)]
    switch.write_counter("c", 0, CounterValue(8, 9))
    assert list(switch.read_counter("c", 0)) == [CounterValue(8, 9)]


def test_a_meter_marks_what_is_above_its_rates(builder: Any) -> None:
    program = builder()
    program.simple(("i", 8), ("colour", 8))
    program.meters.append(
        {"name": "m", "id": 0, "size": 2, "type": "packets", "rate_count": 2, "is_direct": False}
    )
    program.run(
        [
            program.call(
                "execute_meter",
                program.of("meter_array", "m"),
                program.field("h", "i"),
                program.field("h", "colour"),
            )
        ]
    )
    now = 0
    switch = program.switch(clock=lambda: now)

    def colour() -> int:
        return int(switch.process(1, b"\x01\x07")[0][1][1])

    assert colour() == 0
    rates = MeterRates(cir=1, cburst=1, pir=2, pburst=2)
    switch.set_meter("m", 1, rates)
    assert switch.get_meter("m", 1) == rates
    assert [colour() for _ in range(3)] == [0, 1, 2]
    now = 1_000_000
    assert [colour() for _ in range(3)] == [0, 1, 2]
    switch.set_meter("m", 1, None)
    assert [colour() for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("unit", ["packets", "bytes"])
def test_a_direct_meter_colours_what_hits_its_entry(builder: Any, unit: str) -> None:
    program = builder()
    program.simple(("x", 8), ("colour", 8))
    program.header("meta", [("colour", 8)], metadata=True)
    program.meters.append(
        {
            "name": "dm", "id": 0, "type": unit, "rate_count": 2, "is_direct": True, "binding": "t",
            "result_target": ["meta", "colour"],
        }
    )  # fmt: skip
    show = program.action("show", [program.assign("h", "colour", program.field("meta", "colour"))])
    program.table(
        "t", [show], key=[("h", "x", "exact")], default=show, direct_meters="dm", with_counters=True
    )
    switch = program.switch(clock=lambda: 0)
    key = {"hdr.h.x": Match(MatchKind.EXACT, 5)}
    switch.insert("t", TableEntry(key, ActionCall("show")))
    length = 1 if unit == "packets" else 4
    rates = MeterRates(cir=1, cburst=length, pir=2, pburst=3 * length)

    def colours(x: int, count: int) -> list[int]:
        return [switch.process(1, bytes([x, 7, 0, 0]))[0][1][1] for _ in range(count)]

    assert switch.get_direct_meter("t", key) is None
    assert colours(5, 2) == [0, 0]
    switch.set_direct_meter("t", key, rates)
    assert switch.get_direct_meter("t", key) == rates
    assert colours(5, 4) == [0, 1, 1, 2]
    assert colours(6, 2) == [0, 0]
    assert switch.read_direct_counter("t", key) == CounterValue(6, 24)
    switch.set_direct_meter("t", key, None)
    assert colours(5, 1) == [0]


def test_a_register_stands_in_an_expression(builder: Any) -> None:
    program = builder()
    program.simple(("i", 8), ("x", 8))
    program.registers.append({"name": "r", "id": 0, "size": 3, "bitwidth": 8})
    value = program.of("register", ["r", program.field("h", "i")])
    program.run([program.assign("h", "x", program.op("+", value, program.field("h", "x")))])
    program.run(
        [program.call("assign", program.of("register", ["r", program.const(1)]), program.field("h", "x"))]
    )
    switch = program.switch()
    switch.write_register("r", None, 40)
    assert switch.process(1, b"\x02\x02") == [(0, b"\x02\x2a")]
    assert list(switch.read_register("r")) == [40, 42, 40]


@pytest.mark.parametrize(
    ("algorithm", "picks"), [("round_robin", [0, 1, 2, 3, 4]), ("round_robin_consistent", [0, 1, 0, 2, 1])]
)
def test_members_are_picked_in_turn(algorithm: str, picks: list[int]) -> None:
    pick = ALGORITHMS[algorithm](random.Random(1))
    assert [pick(data) for data in (b"a", b"b", b"a", b"c", b"b")] == picks


def test_a_division_by_zero_costs_its_packet_alone(builder: Any) -> None:
    program = builder()
    program.simple(("x", 8), ("y", 8))
    program.run([program.assign("h", "x", program.op("/", program.field("h", "x"), program.field("h", "y")))])
    switch = program.switch()
    with pytest.raises(PipelineError, match="zero"):
        switch.process(1, b"\x09\x00")
    assert switch.process(1, b"\x09\x02") == [(0, b"\x04\x02")]


_CHECK = b"123456789"


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [
        ("crc32", 0xCBF43926),
        ("crc32_custom", 0xCBF43926),
        ("crc16", 0xBB3D),
        ("crc16_custom", 0xBB3D),
        ("crcCCITT", 0x29B1),
        ("crc8_custom", 0xF4),
        ("identity", 0x3132333435363738),
        ("xor16", 0x3132 ^ 0x3334 ^ 0x3536 ^ 0x3738 ^ 0x3900),
        ("xor32", 0x31323334 ^ 0x35363738 ^ 0x39000000),
    ],
)
def test_hashes_give_the_published_check_values(algorithm: str, value: int) -> None:
    assert ALGORITHMS[algorithm](None)(_CHECK) == value  # type: ignore[arg-type]


@given(data=st.binary(max_size=64))
def test_the_internet_checksum_adds_with_end_around_carry(data: bytes) -> None:
    padded = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert ALGORITHMS["csum16"](None)(data) == 0xFFFF ^ total  # type: ignore[arg-type]


def test_a_hash_over_fields_payload_and_headers_that_are_valid(builder: Any) -> None:
    program = builder()
    program.simple(("a", 4), ("b", 12), ("hash", 32))
    program.header("absent", [("x", 8)])
    inputs = [
        program.field("h", "a"),
        program.field("absent", "x"),
        program.field("h", "b"),
        {"type": "hexstr", "value": "0x5a", "bitwidth": 8},
        {"type": "header", "value": "absent"},
        {"type": "payload"},
    ]
    program.calculations.append({"name": "calc", "id": 0, "algo": "crc32", "input": inputs})
    program.run(
        [
            program.call(
                "modify_field_with_hash_based_offset",
                program.field("h", "hash"),
                program.const(10),
                program.of("calculation", "calc"),
                program.const(1000),
            )
        ]
    )
    ((_, frame),) = program.switch().process(1, b"\x12\x34----payload")
    assert int.from_bytes(frame[2:6], "big") == zlib.crc32(b"\x12\x34\x5apayload") % 1000 + 10


@pytest.mark.parametrize(("low", "high"), [(3, 6), (0, 7), (5, 5)])
def test_random_numbers_stay_in_their_range_and_follow_the_seed(builder: Any, low: int, high: int) -> None:
    def numbers(seed: int) -> list[int]:
        program = builder()
        program.simple(("x", 8))
        args = (program.field("h", "x"), program.const(low), program.const(high))
        program.run([program.call("modify_field_rng_uniform", *args)])
        switch = program.switch(seed=seed)
        return [switch.process(1, b"\x00")[0][1][0] for _ in range(80)]

    assert numbers(1) == numbers(1)
    assert set(numbers(1)) == set(range(low, high + 1))
    assert numbers(1) != numbers(2) or low == high


def test_checksums_are_verified_and_updated_under_their_condition(builder: Any) -> None:
    program = builder()
    program.simple(("a", 16), ("sum", 16), ("bad", 8), ("on", 8))
    inputs = [program.field("h", "a"), program.field("h", "on")]
    program.calculations.append({"name": "calc", "id": 0, "algo": "csum16", "input": inputs})
    program.checksums.append(
        {
            "name": "cksum",
            "id": 0,
            "target": ["h", "sum"],
            "type": "generic",
            "calculation": "calc",
            "update": True,
            "verify": True,
            "if_cond": program.op("==", program.field("h", "on"), program.const(0)),
        }
    )
    program.run(
        [
            program.assign("h", "bad", program.std("checksum_error")),
            program.assign("h", "a", program.op("+", program.field("h", "a"), program.const(1))),
        ]
    )
    switch = program.switch()
    good = 0xFFFF ^ 0x1234
    assert switch.process(1, b"\x12\x34" + good.to_bytes(2, "big") + b"\x09\x00") == [
        (0, b"\x12\x35" + (good - 1).to_bytes(2, "big") + b"\x00\x00")
    ]
    assert switch.process(1, b"\x12\x34\x00\x00\x09\x00") == [
        (0, b"\x12\x35" + (good - 1).to_bytes(2, "big") + b"\x01\x00")
    ]
    # Switched off: neither looked at nor changed.
    assert switch.process(1, b"\x12\x34\x00\x00\x09\x01") == [(0, b"\x12\x35\x00\x00\x00\x01")]


@given(data=st.binary(min_size=20, max_size=20), present=st.booleans())
def test_the_checksum_of_fields_is_that_of_their_bytes(builder: Any, data: bytes, present: bool) -> None:
    """Fields of an IPv4 header without options, and of one that may be missing."""
    program = builder()
    fields = [
        ("version", 4), ("ihl", 4), ("tos", 8), ("length", 16), ("id", 16), ("flags", 3), ("offset", 13), ("ttl", 8),
        ("protocol", 8), ("src", 48), ("dst", 32),
    ]  # fmt: skip
    program.header("ip", fields)
    program.header("ports", [("a", 16), ("b", 16)])
    program.header("out", [("sum", 16)])
    program.order += ["out", "ip", "ports"]
    program.state("start", [program.extract("ip")], default="more" if present else None)
    program.state("more", [program.extract("ports")])
    inputs = [program.field("ip", name) for name, _ in fields] + [
        program.field("ports", name) for name in "ab"
    ]
    program.calculations.append({"name": "calc", "id": 0, "algo": "csum16", "input": inputs})
    program.run([program.call("add_header", program.of("header", "out"))])
    program.checksums.append(
        {
            "name": "ck",
            "id": 0,
            "target": ["out", "sum"],
            "type": "generic",
            "calculation": "calc",
            "update": True,
            "verify": False,
        }
    )
    frame = data + b"\x12\x34\xff\xff"
    covered = frame if present else data
    ((_, sent),) = program.switch().process(1, frame)
    assert int.from_bytes(sent[:2], "big") == ALGORITHMS["csum16"](random.Random(1))(covered)
