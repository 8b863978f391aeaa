"""A group of ranks: starts, answers, fails with words, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from switchml.bench import rank_protocol
from switchml.bench.rank_group import RankGroup
from switchml.bench.systems.catalogue import Entry
from switchml.bench.verification import Verdict
from switchml.errors import BenchError

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(autouse=True)
def own_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    # tmp_path comes first: pytest would otherwise put its own folders into ours.
    with tempfile.TemporaryDirectory(prefix="sml") as folder:  # a short path: Unix sockets allow 107 bytes
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def start(entry: Entry, workers: int = 2) -> RankGroup:
    return RankGroup(entry, workers, dict(entry.options))


def test_ranks_answer_in_order_and_the_folder_goes(
    fake: Callable[..., Entry], own_temporary_folder: Path
) -> None:
    with start(fake(retransmissions=3), 3) as group:
        assert group.facts == {"payload": 1024, "rank": 0}
        group.ask(rank_protocol.Prepare(1000, "float32", "sum"), 20)
        verdicts = group.ask(rank_protocol.Check(), 20)
        assert [(one.wrong, one.checked) for one in verdicts] == [(0, 2000)] * 3
        seconds = group.ask(rank_protocol.Batch(5, 2), 20)
        assert len(seconds) == 3
        assert all(one > 0 for one in seconds)
        # Two reductions of the check, then five.
        assert group.ask(rank_protocol.Counters(), 20) == [{"retransmissions": 21}] * 3
    assert list(own_temporary_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "op"), [("bfloat16", "sum"), ("int32", "bxor"), ("float16", "avg"), ("int8", "prod")]
)
def test_checks_pass_for_other_types(fake: Callable[..., Entry], dtype: str, op: str) -> None:
    with start(fake()) as group:
        group.ask(rank_protocol.Prepare(70_000, dtype, op), 20)
        assert sum((one.wrong for one in group.ask(rank_protocol.Check(), 20)), 0) == 0


def test_wrong_results_are_counted(fake: Callable[..., Entry]) -> None:
    with start(fake(fault="wrong")) as group:
        group.ask(rank_protocol.Prepare(1000, "float32", "sum"), 20)
        assert (
            sum(group.ask(rank_protocol.Check(), 20), Verdict(0, 0, 0.0)).wrong == 4
        )  # two patterns, two ranks


def test_idle_ranks_use_no_processor(fake: Callable[..., Entry]) -> None:
    with start(fake()) as group:
        pids = group.pids
        before = [processor_ticks(pid) for pid in pids]
        time.sleep(0.5)
        assert [processor_ticks(pid) for pid in pids] == before


def processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("refuse", "UsageError: nobody may join"),
        ("crash", "ZeroDivisionError: a bug"),
        ("die", "lost rank 1"),
        ("hang", "no answer from ranks"),
    ],
)
def test_a_failing_rank_is_named_and_the_others_are_ended(
    fake: Callable[..., Entry], fault: str, words: str
) -> None:
    with pytest.raises(BenchError, match=words) as caught:
        run_one(fake(fault=fault))
    assert ("Traceback" in str(caught.value)) == (fault == "crash")


def run_one(entry: Entry) -> None:
    with start(entry) as group:
        group.ask(rank_protocol.Prepare(1000, "float32", "sum"), 20)
        group.ask(rank_protocol.Batch(1, 1), 2)


def test_a_system_that_cannot_be_loaded_says_why(fake: Callable[..., Entry]) -> None:
    entry = fake()
    broken = Entry(**{**vars(entry), "rank": "no_such_module:System"})
    with pytest.raises(BenchError, match="no_such_module"):
        start(broken)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_stopped_rank_is_killed_in_the_end(
    fake: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switchml.bench.rank_group.LEAVE_SECONDS", 0.3)
    group = start(fake())
    pids = group.pids
    os.kill(pids[1], signal.SIGSTOP)  # SIGTERM would wait for SIGCONT
    group.close()
    group.close()
    assert not any(alive(pid) for pid in pids)


def test_a_busy_rank_ends_with_its_parent(fake: Callable[..., Entry]) -> None:
    with start(fake(fault="hang")) as group:
        pids = group.pids
        group.ask(rank_protocol.Prepare(1000, "float32", "sum"), 20)
        for connection in group._connections.values():
            connection.send(rank_protocol.Batch(1, 1))
            connection.close()  # as the end of the parent's process does, whatever ends it
        deadline = time.monotonic() + 30
        while any(alive(pid) for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.02)
