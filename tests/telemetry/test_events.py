"""Comings and goings, found between two looks at a switch."""

from __future__ import annotations

from typing import Any

from watched_switch import NAME, job, member, status

from switchml.control.control_messages import EndedJob, SwitchStatus
from switchml.telemetry.events import changes


def told(before: SwitchStatus, after: SwitchStatus) -> list[tuple[Any, ...]]:
    return [
        (each["what"], each["job_number"], each["rank"], each["state"]) for each in changes(before, after)
    ]


def test_nothing_has_changed() -> None:
    assert told(status(job()), status(job(age=13.0))) == []


def test_a_job_gathers_its_ranks_gets_a_number_and_runs() -> None:
    one = job(job_number=0, state="joining", members=(member(0, state="joined"),))
    both = tuple(member(rank, state="joined") for rank in range(2))
    programmed = job(state="programmed", members=both)
    assert told(status(), status(one)) == [("job", 0, -1, "joining"), ("worker", 0, 0, "joined")]
    assert told(status(one), status(programmed)) == [("job", 3, -1, "programmed"), ("worker", 3, 1, "joined")]
    assert told(status(programmed), status(job())) == [
        ("job", 3, -1, "running"),
        ("worker", 3, 0, "ready"),
        ("worker", 3, 1, "ready"),
    ]


def test_a_worker_leaves_and_the_job_ends_with_its_reason() -> None:
    left = job(members=(member(0, state="left"), member(1)))
    assert told(status(job()), status(left)) == [("worker", 3, 0, "left")]
    (ended,) = changes(status(left), status(ended=(EndedJob(NAME, 3, 2, "all ranks have left", 0.1),)))
    assert (ended["state"], ended["reason"], ended["name"]) == ("ended", "all ranks have left", NAME)


def test_a_job_that_came_and_went_between_two_looks_is_told_once() -> None:
    ended = (EndedJob("short", 4, 2, "all ranks have left", 0.05),)
    assert told(status(), status(ended=ended)) == [("job", 4, -1, "ended")]
    assert told(status(ended=ended), status(ended=ended)) == []


def test_a_job_whose_ranks_never_all_came_goes_too() -> None:
    waiting = job(job_number=0, state="joining", members=(member(0, state="joined"),))
    (gone,) = changes(status(waiting), status())
    assert (gone["state"], gone["job_number"], gone["reason"]) == ("ended", 0, "its ranks did not all come")
