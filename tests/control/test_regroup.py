"""Epochs of a job in the job table, on a virtual clock: who goes on, who is let in, who is left behind."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from switchml.control.control_messages import Departure, JoinOffer
from switchml.control.jobs import Action, AddJob, JobState, JobTable, Joined, Refused, RemoveJob, SetMulticast
from switchml.control.target import TargetDescription
from switchml.control.tenants import Tenant
from switchml.errors import (
    JobAbortedError,
    JoinError,
    JoinTimeoutError,
    LayoutMismatchError,
    LeftBehindError,
    PoolExhaustedError,
    SwitchGoneError,
    SwitchMLError,
    UsageError,
)

LEASE = 8.0
DEATH = 0.3  # from a closed lifeline on
TARGET = TargetDescription("127.0.0.1", 48864, "shm", pool_slots=1024, max_payload=16384, max_workers=4)
_ports = iter(range(2000, 60000))


def offer(rank: int = 0, world_size: int = 1, **other: Any) -> JoinOffer:
    return JoinOffer("a", rank, world_size, address="10.0.0.1", **{"port": next(_ports), **other})


def running(ranks: int = 3, **other: Any) -> JobTable:
    """A job "a" that runs; sessions are its ranks' numbers."""
    table = JobTable(TARGET, lease=LEASE, multicast_octet=17)
    for rank in range(ranks):
        table.join(str(rank), offer(rank, ranks, **other), 60.0, 0.0)
    for rank in range(ranks):
        table.attached(str(rank), 0.0)
        table.ready(str(rank), True, 60.0, 0.0)
    assert table.jobs[0].state is JobState.RUNNING
    return table


def regroup(table: JobTable, session: str, now: float, within: float = 1.0, **other: Any) -> list[Action]:
    return table.regroup(session, offer(**other), within, now)


def enter(table: JobTable, session: str, now: float, timeout: float = 60.0, **other: Any) -> None:
    assert table.join(session, offer(enters=True, **other), timeout, now) == []


def die(table: JobTable, session: str, now: float) -> None:
    """Returns once the others are told."""
    table.lost(session, now)
    table.expire(now + DEATH)


def places(actions: list[Action]) -> dict[str, tuple[int, int, int, int]]:
    """By session: rank, world size, epoch, survivors."""
    return {
        each.session: (each.layout.rank, each.layout.world_size, each.layout.epoch, each.layout.survivors)
        for each in actions
        if isinstance(each, Joined)
    }


def refusals(actions: list[Action]) -> dict[str, SwitchMLError]:
    return {each.session: each.error for each in actions if isinstance(each, Refused)}


def test_those_who_live_go_on_with_dense_ranks_in_their_old_order() -> None:
    table = running()
    die(table, "1", 1.0)
    with pytest.raises(JobAbortedError, match="rank 1 has died"):
        table.heartbeat("2", 1.5)
    assert regroup(table, "2", 1.5) == []
    actions = regroup(table, "0", 1.6)
    assert places(actions) == {"0": (0, 2, 1, 2), "2": (1, 2, 1, 2)}
    [program] = [each.program for each in actions if isinstance(each, AddJob)]
    assert program.job_number == 2  # so the first epoch's packets are a stranger's
    table.ready("0", True, 60.0, 1.7)
    assert SetMulticast(2, True) in table.ready("2", True, 60.0, 1.7)
    assert [table.heartbeat(session, 2.0) for session in "02"] == [{}, {}]


def test_a_job_that_runs_goes_on_in_place_and_frees_its_slots_first() -> None:
    table = running(2, window=1024)
    assert regroup(table, "0", 1.0) == []
    actions = regroup(table, "1", 1.0)
    assert [type(each) for each in actions] == [RemoveJob, AddJob, Joined, Joined]
    assert places(actions) == {"0": (0, 2, 1, 2), "1": (1, 2, 1, 2)}
    assert len(table.jobs) == 1
    assert table.ended(1.0)[0].reason == "it has gone on as epoch 1, of world size 2"


def test_who_dies_while_others_wait_is_waited_for_no_longer() -> None:
    table = running()
    die(table, "1", 1.0)
    assert regroup(table, "0", 1.5, within=9.0) == []
    table.lost("2", 1.6)
    assert table.next_timer() == pytest.approx(1.6 + DEATH)
    assert places(table.expire(1.6 + DEATH)) == {"0": (0, 1, 1, 1)}


def test_who_is_late_is_left_behind_and_told_so() -> None:
    table = running()
    die(table, "1", 1.0)
    regroup(table, "0", 1.5, within=1.0)
    assert table.next_timer() == pytest.approx(2.5)
    assert places(table.expire(2.5)) == {"0": (0, 1, 1, 1)}
    with pytest.raises(LeftBehindError, match="gone on as epoch 1 without rank 2, which called too late"):
        regroup(table, "2", 2.6)
    assert table.sessions() == {"0", "1", "2"}  # so its error stays the same
    enter(table, "new", 2.7)


def test_who_does_not_call_in_a_job_that_runs_is_told_with_its_next_heartbeat() -> None:
    table = running()
    regroup(table, "0", 1.0)
    regroup(table, "1", 1.0)
    assert places(table.expire(2.0)) == {"0": (0, 2, 1, 2), "1": (1, 2, 1, 2)}
    assert table.take_news() == {"2"}
    with pytest.raises(JobAbortedError, match="gone on as epoch 1, of world size 2, without rank 2"):
        table.heartbeat("2", 2.1)
    with pytest.raises(LeftBehindError):
        regroup(table, "2", 2.1)


def test_the_shortest_wait_of_all_counts() -> None:
    table = running()
    regroup(table, "0", 1.0, within=60.0)
    regroup(table, "1", 1.5, within=0.5)
    assert len(places(table.expire(2.0))) == 2


def test_ranks_that_left_in_order_are_not_waited_for() -> None:
    table = running()
    table.leave("2", 1.0, Departure(5, "no such file"))
    regroup(table, "0", 1.1)
    assert places(regroup(table, "1", 1.1)) == {"0": (0, 2, 1, 2), "1": (1, 2, 1, 2)}


def test_who_leaves_after_the_end_is_not_waited_for() -> None:
    table = running()
    die(table, "1", 1.0)
    regroup(table, "0", 1.5, within=9.0)
    assert places(table.leave("2", 1.6)) == {"0": (0, 1, 1, 1)}


def test_a_silent_rank_is_not_waited_for() -> None:
    table = running()
    for now in range(1, 9):
        table.heartbeat("0", now)
        table.heartbeat("2", now)
        table.expire(now)
    with pytest.raises(JobAbortedError, match="rank 1 has not been heard"):
        table.heartbeat("0", 8.1)
    regroup(table, "0", 8.2)
    assert places(regroup(table, "2", 8.2)) == {"0": (0, 2, 1, 2), "2": (1, 2, 1, 2)}


def test_a_caller_that_goes_away_is_forgotten() -> None:
    table = running()
    die(table, "1", 1.0)
    regroup(table, "0", 1.5)
    assert table.disconnect("0", 1.6) == []
    table.lost("0", 1.6)
    assert places(regroup(table, "2", 2.0)) == {"2": (0, 1, 1, 1)}


def test_newcomers_come_in_after_the_survivors() -> None:
    table = running(2)
    enter(table, "x", 1.0)
    assert table.take_news() == {"0", "1"}
    assert table.newcomers("0") == 1
    enter(table, "y", 1.1)
    regroup(table, "0", 2.0)
    actions = regroup(table, "1", 2.0)
    assert places(actions) == {"0": (0, 4, 1, 2), "1": (1, 4, 1, 2), "x": (2, 4, 1, 2), "y": (3, 4, 1, 2)}
    assert table.newcomers("0") == 0
    for session in "01x":
        assert table.ready(session, False, 60.0, 2.1) == []
    assert len(table.ready("y", False, 60.0, 2.1)) == 4


def test_a_newcomer_may_wait_before_there_is_a_job() -> None:
    table = JobTable(TARGET, lease=LEASE, multicast_octet=17)
    enter(table, "x", 0.0, timeout=5.0)
    enter(table, "y", 0.0, timeout=50.0)
    assert table.next_timer() == pytest.approx(LEASE / 4)
    [error] = refusals(table.expire(5.0)).values()
    assert isinstance(error, JoinTimeoutError)
    assert "there is no job of that name" in str(error)
    table.join("0", offer(), 60.0, 6.0)
    assert places(regroup(table, "0", 7.0)) == {"0": (0, 2, 1, 1), "y": (1, 2, 1, 1)}


def test_a_newcomer_that_nobody_lets_in() -> None:
    table = running(2)
    enter(table, "x", 1.0, timeout=2.0)
    [error] = refusals(table.expire(3.0)).values()
    assert isinstance(error, JoinTimeoutError)
    assert "none of its ranks has called regroup" in str(error)
    enter(table, "x", 4.0)
    assert table.disconnect("x", 4.1) == []
    assert table.newcomers("0") == 0


def test_newcomers_that_do_not_fit_are_refused() -> None:
    table = running(3)
    with pytest.raises(LayoutMismatchError):
        enter(table, "x", 1.0, window=64)
    with pytest.raises(UsageError, match="another tenant's"):
        table.join("x", offer(enters=True), 60.0, 1.0, tenant=Tenant("blue", "t", 1))
    with pytest.raises(UsageError, match="socket of its own"):
        enter(table, "x", 1.0, port=table.jobs[0].members[0].offer.port)
    enter(table, "x", 1.0)
    enter(table, "y", 1.0)
    regroup(table, "0", 2.0)
    regroup(table, "1", 2.0)
    actions = regroup(table, "2", 2.0)
    assert places(actions)["x"] == (3, 4, 1, 3)
    assert isinstance(refusals(actions)["y"], JoinError)
    assert "as many ranks as this switch takes" in str(refusals(actions)["y"])


def test_an_epoch_whose_rank_dies_before_it_is_ready_regroups_again() -> None:
    table = running()
    for session in "012":
        actions = regroup(table, session, 1.0)
    assert len(places(actions)) == 3
    table.lost("1", 1.1)  # the lifeline of the first epoch
    table.ready("0", True, 60.0, 1.2)
    [(session, error)] = refusals(table.expire(1.1 + DEATH)).items()
    assert session == "0"
    assert isinstance(error, JobAbortedError)
    assert "rank 1 has died" in str(error)
    regroup(table, "0", 1.5)
    assert places(regroup(table, "2", 1.5)) == {"0": (0, 2, 2, 2), "2": (1, 2, 2, 2)}


def test_a_newcomer_that_died_unseen_holds_nobody_up() -> None:
    table = running(1)
    enter(table, "x", 1.0)
    regroup(table, "0", 1.0)
    table.ready("0", True, 60.0, 1.1)
    assert table.next_timer() == pytest.approx(3.0)
    [error] = refusals(table.expire(3.0)).values()
    assert "rank 1 has not answered since the job regrouped" in str(error)
    assert places(regroup(table, "0", 3.1)) == {"0": (0, 1, 2, 1)}


def test_where_there_is_no_room_for_the_next_epoch() -> None:
    table = running(1, window=512)
    for session in ("b", "c"):
        other = dataclasses.replace(offer(), job=session, window=256)
        table.join(session, other, 60.0, 0.5)
        table.ready(session, True, 60.0, 0.5)
    actions = regroup(table, "0", 1.0, window=1024)
    assert isinstance(refusals(actions)["0"], PoolExhaustedError)
    assert [job.name for job in table.jobs] == ["b", "c"]


def test_what_cannot_regroup() -> None:
    table = JobTable(TARGET, lease=LEASE, multicast_octet=17)
    table.join("0", offer(0, 2), 60.0, 0.0)
    with pytest.raises(UsageError, match="has not begun"):
        regroup(table, "0", 1.0)
    with pytest.raises(SwitchGoneError):
        regroup(table, "stranger", 1.0)
    with pytest.raises(UsageError, match="timeout 0"):
        regroup(table, "0", 1.0, within=0)


def test_a_switch_that_ends_refuses_those_who_wait() -> None:
    table = running(2)
    regroup(table, "0", 1.0)
    enter(table, "x", 1.0)
    assert {session: type(error) for session, error in refusals(table.close("bye", 1.5)).items()} == {
        "0": SwitchGoneError,
        "x": SwitchGoneError,
    }
    with pytest.raises(SwitchGoneError):
        regroup(table, "0", 2.0)
