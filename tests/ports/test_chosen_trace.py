"""A trace of the packets that are wanted."""

from __future__ import annotations

import pytest

from switchml.packets.selection import Selection
from switchml.switch_emulator.ports.chosen_trace import ChosenTrace


def port_line(port: int, arrow: str, job: int, slot: int) -> str:
    ends = [f"10.0.0.{port}:5000", "10.0.0.9:48864"]
    source, destination = ends if arrow == "->" else reversed(ends)
    return (
        f"16:49:40.128011 port {port:<3} {arrow} {source} > {destination} SwitchML SUM job {job} tsi {slot} "
        f"slot {slot} version 0 exponents 0,0, 64 elements"
    )


def steps(port: int, job: int, slot: int) -> list[str]:
    return [
        f"packet of 308 bytes on port {port}",
        "  parser state parse_switchml",
        f"    extract switchml: msg_type = 0x1, job_number = {job:#x}, tsi = {slot:#x}, version = 0x0, slot = {slot:#x}",
        "ingress",
        f"  of job {job} and slot {slot}, from port {port}",
    ]


# Two packets come, both go through the program, and an answer leaves after each.
ARRIVALS = [port_line(1, "->", 1, 4), port_line(2, "->", 3, 5)]
FIRST, SECOND = [*steps(1, 1, 4)], [*steps(2, 3, 5)]
ANSWERS = [port_line(1, "<-", 1, 4), port_line(2, "<-", 3, 5)]
OTHERS = [
    "16:49:40.128011 port 3   -> ARP who has 10.0.0.9? tell 10.0.0.3",
    "packet of 60 bytes on port 3",
    "  parser error",
]
TRACE = [*ARRIVALS, *OTHERS, *FIRST, ANSWERS[0], *SECOND, ANSWERS[1]]


@pytest.mark.parametrize(
    ("selection", "shown"),
    [
        (Selection(job=1), [ARRIVALS[0], *FIRST, ANSWERS[0]]),
        (Selection(slot=5), [ARRIVALS[1], *SECOND, ANSWERS[1]]),
        (Selection(rank=7), [ARRIVALS[1], *SECOND, ANSWERS[1]]),
        (Selection(job=1, slot=5), []),
        (Selection(count=1), [ARRIVALS[0], *FIRST, ANSWERS[0]]),
        (Selection(count=0), []),
        (Selection(rank=7, count=2), [ARRIVALS[1], *SECOND, ANSWERS[1]]),
    ],
)
def test_what_is_shown(selection: Selection, shown: list[str]) -> None:
    lines: list[str] = []
    trace = ChosenTrace(lines.append, selection)
    trace.know({("10.0.0.1", 5000): 6, ("10.0.0.2", 5000): 7})
    for line in TRACE:
        trace(line)
    assert lines == shown
