"""The job table by itself: a script of events on a virtual clock, and random ones."""

from __future__ import annotations

import dataclasses
import ipaddress
import zlib
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from switchml.control.control_messages import Departure, JoinOffer, Resent
from switchml.control.jobs import (
    Action,
    AddJob,
    JobState,
    JobTable,
    Joined,
    Refused,
    RemoveJob,
    SetMulticast,
    Started,
)
from switchml.control.target import JobProgram, TargetDescription
from switchml.errors import (
    DuplicateRankError,
    JobAbortedError,
    JoinError,
    JoinTimeoutError,
    LayoutMismatchError,
    PoolExhaustedError,
    SwitchMLError,
    UsageError,
    WorldSizeMismatchError,
)
from switchml.protocol.probes import new_secret, ticket_of_secret

LEASE = 8.0
TARGET = TargetDescription(
    "127.0.0.1", 48864, "shm", pool_slots=1024, max_payload=16384, max_workers=8, wires=("float32", "int16")
)


def make_table(pool_slots: int = 1024, *, proves_addresses: bool = False) -> JobTable:
    target = dataclasses.replace(
        TARGET, pool_slots=pool_slots, proves_addresses=proves_addresses, tells_claims_apart=proves_addresses
    )
    return JobTable(target, lease=LEASE, multicast_octet=17)


def offer(rank: int, world_size: int = 2, job: str = "a", **other: Any) -> JoinOffer:
    host = zlib.crc32(job.encode()) & 0xFFFFFF  # no two jobs share a socket
    address = "10.0.0.1" if job == "a" else str(ipaddress.IPv4Address(0x0B000000 | host))
    place = {"transport": "udp", "address": address, "port": 1000 + rank}
    return JoinOffer(job, rank, world_size, **{**place, **other})


def join_all(
    table: JobTable, job: str = "a", world_size: int = 2, now: float = 0.0, **other: Any
) -> list[Action]:
    """Sessions are `<job><rank>`."""
    actions: list[Action] = []
    for rank in range(world_size):
        actions = table.join(f"{job}{rank}", offer(rank, world_size, job, **other), 60.0, now)
    return actions


def start_all(table: JobTable, job: str = "a", world_size: int = 2, now: float = 0.0) -> list[Action]:
    actions: list[Action] = []
    for rank in range(world_size):
        actions = table.ready(f"{job}{rank}", True, 60.0, now)
    return actions


def programs(actions: list[Action]) -> list[JobProgram]:
    return [action.program for action in actions if isinstance(action, AddJob)]


def refusals(actions: list[Action]) -> dict[str, SwitchMLError]:
    return {action.session: action.error for action in actions if isinstance(action, Refused)}


def pass_time(table: JobTable, start: float, end: float, *alive: str) -> list[Action]:
    """Second by second, with heartbeats of those alive."""
    actions: list[Action] = []
    now = start
    while now < end:
        now = min(now + 1.0, end)
        actions += table.expire(now)
        for session in alive:
            table.heartbeat(session, now)
    return actions


def test_the_switch_is_programmed_when_the_last_rank_joins() -> None:
    table = make_table()
    assert table.join("a1", offer(1), 60.0, 0.0) == []
    actions = table.join("a0", offer(0), 60.0, 1.0)
    [program] = programs(actions)
    assert (program.job_number, program.pool_base, program.window, program.payload) == (1, 0, 512, 1024)
    assert (program.multicast_group, program.multicast_port) == ("239.83.17.1", 48864)
    assert [(worker.rank, worker.address, worker.port) for worker in program.workers] == [
        (0, "10.0.0.1", 1000),
        (1, "10.0.0.1", 1001),
    ]
    joined = [action for action in actions if isinstance(action, Joined)]
    assert {action.session for action in joined} == {"a0", "a1"}
    assert joined[0].layout == joined[1].layout
    assert joined[0].layout.lease == LEASE


@pytest.mark.parametrize(
    ("transports", "votes", "multicast"),
    [
        (["udp", "udp"], [True, True], True),
        (["udp", "udp"], [True, False], False),
        (["udp", "shm"], [True, True], False),
        (["shm", "udp", "udp"], [False, True, True], True),
        (["shm", "shm"], [True, True], False),
    ],
)
def test_results_leave_by_multicast_when_it_reaches_every_udp_rank(
    transports: list[str], votes: list[bool], multicast: bool
) -> None:
    table = make_table()
    for rank, transport in enumerate(transports):
        actions = table.join(
            str(rank), offer(rank, len(transports), transport=transport, ticket="t"), 60.0, 0.0
        )
    assert bool(programs(actions)[0].multicast_group) == (transports.count("udp") > 1)
    answers = [table.ready(str(rank), vote, 60.0, 1.0) for rank, vote in enumerate(votes)]
    assert not any(answers[:-1])
    actions = answers[-1]
    started = [action for action in actions if isinstance(action, Started)]
    assert [action.multicast for action in started] == [multicast] * len(transports)
    assert (SetMulticast(1, True) in actions) == multicast


def test_a_rank_joins_once() -> None:
    table = make_table()
    table.join("a0", offer(0), 60.0, 0.0)
    with pytest.raises(DuplicateRankError, match=r"rank 0 has already joined \(10.0.0.1:1000\)"):
        table.join("other", offer(0, port=2000), 60.0, 0.0)
    table.join("a1", offer(1), 60.0, 0.0)
    with pytest.raises(DuplicateRankError):
        table.join("other", offer(0, port=2000), 60.0, 0.0)


def test_a_session_joins_once() -> None:
    table = make_table()
    table.join("a0", offer(0), 60.0, 0.0)
    with pytest.raises(UsageError, match="session of its own"):
        table.join("a0", offer(1), 60.0, 0.0)


def test_ranks_agree_on_the_world_size() -> None:
    table = make_table()
    table.join("a0", offer(0, 2), 60.0, 0.0)
    with pytest.raises(WorldSizeMismatchError, match=r"world size 3, but the job has world size 2"):
        table.join("a1", offer(1, 3), 60.0, 0.0)
    join_all(table, "b")
    start_all(table, "b")
    with pytest.raises(WorldSizeMismatchError, match=r"is running with world size 2"):
        table.join("b2", offer(2, 3, "b"), 60.0, 0.0)


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"rank": 2}, WorldSizeMismatchError, "rank 2 is outside world size 2"),
        ({"world_size": 9}, UsageError, "1 to 8 workers"),
        ({"world_size": 0}, UsageError, "1 to 8 workers"),
        ({"job": ""}, UsageError, "name"),
        ({"job": "a\nb"}, UsageError, "printable"),
        ({"payload": 1000}, UsageError, "use one of 128, 256"),
        ({"window": 100}, UsageError, "power of two"),
        ({"window": 1 << 15}, UsageError, "power of two"),
        ({"window": 2048}, PoolExhaustedError, "1024 slots in all"),
        ({"transport": "rdma"}, UsageError, "use one of auto, udp, shm, memory"),
        ({"transport": "shm"}, UsageError, "ticket"),
        ({"address": "somewhere"}, UsageError, "dotted IPv4"),
        ({"address": "239.0.0.1"}, UsageError, "no packet"),
        ({"port": 0}, UsageError, "no packet"),
    ],
)
def test_offers_that_no_job_takes(changed: dict[str, Any], error: type[SwitchMLError], text: str) -> None:
    table = make_table()
    with pytest.raises(error, match=text):
        table.join("s", dataclasses.replace(offer(0), **changed), 60.0, 0.0)
    assert table.jobs == ()


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_a_wait_has_a_positive_bound(timeout: float) -> None:
    with pytest.raises(UsageError, match="positive"):
        make_table().join("s", offer(0), timeout, 0.0)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"payload": 512}, "rank 1 asks for payload 512, rank 0 for 1024"),
        ({"window": 64}, "rank 1 asks for window 64, rank 0 for 0"),
        ({"paper": True}, "rank 1 asks for paper True, rank 0 for False"),
        ({"wire": "int16"}, "rank 1 asks for wire int16, rank 0 for float32"),
    ],
)
def test_ranks_agree_on_the_layout(changed: dict[str, Any], text: str) -> None:
    table = make_table()
    table.join("a0", offer(0), 60.0, 0.0)
    with pytest.raises(LayoutMismatchError, match=text):
        table.join("a1", offer(1, **changed), 60.0, 0.0)
    # The payload's default and its value are the same layout.
    assert programs(table.join("a1", offer(1, payload=1024), 60.0, 0.0))


def test_a_switch_refuses_a_wire_that_it_does_not_know() -> None:
    with pytest.raises(UsageError, match="wire int8: this switch knows float32 and int16 only"):
        make_table().join("a0", offer(0, wire="int8"), 60.0, 0.0)


def test_the_program_and_the_layout_say_the_wire() -> None:
    actions = join_all(make_table(), wire="int16")
    [program] = programs(actions)
    layouts = {action.layout.wire for action in actions if isinstance(action, Joined)}
    assert (program.wire, layouts) == ("int16", {"int16"})


def test_two_ranks_do_not_share_a_socket() -> None:
    table = make_table()
    table.join("a0", offer(0), 60.0, 0.0)
    with pytest.raises(UsageError, match=r"10.0.0.1:1000, which is rank 0's"):
        table.join("a1", offer(1, port=1000), 60.0, 0.0)


def test_a_join_does_not_claim_another_jobs_address() -> None:
    table = make_table(pool_slots=4096)
    join_all(table, "a")
    start_all(table, "a")
    for world_size in (1, 2):
        with pytest.raises(UsageError, match=r"offers 10.0.0.1:1001, which is another job's"):
            table.join("b0", offer(0, world_size, "b", address="10.0.0.1", port=1001), 60.0, 1.0)
    assert [job.name for job in table.jobs] == ["a"]
    # One that has left has given it up, and shared memory has no address.
    table.leave("a1", 1.0)
    assert programs(table.join("b0", offer(0, 1, "b", address="10.0.0.1", port=1001), 60.0, 1.0))
    shared = offer(0, 1, "c", transport="shm", ticket="t", address="10.0.0.1", port=1000)
    assert programs(table.join("c0", shared, 60.0, 1.0))


def test_a_claim_that_the_switch_can_test_keeps_nobody_out() -> None:
    table = make_table(pool_slots=4096, proves_addresses=True)
    tickets = [ticket_of_secret(new_secret()) for _ in range(4)]
    with pytest.raises(UsageError, match="needs a ticket to prove its address"):
        table.join("a0", offer(0, 1), 60.0, 0.0)
    assert programs(table.join("a0", offer(0, 1, ticket=tickets[0]), 60.0, 0.0))
    assert programs(table.join("b0", offer(0, 1, "b", address="10.0.0.1", ticket=tickets[1]), 60.0, 0.0))
    # In one job two ranks at one socket are a mistake, and who cannot prove is not outdone by who has yet to.
    table.join("c0", offer(0, 2, "c", ticket=tickets[2]), 60.0, 0.0)
    with pytest.raises(UsageError, match="which is rank 0's"):
        table.join("c1", offer(1, 2, "c", ticket=tickets[3], port=1000), 60.0, 0.0)
    with pytest.raises(UsageError, match="which is another job's"):
        table.join("d0", offer(0, 1, "d", address="10.0.0.1", any_number=True), 60.0, 0.0)


def test_the_window_shrinks_to_what_is_free_only_by_default() -> None:
    table = make_table(pool_slots=600)
    assert programs(join_all(table, "a"))[0].window == 512
    assert programs(join_all(table, "b"))[0].window == 64
    actions = join_all(table, "c", window=64)
    assert set(refusals(actions)) == {"c0", "c1"}
    assert all(isinstance(error, PoolExhaustedError) for error in refusals(actions).values())
    assert programs(join_all(table, "d"))[0].window == 16
    actions = join_all(table, "e")
    assert "needs 16 slots in a row, and this switch has 8 of 600 free" in str(refusals(actions)["e0"])
    assert [job.name for job in table.jobs] == ["a", "b", "d"]


def test_a_job_that_found_no_room_can_try_again() -> None:
    table = make_table(pool_slots=512)
    join_all(table, "a")
    assert set(refusals(join_all(table, "b"))) == {"b0", "b1"}
    for rank in range(2):
        table.leave(f"a{rank}", 1.0)
    assert programs(join_all(table, "b", now=2.0))[0].pool_base == 0


def test_numbers_are_taken_in_turn() -> None:
    table = make_table()
    numbers = []
    for _ in range(300):
        numbers.append(programs(join_all(table, "a", world_size=1))[0].job_number)
        table.leave("a0", 0.0)
    assert numbers == [index % 255 + 1 for index in range(300)]


def test_there_are_255_numbers() -> None:
    table = make_table(pool_slots=8192)
    for index in range(255):
        assert programs(join_all(table, f"job{index}-", world_size=1, window=16))
    error = refusals(join_all(table, "one-more", world_size=1, window=16))["one-more0"]
    assert isinstance(error, PoolExhaustedError)
    assert "255 jobs" in str(error)


def test_a_join_times_out_naming_the_missing_ranks_and_may_be_tried_again() -> None:
    table = make_table()
    table.join("a0", offer(0, 4), 5.0, 0.0)
    table.join("a2", offer(2, 4), 60.0, 1.0)
    with pytest.raises(WorldSizeMismatchError):
        table.join("a3", offer(3, 5), 60.0, 1.0)
    assert table.next_timer() is not None
    actions = pass_time(table, 1.0, 5.0)
    assert set(refusals(actions)) == {"a0"}
    error = refusals(actions)["a0"]
    assert isinstance(error, JoinTimeoutError)
    assert "ranks 1, 3 of 4 did not join within 5 s" in str(error)
    assert "Rank 3 was refused" in str(error)
    for rank in (1, 3, 0):
        actions = table.join(f"again{rank}", offer(rank, 4), 60.0, 6.0)
    assert programs(actions)


def test_a_client_that_goes_away_while_it_waits_is_withdrawn() -> None:
    table = make_table()
    table.join("a0", offer(0), 60.0, 0.0)
    assert table.disconnect("a0", 1.0) == []
    assert table.jobs == ()
    join_all(table, "a")
    actions = table.disconnect("a1", 1.0)
    assert RemoveJob(1) in actions
    with pytest.raises(JobAbortedError, match="rank 1 went away before the job was ready"):
        table.heartbeat("a0", 1.0)


def test_a_client_that_goes_away_from_a_running_job_keeps_its_lease() -> None:
    table = make_table()
    join_all(table)
    start_all(table)
    assert table.disconnect("a1", 1.0) == []
    assert table.find("a1").state is JobState.RUNNING


def test_a_rank_that_leaves_early_ends_the_job() -> None:
    table = make_table()
    join_all(table)
    table.ready("a0", True, 60.0, 1.0)
    actions = table.leave("a1", 2.0)
    assert RemoveJob(1) in actions
    assert "rank 1 left before the job was ready" in str(refusals(actions)["a0"])


def test_ranks_that_do_not_get_ready_are_named() -> None:
    table = make_table()
    join_all(table, world_size=3)
    table.ready("a1", True, 3.0, 0.0)
    actions = pass_time(table, 0.0, 3.0)
    assert isinstance(refusals(actions)["a1"], JoinTimeoutError)
    assert "ranks 0, 2 did not get ready within 3 s" in str(refusals(actions)["a1"])
    with pytest.raises(JobAbortedError, match="ranks 0, 2 did not get ready"):
        table.ready("a0", True, 60.0, 4.0)


def test_leaving_a_running_job_is_no_error_to_the_others() -> None:
    table = make_table()
    join_all(table)
    start_all(table)
    assert table.leave("a0", 1.0) == []
    assert table.leave("a0", 1.0) == []
    assert table.heartbeat("a1", 2.0) == {0: Departure()}
    # The silence of one that has left is no lapse.
    assert pass_time(table, 2.0, 30.0, "a1") == []
    assert table.leave("a1", 30.0) == [RemoveJob(1)]
    assert table.jobs == ()
    assert table.free_slots == 1024
    assert table.next_timer() is None


def test_a_rank_that_has_left_may_join_the_next_job_of_that_name() -> None:
    table = make_table()
    join_all(table)
    start_all(table)
    table.leave("a0", 1.0)
    assert table.join("next0", offer(0), 60.0, 1.0) == []
    with pytest.raises(DuplicateRankError):
        table.join("next1", offer(1), 60.0, 1.0)
    assert table.leave("a1", 2.0) == [RemoveJob(1)]
    assert programs(table.join("next1", offer(1), 60.0, 2.0))[0].job_number == 2


def test_a_lapsed_lease_ends_the_job() -> None:
    table = make_table()
    join_all(table, world_size=3)
    start_all(table, world_size=3)
    assert pass_time(table, 0.0, 7.0, "a0", "a2") == []
    actions = table.expire(8.0)
    assert actions == [RemoveJob(1)]
    for session in ("a0", "a1", "a2"):
        with pytest.raises(JobAbortedError, match=r"rank 1 has not been heard for 8.0 s"):
            table.heartbeat(session, 8.0)
    assert [ended.reason for ended in table.ended(9.0)] == ["rank 1 has not been heard for 8.0 s"]
    # The name is free at once; the reason is kept for a while, then forgotten.
    assert programs(join_all(table, "b", now=9.0))
    assert table.leave("a0", 10.0) == []
    with pytest.raises(JobAbortedError, match="does not know"):
        table.heartbeat("a0", 10.0)
    pass_time(table, 10.0, 8.0 + 10 * LEASE, "b0", "b1")
    with pytest.raises(JobAbortedError, match="does not know"):
        table.heartbeat("a1", 8.0 + 10 * LEASE)


def test_a_member_whose_lifeline_is_closed_has_died() -> None:
    table = make_table()
    join_all(table, world_size=3)
    start_all(table, world_size=3)
    for rank in range(3):
        table.attached(f"a{rank}", 1.0)
    table.lost("a1", 2.0)
    table.lost("a2", 2.0)
    due = table.next_timer()
    assert due is not None
    assert 2.0 < due < 3.0
    assert table.expire(2.1) == []
    assert table.take_news() == frozenset()
    assert table.expire(due) == [RemoveJob(1)]
    assert table.take_news() == {"a0", "a1", "a2"}
    assert table.take_news() == frozenset()
    assert table.unnotified(3.0) == 1  # the dead don't come and ask
    with pytest.raises(JobAbortedError, match="ranks 1-2 have died: their connection was closed"):
        table.heartbeat("a0", 3.0)


@pytest.mark.parametrize("life", ["attached", "heartbeat"])
def test_a_member_that_shows_life_after_its_lifeline_has_not_died(life: str) -> None:
    table = make_table()
    join_all(table)
    start_all(table)
    table.lost("a1", 2.0)
    getattr(table, life)("a1", 2.2)
    assert pass_time(table, 2.2, 9.0, "a0", "a1") == []
    assert table.take_news() == frozenset()


def test_a_lifeline_concerns_nobody_who_has_left() -> None:
    table = make_table()
    join_all(table)
    start_all(table)
    table.leave("a1", 1.0, Departure(3, "why"))
    table.lost("a1", 1.0)
    table.attached("stranger", 1.0)
    table.lost("stranger", 1.0)
    assert pass_time(table, 1.0, 5.0, "a0") == []
    assert table.heartbeat("a0", 5.0) == {1: Departure(3, "why")}
    assert table.take_news() == {"a0"}


def test_the_silence_of_one_that_is_connected_is_called_that() -> None:
    table = make_table()
    join_all(table)
    start_all(table)
    table.attached("a1", 0.0)
    pass_time(table, 0.0, LEASE - 1.0, "a0")
    table.expire(LEASE)
    with pytest.raises(JobAbortedError, match=r"rank 1 has not been heard for 8.0 s, though connected"):
        table.heartbeat("a0", LEASE)


def test_members_of_an_ended_job_are_waited_for_until_they_know() -> None:
    """A switch that ends with its last job first lets the survivors of a lapsed lease ask why."""
    table = make_table()
    join_all(table, world_size=3)
    start_all(table, world_size=3)
    pass_time(table, 0.0, LEASE - 1.0, "a0", "a1")
    table.expire(LEASE)
    assert (table.jobs, table.unnotified(LEASE)) == ((), 3)
    for session in ("a0", "a1"):
        table.leave(session, LEASE)
    assert table.unnotified(LEASE) == 1  # the silent one might still come
    assert table.unnotified(1.5 * LEASE) == 0


def test_who_has_asked_is_waited_for_no_longer() -> None:
    table = make_table()
    join_all(table)
    start_all(table)
    table.close("the switch is shutting down", 1.0)
    assert table.unnotified(1.0) == 2
    with pytest.raises(JobAbortedError, match="shutting down"):
        table.heartbeat("a0", 1.0)
    assert table.unnotified(1.0) == 1


def test_a_job_that_all_ranks_left_keeps_nobody_waiting() -> None:
    table = make_table()
    join_all(table)
    start_all(table)
    for session in ("a0", "a1"):
        table.leave(session, 1.0)
    assert table.unnotified(1.0) == 0


def test_time_in_which_the_controller_was_stopped_counts_against_nobody() -> None:
    table = make_table()
    join_all(table)
    start_all(table)
    assert pass_time(table, 0.0, 4.0, "a0") == []
    assert table.expire(1000.0) == []
    assert pass_time(table, 1000.0, 1003.0, "a0") == []
    assert table.expire(1004.0) == [RemoveJob(1)]


def test_the_timer_is_early_enough_to_tell_a_stop_from_silence() -> None:
    table = make_table()
    assert table.next_timer() is None
    table.join("a0", offer(0, 1), 60.0, 5.0)
    due = table.next_timer()
    assert due is not None
    assert 5.0 < due <= 5.0 + LEASE / 2


def test_close_ends_every_job() -> None:
    table = make_table()
    join_all(table, "a")
    start_all(table, "a")
    table.join("b0", offer(0, 2, "b"), 60.0, 0.0)
    actions = table.close("the switch is shutting down", 1.0)
    assert RemoveJob(1) in actions
    assert isinstance(refusals(actions)["b0"], JobAbortedError)
    assert table.jobs == ()


def test_joins_that_are_never_completed_hold_no_slots_that_others_need() -> None:
    table = make_table(pool_slots=64 * 256)
    for index in range(64):
        stranger = JoinOffer(f"h{index}", 0, 1, "shm", ticket="t", window=256)
        table.join(stranger.job, stranger, 60.0, 0.0)
    assert table.free_slots == 0
    # At once, they may be workers that have yet to answer.
    assert refusals(join_all(table, "early", now=1.0, window=256))
    actions = join_all(table, "a", now=2.0, window=256)
    assert programs(actions)[0].window == 256
    assert actions.index(RemoveJob(1)) < actions.index(AddJob(programs(actions)[0]))
    with pytest.raises(JobAbortedError, match="rank 0 had not answered since all joined"):
        table.ready("h0", True, 60.0, 2.0)
    # Nothing more than was needed.
    assert len(table.jobs) == 64


def test_a_worker_that_answers_keeps_its_slots_before_it_is_ready() -> None:
    table = make_table(pool_slots=16)
    join_all(table, "a", window=16)
    for rank in range(2):
        table.heartbeat(f"a{rank}", 0.5)
    assert refusals(join_all(table, "b", now=7.0, window=16))
    assert table.find("a0").state is JobState.PROGRAMMED


def test_running_jobs_yield_to_nobody() -> None:
    table = make_table(pool_slots=16)
    join_all(table, "a", window=16)
    start_all(table, "a")
    assert refusals(join_all(table, "b", now=7.0, window=16))
    assert table.find("a0").state is JobState.RUNNING


def test_a_host_whose_half_made_jobs_fill_the_switch_yields_to_others() -> None:
    table = make_table(pool_slots=32 * 16)
    for index in range(32):
        table.join(
            f"h{index}", JoinOffer(f"h{index}", 0, 1, "shm", ticket="t", window=16), 60.0, 0.0, "10.9.9.9"
        )
        table.heartbeat(f"h{index}", 0.5)  # alive, but it never gets ready
    one = JoinOffer("a", 0, 1, "shm", ticket="t", window=16)
    assert refusals(table.join("mine", one, 60.0, 1.0, "10.9.9.9"))
    assert programs(table.join("other", one, 60.0, 1.0, "10.0.0.1"))


def test_a_host_has_a_limited_number_of_half_made_joins() -> None:
    table = make_table()
    for index in range(1024):
        table.join(f"h{index}", JoinOffer(f"h{index}", 0, 2, "shm", ticket="t"), 60.0, 0.0, "10.9.9.9")
    with pytest.raises(
        PoolExhaustedError, match=r"1024 workers at 10.9.9.9 have joined jobs that do not run"
    ):
        table.join("more", JoinOffer("more", 0, 2, "shm", ticket="t"), 60.0, 0.0, "10.9.9.9")
    # Other hosts, those that complete a job, and what runs are not counted.
    assert table.join("a0", offer(0), 60.0, 0.0, "10.0.0.1") == []
    assert programs(table.join("a1", offer(1), 60.0, 0.0, "10.0.0.1"))
    assert len(table.jobs) == 1025
    table.disconnect("h0", 1.0)
    assert table.join("more", JoinOffer("more", 0, 2, "shm", ticket="t"), 60.0, 1.0, "10.9.9.9") == []


class Jobs(RuleBasedStateMachine):
    """Random workers, some broken, against a switch that checks what it is told."""

    names = st.sampled_from(["a", "b", "c"])
    places = st.tuples(names, st.integers(0, 3))

    @initialize(pool=st.sampled_from([0, 16, 40, 100, 1024]))
    def begin(self, pool: int) -> None:
        self.pool = pool
        self.table = make_table(pool)
        self.now = 0.0
        self.count = 0
        self.on_switch: dict[int, JobProgram] = {}
        self.waiting: set[str] = set()
        self.members: set[str] = set()

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case AddJob(program):
                    assert 1 <= program.job_number <= 255
                    assert program.job_number not in self.on_switch
                    self.on_switch[program.job_number] = program
                case RemoveJob(number):
                    del self.on_switch[number]
                case SetMulticast(number, _):
                    assert self.on_switch[number].multicast_group
                case Joined(session, layout):
                    self.waiting.remove(session)
                    assert layout.job_number in self.on_switch
                case Started(session, _):
                    self.waiting.remove(session)
                case Refused(session, error):
                    self.waiting.remove(session)
                    assert isinstance(error, JoinError | JobAbortedError)

    @rule(
        place=places,
        world_size=st.sampled_from([1, 2, 2, 2, 3]),
        window=st.sampled_from([0, 0, 0, 16, 64]),
        transport=st.sampled_from(["udp", "udp", "shm"]),
        timeout=st.sampled_from([1.0, 30.0]),
    )
    def join(
        self, place: tuple[str, int], world_size: int, window: int, transport: str, timeout: float
    ) -> None:
        self.count += 1
        session = f"s{self.count}"
        name, rank = place
        offered = offer(
            rank, world_size, name, window=window, transport=transport, ticket="t", port=1000 + self.count
        )
        self.waiting.add(session)
        try:
            actions = self.table.join(session, offered, timeout, self.now)
        except JoinError:
            self.waiting.remove(session)
        else:
            self.members.add(session)
            self.carry_out(actions)

    @precondition(lambda self: self.members)
    @rule(data=st.data(), multicast=st.booleans())
    def ready(self, data: st.DataObject, multicast: bool) -> None:
        session = data.draw(st.sampled_from(sorted(self.members)))
        if session in self.waiting:
            return  # a worker makes one call at a time
        self.waiting.add(session)
        try:
            actions = self.table.ready(session, multicast, 30.0, self.now)
        except JobAbortedError:
            self.waiting.remove(session)
        else:
            self.carry_out(actions)

    @precondition(lambda self: self.members)
    @rule(data=st.data(), how=st.sampled_from(["heartbeat", "leave", "disconnect"]))
    def other(self, data: st.DataObject, how: str) -> None:
        session = data.draw(st.sampled_from(sorted(self.members)))
        if how == "heartbeat":
            try:
                self.table.heartbeat(session, self.now)
            except JobAbortedError:
                assert session not in self.waiting
            return
        if how == "leave" or session in self.waiting:
            self.waiting.discard(session)
            self.carry_out(getattr(self.table, how)(session, self.now))
            if how == "leave":
                self.members.remove(session)

    @rule(step=st.sampled_from([0.1, 1.0, 1.9]), times=st.integers(1, 8))
    def pass_time(self, step: float, times: int) -> None:
        for _ in range(times):
            self.now += step
            self.carry_out(self.table.expire(self.now))

    @invariant()
    def ranges_are_disjoint_and_counted(self) -> None:
        taken = [
            slot
            for program in self.on_switch.values()
            for slot in range(program.pool_base, program.pool_base + program.window)
        ]
        assert len(set(taken)) == len(taken)
        assert all(0 <= slot < self.pool for slot in taken)
        assert self.table.free_slots == self.pool - len(taken)

    @invariant()
    def numbers_and_active_ranks_are_unique(self) -> None:
        numbers = [job.number for job in self.table.jobs if job.number]
        assert sorted(numbers) == sorted(self.on_switch)
        active = [
            (job.name, rank)
            for job in self.table.jobs
            for rank, member in job.members.items()
            if not member.left
        ]
        assert len(set(active)) == len(active)
        assert all(job.members for job in self.table.jobs)

    @invariant()
    def those_who_wait_have_a_timer(self) -> None:
        if self.waiting:
            due = self.table.next_timer()
            assert due is not None
            assert due <= self.now + 30.0

    def teardown(self) -> None:
        """When all fall silent, time alone reclaims everything and answers everybody."""
        if not hasattr(self, "table"):
            return
        while (due := self.table.next_timer()) is not None:
            self.now = max(self.now + 0.01, due)
            self.carry_out(self.table.expire(self.now))
        assert not self.on_switch
        assert not self.waiting
        assert self.table.jobs == ()
        assert self.table.free_slots == self.pool


TestJobs = Jobs.TestCase


@pytest.mark.parametrize(
    ("transports", "paper", "able", "expected"),
    [
        (("auto", "auto"), False, True, ("memory", "memory")),
        (("auto", "memory"), False, True, ("memory", "memory")),
        (("auto", "udp"), False, True, ("shm", "udp")),
        (("shm", "auto"), False, True, ("shm", "shm")),
        (("auto", "auto"), True, True, ("shm", "shm")),
        (("auto", "auto"), False, False, ("shm", "shm")),
    ],
)
def test_a_job_is_in_memory_where_all_ranks_can(
    transports: tuple[str, str], paper: bool, able: bool, expected: tuple[str, str]
) -> None:
    table = JobTable(
        dataclasses.replace(TARGET, in_memory=able, default_payload=4096), lease=LEASE, multicast_octet=17
    )
    actions: list[Action] = []
    for rank, transport in enumerate(transports):
        actions = table.join(f"a{rank}", offer(rank, transport=transport, ticket="t", paper=paper), 60.0, 0.0)
    [program] = programs(actions)
    memory = "memory" in expected
    assert tuple(worker.transport for worker in program.workers) == expected
    assert (program.in_memory, program.window) == (memory, 128 if memory else 512)
    assert {action.layout.in_memory for action in actions if isinstance(action, Joined)} == {memory}


@pytest.mark.parametrize("first", ["udp", "shm"])
def test_who_demands_memory_is_told_why_there_is_none(first: str) -> None:
    table = JobTable(dataclasses.replace(TARGET, in_memory=True), lease=LEASE, multicast_octet=17)
    table.join("a0", offer(0, transport=first, ticket="t"), 60.0, 0.0)
    with pytest.raises(LayoutMismatchError, match=f"rank 1 comes by memory, rank 0 by {first}"):
        table.join("a1", offer(1, transport="memory", ticket="t"), 60.0, 0.0)
    with pytest.raises(UsageError, match="as published it needs packets"):
        table.join("b0", offer(0, job="b", transport="memory", ticket="t", paper=True), 60.0, 0.0)
    with pytest.raises(UsageError, match="faults on purpose"):
        make_table().join("a0", offer(0, transport="memory", ticket="t"), 60.0, 0.0)


def test_what_workers_send_again_adds_up_and_stays_when_they_leave() -> None:
    table = make_table()
    join_all(table)
    start_all(table)
    table.heartbeat("a0", 1.0, Resent(5, 2))
    table.heartbeat("a0", 2.0, Resent(7, 2))
    table.heartbeat("a1", 2.0, Resent(10, 0))
    table.heartbeat("a1", 3.0)
    (job,) = table.jobs
    assert {rank: member.resent for rank, member in job.members.items()} == {
        0: Resent(7, 2),
        1: Resent(10, 0),
    }
    table.leave("a0", 4.0, resent=Resent(8, 3))
    table.leave("a1", 4.0)
    assert table.resent == Resent(18, 3)
    # Nobody is believed so much that the sum could not be told any more.
    join_all(table)
    start_all(table)
    table.heartbeat("a0", 5.0, Resent(2**64 - 1, 1))
    table.heartbeat("a0", 6.0, Resent(0, 0))
    table.heartbeat("a0", 7.0, Resent(2**64 - 1, 0))
    assert table.resent == Resent(2**63 - 1, 4)


def test_why_a_job_does_not_run_yet() -> None:
    table = make_table()
    table.join("a0", offer(0, 3), 30.0, 0.0)
    (job,) = table.jobs
    assert job.waits_for() == "ranks 1-2 to join"
    with pytest.raises(UsageError):
        table.join("a1", offer(1, 3, payload=7), 30.0, 0.0)
    assert job.waits_for().startswith("ranks 1-2 to join; rank 1 was refused: payload 7")
    table.join("a1", offer(1, 3), 30.0, 0.0)
    table.join("a2", offer(2, 3), 30.0, 0.0)
    table.ready("a1", False, 30.0, 1.0)
    assert job.waits_for() == "ranks 0, 2 to be ready"
    table.ready("a0", False, 30.0, 1.0)
    table.ready("a2", False, 30.0, 1.0)
    assert job.waits_for() == ""


def test_a_job_without_room_is_among_those_that_ended_with_the_reason() -> None:
    table = make_table(pool_slots=64)
    join_all(table, "a", window=64)
    join_all(table, "b", window=64)
    (refused,) = table.ended(1.0)
    assert (refused.name, refused.job_number) == ("b", 0)
    assert "this switch has 0 of 64 free" in refused.reason
