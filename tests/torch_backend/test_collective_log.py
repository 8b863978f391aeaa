"""What SWITCHML_LOG=collectives says, and that nothing is there without it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.distributed import AllreduceOptions

from switchml.torch_backend import collective_log
from switchml.torch_backend.agreement import Agreement, said
from switchml.torch_backend.collective_log import CollectiveLog, LoggedProcessGroup, Record
from switchml.torch_backend.logged_call import LoggedCall
from switchml.torch_backend.process_group import SwitchProcessGroup
from switchml.torch_backend.routing import Path

WORLD = 2


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the log says."""
    found: list[str] = []
    log = CollectiveLog(found.append)
    monkeypatch.setattr(LoggedProcessGroup, "log", log)
    yield found
    log.close()


def call_some(group: Any, rank: int) -> None:
    tensor = torch.ones(1000)
    group.allreduce([tensor]).wait()
    at_once = AllreduceOptions()
    at_once.asyncOp = False
    group.allreduce([tensor], at_once).wait()
    group.allgather([[torch.zeros(10) for _ in range(WORLD)]], [torch.ones(10)]).wait()
    group.alltoall([torch.zeros(2) for _ in range(WORLD)], [torch.ones(2) for _ in range(WORLD)]).wait()
    group.barrier().wait()
    group.allreduce([tensor]).get_future().wait()


def test_each_collective_is_told_of_rank_0_and_then_by_kind(
    ranks: Any, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHML_LOG", "collectives")
    ranks.run(WORLD, call_some)
    assert [
        type(group) is LoggedProcessGroup for group in sorted(ranks.groups, key=lambda each: each.rank())
    ] == [
        True,
        False,
    ]
    log = LoggedProcessGroup.log
    assert log is not None
    log.close()
    told = [line.split()[3:] for line in lines if " rank 0: " in line and "waiting" in line]
    assert sorted(line[0] for line in told) == [
        *["all_reduce"] * 3,
        "all_gather",
        "alltoall",
        "barrier",
    ] or sorted(line[0] for line in told) == ["all_gather", *["all_reduce"] * 3, "alltoall", "barrier"]
    (gathered,) = (line for line in told if line[0] == "all_gather")
    assert gathered[1:3] == ["80", "B"]  # of both ranks
    assert {line[-1] for line in told if line[0] == "all_reduce"} >= {
        "-"
    }  # its future was waited for, elsewhere
    (row,) = (line for line in lines if re.match(r"  all_reduce +4.00 kB", line))
    assert row.split()[4:5] == ["3"]
    assert any("6 collectives in" in line for line in lines)
    assert lines.index(row) > max(index for index, line in enumerate(lines) if " rank 0: alltoall" in line)


def test_without_it_nothing_is_there(ranks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHML_LOG", raising=False)
    ranks.run(WORLD, call_some)
    for group in ranks.groups:
        assert type(group) is SwitchProcessGroup
        assert type(group._membership.agreement) is Agreement


def test_of_all_ranks_and_the_summary_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for words, wanted in {
        "": (False, False),
        "info": (False, False),
        "summary": (True, False),
        "collectives, all-ranks": (True, True),
    }.items():
        monkeypatch.setenv("SWITCHML_LOG", words)
        assert (collective_log.is_wanted(0), collective_log.is_wanted(3)) == wanted, words
    said_: list[str] = []
    log = CollectiveLog(said_.append, each=False)
    for _ in range(3):
        log.take(Record(0, "all_reduce", 1_000_000, "memory", 0.5, 0.25))
    log.close()
    log.close()
    assert [line.split() for line in said_[2:]] == [
        ["all_reduce", "1.00", "MB", "memory", "3", "1.50", "s", "500", "ms", "2.00", "MB/s", "50%"]
    ]


def test_what_nobody_sees_is_not_said_to_be_none() -> None:
    lines: list[str] = []
    log = CollectiveLog(lines.append, each=False)
    for stood in (None, 0.25):
        log.take(Record(0, "all_reduce", 4, "memory", 0.5, stood))
    log.take(Record(0, "barrier", 0, "memory", 0.5, 0.5))
    log.close()
    assert "3 collectives" in lines[0]
    assert lines[0].endswith("%), without the 2 whose wait nobody sees")
    assert [line.split()[-1] for line in lines[2:]] == ["-", "100%"]


def test_a_line() -> None:
    record = Record(1, "all_gather", 4_000_000, "gloo", 0.002, None)
    assert record.line().split() == [
        *(
            "switchml:",
            "rank",
            "1:",
            "all_gather",
            "4.00",
            "MB",
            "gloo",
            "2.00",
            "ms",
            "2.00",
            "GB/s",
            "waiting",
            "-",
        )
    ]
    assert "      0 B  -" in Record(0, "barrier", 0, "-", 0.001, 0.001).line()


def test_it_is_told_when_it_has_ended_and_nobody_waits_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("switchml.torch_backend.logged_call.time.perf_counter", lambda: now[0])
    told: list[tuple[float, float]] = []
    call = LoggedCall(
        said("allreduce", Path.SWITCH, (), None), 9.0, lambda it: told.append((it.seconds, it.stood))
    )
    now[0] = 12.0
    with call.waiting():
        now[0] = 13.0
        call.ended()
        assert told == []
        now[0] = 13.5
    assert told == [(4.0, 2.0)]  # a second in the call, and one in the wait
    call.ended()
    with call.waiting():
        now[0] = 20.0
    assert told == [(4.0, 2.0)]


def test_the_end_does_not_wait_for_standard_error_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collective_log, "_PATIENCE", 0.01)
    said: list[str] = []
    here, called, may_go_on = threading.get_ident(), threading.Event(), threading.Event()

    def say(line: str) -> None:
        said.append(line)
        if threading.get_ident() != here:
            called.set()
            may_go_on.wait()

    log = CollectiveLog(say)
    log.take(Record(0, "allreduce", 4000, "udp", 1.0, None))
    called.wait()
    log.close()
    assert [" allreduce " in line for line in said] == [True]
    may_go_on.set()
