"""Packet scripts of any text are played, or refused with their line: no traceback, no gigabytes, no minutes."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path

import pytest
from everything_program import everything
from fuzz_budget import guided, inputs

from switchml.stf.emulator_target import Clock, EmulatorSwitch
from switchml.stf.language import StfError, parse, parse_file
from switchml.stf.program_names import read_names
from switchml.stf.runner import run_script
from switchml.switch_emulator.p4 import P4Switch, load_program

# Processor time of a script, which takes milliseconds.
_MOST_SECONDS = 5.0
pytestmark = pytest.mark.timeout(600)

_SCRIPT = """
# one of every statement
add t 3 h.a:0x07 an_action(first:1, second:2) = one
add chosen h.b:5 an_action(1, 2)
add t 7 hdr.h.a:0x1* an_action(first:0xff, second:0)
setdefault t an_action(3, 4)
mc_mgrp_create 9
mc_node_create 1 2 3
mc_node_associate 9 0
mirroring_add 5 3
mirroring_get 5
register_write cells 1 5
register_read cells 1
register_reset cells
counter_write packets 1 2 3
counter_read packets 1
meter_set_rates rate 0 0.01:10 0.02:20
meter_get_rates rate 0
packet 1 0709 000102030405060708090A0B0C0D0E0F 00 11 22
packet 1 07 ** 09
wait 1
expect 2 07** **
expect 3
expect 2 0709 $
no_packet 4
no_packet
check_counter packets(1) packets == 5
check_counter packets(1) bytes >= 0
check_register cells(1) == 77
remove one
remove all t
"""

_TOKENS = (
    "", " ", "\n", "\t", "\r\n", "#", '"', "$", "*", "**", "0x", "0b1*", "-1", "99999999999999999999", "9" * 5000, "1e308", "nan",
    "inf", "0x" + "F" * 600, "\0", "\ud800", "\u0661", "\xe9", ":", "/33", "/-1", "&&&0", "..", "->", "=", "==", "(", ")", "((((",
    ",", "all", "packet", "expect", "add", "remove", "wait", "setdefault", "mc_node_associate", "meter_set_rates",
    "check_counter",
)  # fmt: skip


def _changed(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 5))):
        number = rng.randrange(len(lines))
        parts = re.findall(r"\w+|\s+|.", lines[number]) or [""]
        at = rng.randrange(len(parts))
        match rng.randrange(7):
            case 0:
                parts[at] = rng.choice(_TOKENS)
            case 1:
                parts.insert(at, rng.choice(_TOKENS))
            case 2:
                del parts[at]
            case 3:
                parts[at : at + 1] = [parts[at]] * rng.choice((2, 3, 500))
            case 4:
                other = re.findall(r"\w+|\s+|.", rng.choice(lines)) or [""]
                parts[at] = rng.choice(other)
            case 5:
                lines.insert(rng.randrange(len(lines)), lines[number])
            case _:
                character = chr(rng.choice((rng.randrange(128), rng.randrange(0xD800))))
                parts[at] = parts[at][:1] + character + parts[at][2:]
        lines[number] = "".join(parts)
    return "\n".join(lines)


@guided()
def test_scripts_of_any_text() -> None:
    document = everything().build()
    names, program = read_names(document), load_program(json.dumps(document).encode())
    for rng in inputs(1000, 0.1):
        text = _changed(_SCRIPT, rng)
        if rng.random() < 0.7:
            # A line alone goes further than a whole script, which ends at its first fault.
            text = "\n".join(rng.sample(text.splitlines(), 3))
        clock = Clock()
        device = P4Switch(program, clock=clock)
        target = EmulatorSwitch(device, device.process, clock=clock)
        before = time.process_time()
        try:
            run_script(parse(text, "s.stf"), names, target, "s.stf")
        except StfError as error:
            said = str(error)
            assert said.startswith("s.stf:"), said
        finally:
            target.close()
        assert time.process_time() - before < _MOST_SECONDS, text[:2000]


@pytest.mark.parametrize("data", [b"\xff\xfe", b"packet 1 \x80", b"\0" * 100, b"packet 0 " + b"00" * 100_000])
def test_a_file_of_any_bytes(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.stf").write_bytes(data)
    try:
        parse_file(tmp_path / "s.stf")
    except StfError as error:
        assert "s.stf" in str(error)  # noqa: PT017 - most are refused
