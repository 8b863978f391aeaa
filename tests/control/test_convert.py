"""Every plain value comes back from its message as it was."""

from __future__ import annotations

import dataclasses

import pytest

from switchml.control.control_messages import (
    EndedJob,
    JobLayout,
    JobStatus,
    JoinOffer,
    MemberStatus,
    SlotReport,
    SwitchStatus,
)
from switchml.control.convert import (
    layout_from_pb,
    layout_to_pb,
    offer_from_pb,
    offer_to_pb,
    slot_from_pb,
    slot_to_pb,
    status_from_pb,
    status_to_pb,
    target_from_pb,
    target_to_pb,
)
from switchml.control.target import TargetDescription

TARGET = TargetDescription(
    "10.0.0.9", 48864, "socket", 16384, 8192, 256, payloads=(256, 1024), wires=("int8",), in_memory=True
)
OFFER = JoinOffer("digits", 1, 4, "shm", "10.0.0.1", 4711, "ticket", 256, 64, paper=True, wire="int16")
MEMBERS = (
    MemberStatus(0, "udp", "10.0.0.1", 4711, "ready", 0.5, 0.0),
    MemberStatus(1, "shm", "", 0, "joined", None, None),
)
JOB = JobStatus(
    "digits", 3, 2, "running", 512, 256, 1024, True, "239.1.2.3", 5000, True, MEMBERS, {"chunks_completed": 9}, 12.5, "int8"
)  # fmt: skip


def test_a_target() -> None:
    assert target_from_pb(target_to_pb(TARGET)) == TARGET
    everything = dataclasses.replace(TARGET, payloads=())
    assert target_from_pb(target_to_pb(everything)) == everything


def test_an_offer_goes_without_its_token_and_comes_with_another_address() -> None:
    message = offer_to_pb(dataclasses.replace(OFFER, token="secret", any_number=True), "session", 2.5)
    assert (message.session, message.timeout) == ("session", 2.5)
    assert offer_from_pb(message, "10.0.0.7") == dataclasses.replace(OFFER, address="10.0.0.7")
    assert b"secret" not in message.SerializeToString()
    with pytest.raises(ValueError, match="range"):
        offer_to_pb(dataclasses.replace(OFFER, rank=-1), "session", 1.0)


def test_a_layout() -> None:
    layout = JobLayout(7, 64, 1024, True, "239.83.1.7", 48864, 10.0, 4711, "int8", in_memory=True)
    assert layout_from_pb(layout_to_pb(layout)) == layout


def test_a_slot_with_ranks_never_heard() -> None:
    report = SlotReport(frozenset({2, 0}), (1, 3), [0.0, None, 1.5, None], 99, frozenset({3}))
    assert slot_from_pb(slot_to_pb(report)) == report


def test_a_status_with_all_that_it_holds() -> None:
    gathering = dataclasses.replace(JOB, job_number=0, members=(), counters={}, multicast=False)
    status = SwitchStatus(
        TARGET,
        (JOB, gathering),
        (EndedJob("old", 2, 4, "rank 2 has left", 30.0),),
        {"chunks_completed": 1234, "dropped_stale": 0},
        16128,
        10.0,
        99.0,
    )
    back = status_from_pb(status_to_pb(status))
    assert back == status
    assert back.uptime == 99.0
