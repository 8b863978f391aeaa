"""Recordings: written, read and replayed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from watched_switch import Watched, counters, job, slots, status

from switchml.cli import app
from switchml.errors import UsageError
from switchml.telemetry.events import counters_message, jobs_message, switch_message
from switchml.telemetry.publisher import Publisher
from switchml.telemetry.recording import Recorder, Replay, read_recording

SWITCH = "127.0.0.1:50551"


def messages(seconds: int) -> Iterator[dict[str, Any]]:
    """A job that sums 6000 elements a second in each of two ranks."""
    for second in range(seconds):
        there = status(job(counters=counters(elements_added=12_000 * second)), packets_received=100 * second)
        for message in (switch_message(there), jobs_message(there), counters_message(there)):
            yield {"version": 1, "switch": SWITCH, "time": 1000.0 + second, "number": second, **message}


@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.gz"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    with Recorder(tmp_path / name) as recorder:
        for message in messages(3):
            recorder.write(message)
    # Through JSON: lists for tuples.
    assert list(read_recording(tmp_path / name)) == json.loads(json.dumps(list(messages(3))))


def test_a_file_whose_end_is_missing_is_read_up_to_there(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl.gz"
    with Recorder(file) as recorder:
        for message in messages(50):
            recorder.write(message)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 3 // 4])
    assert 0 < len(list(read_recording(file))) < 150
    plain = tmp_path / "run.jsonl"
    plain.write_text(json.dumps(next(messages(1))) + '\n{"version": 1, "ki')
    assert len(list(read_recording(plain))) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello\n", "line 1: this is no message"),
        (b'{"version": 9, "kind": "jobs"}\n', "version 9"),
        (b"\xff\xfe\n", "cannot be read"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "run.jsonl"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        list(read_recording(file))


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        list(read_recording(tmp_path / "none"))
    with pytest.raises(UsageError, match="cannot be written"):
        Recorder(tmp_path / "no folder" / "run.jsonl")


class Clock:
    """Goes on when somebody sleeps."""

    now = 50.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_replay_takes_its_time() -> None:
    clock = Clock()
    replay = Replay(messages(4), 2.0, clock=clock, sleep=clock.sleep)
    came: list[tuple[float, int]] = []
    while not replay.ended:
        came += [(clock.now, each["number"]) for each in replay.receive(0.25)]
    first = dict(reversed([(number, time) for time, number in came]))
    assert set(first) == {0, 1, 2, 3}
    # Not earlier than a look ahead, not later than due.
    for number, time in first.items():
        assert 50 + number / 2 - 0.25 <= time <= 50 + number / 2


def test_a_clock_that_was_set_and_a_long_pause_hold_nothing_up() -> None:
    clock = Clock()
    jumping = [
        {**each, "time": time} for each, time in zip(messages(2), (0.0, 1e6, 5.0, 1e6, 1e6, 1e6), strict=True)
    ]
    replay = Replay(iter(jumping), clock=clock, sleep=clock.sleep)
    while not replay.ended:
        replay.receive(1.0)
    assert clock.now <= 57
    with pytest.raises(UsageError, match="above 0"):
        Replay(messages(1), 0.0)
    assert len(Replay(messages(5), math.inf).receive(math.inf)) == 15


def test_record_then_replay(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    watched = Watched(status(job(), packets_received=9), {3: slots()})
    with Publisher(watched, switch="127.0.0.1:7"):
        # Of all switches of this machine, of which others may be there.
        done = CliRunner().invoke(app, ["record", str(file), "--seconds", "3"])
    assert done.exit_code == 0, done.output
    assert "messages are in" in done.output
    shown = CliRunner().invoke(app, ["replay", str(file), "--once", "--json"])
    assert shown.exit_code == 0, shown.output
    (ours,) = [each for each in json.loads(shown.output) if each["switch"] == "127.0.0.1:7"]
    assert ours["counters"]["packets_received"] == 9
    assert ours["jobs"][0]["resent_by_range"][0] == 2
