"""What readers make of the messages."""

from __future__ import annotations

from typing import Any

import pytest
from watched_switch import NAME, counters, job, member, slots, status

from switchml.telemetry.events import counters_message, jobs_message, slots_message, switch_message
from switchml.telemetry.picture import History, JobPicture, Meter, Picture, as_json, readable_name

SWITCH = "10.0.0.9:50551"


def sent(message: dict[str, Any], time: float, number: int = 0) -> dict[str, Any]:
    return {"version": 1, "switch": SWITCH, "time": time, "number": number, **message}


def only_job(picture: Picture) -> JobPicture:
    (found,) = picture.switches[SWITCH].jobs.values()
    return found


def test_a_rate_is_over_the_last_second() -> None:
    meter = Meter()
    for tenth in range(31):
        meter.take(counters(packets_received=100 * tenth if tenth <= 20 else 2000), tenth / 10)
    assert meter.rate("packets_received") == 0
    assert meter.rate("bytes_sent") == 0
    assert max(meter.lately("packets_received")) == pytest.approx(1000)
    assert meter.counters["packets_received"] == 2000


def test_a_switch_that_began_anew_has_no_rate_below_zero() -> None:
    meter = Meter()
    meter.take(counters(packets_received=500), 1.0)
    meter.take(counters(packets_received=7), 2.0)
    assert meter.rate("packets_received") == 0
    meter.take(counters(packets_received=17), 3.0)
    assert meter.rate("packets_received") == 10


def test_a_history_has_a_point_a_second_the_last_value_of_each() -> None:
    history = History()
    for tenth in range(25):
        history.note(tenth, tenth / 10)
    assert list(history.points) == [9, 19, 24]


def test_jobs_workers_and_their_pace() -> None:
    picture = Picture()
    for second in range(3):
        there = status(job(members=(member(0, round_trip=0.001 * (second + 1)), member(1, round_trip=0.0))))
        picture.take(sent(jobs_message(there), second, second))
    workers = only_job(picture).workers
    assert list(workers[0].round_trip.points) == [0.001, 0.002, 0.003]
    assert list(workers[1].round_trip.points) == []
    assert list(workers[0].in_flight.points) == [40, 40, 40]


def test_sums_count_an_element_once_however_many_ranks_there_are() -> None:
    picture = Picture()
    picture.take(sent(jobs_message(status(job())), 0.0))
    for second in range(2):
        grown = job(counters=counters(elements_added=6000 * second))
        picture.take(sent(counters_message(status(grown)), second, second))
    assert only_job(picture).sums == 3000


def test_who_is_late_is_whom_most_slots_wait_for() -> None:
    picture = Picture()
    picture.take(sent(jobs_message(status(job())), 0.0))
    for number in range(40):
        picture.take(sent(slots_message({3: slots()}), number / 10, number))
    workers = only_job(picture).workers
    assert workers[0].late == 0
    assert workers[1].late > 0.9
    picture.take(sent(slots_message({}), 4.0, 40))
    assert workers[1].late < 0.9


def test_messages_that_did_not_come_are_counted_by_kind() -> None:
    picture = Picture()
    there = status()
    picture.take(sent(switch_message(there), 0.0, 7))
    picture.take(sent(counters_message(there), 0.0, 100))
    picture.take(sent(counters_message(there), 0.5, 104))
    picture.take(sent(counters_message(there), 0.6, 105))
    assert picture.switches[SWITCH].missed == 3


def test_a_silent_switch_is_forgotten_when_there_is_another() -> None:
    picture = Picture()
    picture.take(sent(switch_message(status()), 0.0), now=1.0)
    picture.forget(since=5.0)
    assert list(picture.switches) == [SWITCH]
    picture.take({**sent(switch_message(status()), 0.0), "switch": "b:1"}, now=6.0)
    picture.forget(since=5.0)
    assert list(picture.switches) == ["b:1"]


def test_a_jobs_name_loses_the_backends_random_digits_alone() -> None:
    assert readable_name(NAME) == "digits-0"
    assert readable_name("my-job") == "my-job"
    assert readable_name("resnet-0123456789") == "resnet-0123456789"


def test_as_json() -> None:
    picture = Picture()
    picture.take(sent(jobs_message(status(job())), 0.0))
    picture.take(sent(slots_message({3: slots()}), 0.1))
    (told,) = as_json(picture)
    assert told["switch"] == SWITCH
    (one,) = told["jobs"]
    assert (one["name"], one["state"], one["resent_by_range"][0]) == (NAME, "running", 2)
    assert one["late"] == [0.0, pytest.approx(0.1)]
