"""What `switchml top` draws."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from watched_switch import NAME, counters, job, member, slots, status

from switchml.control.control_messages import EndedJob
from switchml.telemetry.events import counters_message, jobs_message, slots_message, switch_message
from switchml.telemetry.picture import Picture
from switchml.telemetry.terminal_view import clock, duration, quantity, render, sparkline

REASON = "rank 2 has died: its connection was closed without leaving the job, and more words than fit"


def drawn(picture: Picture, width: int = 80, now: float = 0.0) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(picture, now, "waiting"))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def picture(*, ranks: int = 4, transport: str = "udp") -> Picture:
    """Of a switch of which one second was seen."""
    made = Picture()
    members = tuple(
        member(rank, transport=transport, sent_again=123_456 * rank, round_trip=0.0, in_flight=0)
        if transport == "memory"
        else member(rank, transport=transport, sent_again=123_456 * rank)
        for rank in range(ranks)
    )
    for second in range(2):
        counted = counters(
            packets_received=1_234_567 * second,
            bytes_received=10**9 * second,
            elements_added=8_000_000 * second,
            dropped_stale=17 * second,
        )
        one = job(world_size=ranks, members=members, counters=counted, age=3661)
        there = status(one, ended=(EndedJob(f"{NAME}", 2, 4, REASON, 75.0),), **counted)
        for message in (
            switch_message(there),
            jobs_message(there),
            counters_message(there),
            slots_message({3: slots(late=(0, 1, 0, 0))}),
        ):
            made.take(
                {
                    "version": 1,
                    "switch": "127.0.0.1:50551",
                    "time": float(second),
                    "number": second,
                    **message,
                }
            )
    return made


def test_what_is_drawn() -> None:
    lines = drawn(picture())
    text = "\n".join(lines)
    assert lines[0].startswith("switch 127.0.0.1:50551   up 1:39   16,128 of 16,384 slots free")
    flows = {line[:11].strip(): line.split()[2:] for line in lines[2:7]}
    assert flows["packets in"] == ["1.23", "M", "█", "1.23", "M"]
    assert flows["data in"] == ["1.00", "GB", "█", "1.00", "GB"]
    assert "job digits-0 #3   running   4 of 4 ranks   1:01:01" in text
    assert "2.00 M elements/s" in text
    assert "again, by slot █▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁" in text
    (rank_1,) = (line for line in lines if line.strip().startswith("1  udp"))
    assert "1.50 ms" in rank_1
    assert "123 k" in rank_1
    (stale,) = (line for line in lines if line.startswith("stale"))
    assert stale.split()[:2] == ["stale", "17"]
    (ended,) = (line for line in lines if line.startswith("digits-0 #2"))
    assert "1:15 ago  rank 2 has died" in ended


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("transport", ["udp", "memory"])
def test_no_line_is_longer_than_the_terminal_or_cut_but_a_reason(width: int, transport: str) -> None:
    lines = drawn(picture(transport=transport), width)
    assert max(map(len, lines)) <= width
    assert [line for line in lines if "…" in line and "has died" not in line and "slots of" not in line] == []


def test_ranks_without_a_network_have_no_columns_for_it() -> None:
    text = "\n".join(drawn(picture(transport="memory")))
    assert "round trip" not in text
    assert "late" in text


def test_of_many_ranks_the_latest_are_shown() -> None:
    lines = drawn(picture(ranks=100))
    assert sum(" udp " in line for line in lines) == 16
    assert any("84 more" in line for line in lines)
    assert any(line.strip().startswith("1  udp") for line in lines)


def test_what_is_said_while_nothing_has_come_and_when_nothing_comes_any_more() -> None:
    assert drawn(Picture()) == ["waiting"]
    assert "silent for 1:05" in drawn(picture(), now=65.0)[0]


def test_quantities() -> None:
    assert [quantity(value) for value in (0, 7, 7.5, 12.25, 999, 999.9, 123_456, 2.5e9)] == [
        "0", "7", "7.50", "12.2", "999", "1.00 k", "123 k", "2.50 G",
    ]  # fmt: skip
    assert quantity(1_500_000, "B") == "1.50 MB"
    assert [duration(value) for value in (2.5, 0.0125, 0.000_080)] == ["2.50 s", "12.5 ms", "80.0 µs"]
    assert [clock(value) for value in (5.9, 65, 3661)] == ["0:05", "1:05", "1:01:01"]


def test_sparklines() -> None:
    assert sparkline([0, 1, 2, 4], 3) == "▃▅█"
    assert sparkline([0, 0], 10) == "▁▁"
    assert sparkline([], 10) == ""
    assert sparkline([1], 5, most=8) == "▂"


def test_a_long_name_leaves_room_for_what_the_job_does() -> None:
    made = Picture()
    name = "train-2260e471-26c5-4aab-a9e6-53c3ab34123e-0-39035"
    for message in (switch_message(status()), jobs_message(status(job(name=name)))):
        made.take({"version": 1, "switch": "127.0.0.1:50551", "time": 0.0, "number": 0, **message})
    (line,) = (line for line in drawn(made) if line.startswith("job "))
    assert line.startswith("job train-2260e471-26c5-4aa…123e-0-39035 #3   running   2 of 2 ranks   0:12")
