"""The election as a state machine (P4Runtime specification, section 5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4runtime.arbitration import Arbiter, Notice


def told(notices: list[Notice]) -> dict[object, tuple[int | None, str]]:
    return {notice.client: (notice.election_id, notice.status) for notice in notices}


def test_the_highest_id_is_the_primary_and_everyone_hears_of_it() -> None:
    arbiter = Arbiter(1)
    assert told(arbiter.update("a", 1, "", 5)) == {"a": (5, "OK")}
    assert told(arbiter.update("b", 1, "", 3)) == {"b": (5, "ALREADY_EXISTS")}
    assert told(arbiter.update("c", 1, "", 9)) == {
        "a": (9, "ALREADY_EXISTS"),
        "b": (9, "ALREADY_EXISTS"),
        "c": (9, "OK"),
    }
    assert arbiter.is_primary("", 9)
    assert not arbiter.is_primary("", 5)


def test_roles_are_remembered_up_to_a_number() -> None:
    arbiter = Arbiter(1, max_roles=3)
    for role in ("one", "two"):
        arbiter.update(role, 1, role, 5)
        arbiter.disconnect(role)
    for role in ("three", "x" * 256):
        with pytest.raises(RuntimeRequestError, match="3 roles of up to 255 characters") as refused:
            arbiter.update("more", 1, role, 5)
        assert refused.value.code == "RESOURCE_EXHAUSTED"
    assert not arbiter.has_role("three")
    assert told(arbiter.update("again", 1, "one", 4)) == {"again": (5, "NOT_FOUND")}


def test_no_id_is_never_primary_and_zero_is_an_id() -> None:
    arbiter = Arbiter(1)
    assert told(arbiter.update("a", 1, "", None)) == {"a": (None, "NOT_FOUND")}
    assert not arbiter.is_primary("", None)
    assert told(arbiter.update("b", 1, "", 0)) == {"a": (0, "ALREADY_EXISTS"), "b": (0, "OK")}
    assert arbiter.is_primary("", 0)


def test_a_lost_primary_is_not_replaced_by_a_backup() -> None:
    arbiter = Arbiter(1)
    arbiter.update("a", 1, "", 5)
    arbiter.update("b", 1, "", 3)
    assert told(arbiter.disconnect("a")) == {"b": (5, "NOT_FOUND")}
    assert not arbiter.is_primary("", 5)
    assert told(arbiter.update("b", 1, "", 4)) == {"b": (5, "NOT_FOUND")}
    assert told(arbiter.update("b", 1, "", 5)) == {"b": (5, "OK")}


def test_a_primary_can_step_back() -> None:
    arbiter = Arbiter(1)
    arbiter.update("a", 1, "", 5)
    arbiter.update("b", 1, "", 3)
    assert told(arbiter.update("a", 1, "", 2)) == {"a": (5, "NOT_FOUND"), "b": (5, "NOT_FOUND")}
    assert arbiter.primaries() == []


def test_a_backup_leaves_in_silence() -> None:
    arbiter = Arbiter(1)
    arbiter.update("a", 1, "", 5)
    arbiter.update("b", 1, "", 3)
    assert arbiter.disconnect("b") == []
    assert arbiter.disconnect("stranger") == []


def test_roles_elect_each_their_own() -> None:
    arbiter = Arbiter(1)
    arbiter.update("a", 1, "", 5)
    assert told(arbiter.update("b", 1, "telemetry", 5)) == {"b": (5, "OK")}
    assert set(arbiter.primaries()) == {"a", "b"}
    assert arbiter.has_role("telemetry")
    assert not arbiter.has_role("routing")


@pytest.mark.parametrize(
    ("device", "role", "election_id", "configured", "code"),
    [
        (2, "", 1, False, "NOT_FOUND"),
        (1, "", 5, False, "INVALID_ARGUMENT"),
        (1, "other", 1, True, "INVALID_ARGUMENT"),
    ],
)
def test_refused_newcomers(device: int, role: str, election_id: int, configured: bool, code: str) -> None:
    arbiter = Arbiter(1)
    arbiter.update("a", 1, "", 5)
    with pytest.raises(RuntimeRequestError) as refusal:
        arbiter.update("b", device, role, election_id, configured=configured)
    assert refusal.value.code == code
    assert arbiter.disconnect("b") == []
    assert not arbiter.has_role("other")


def test_a_client_keeps_its_device_role_and_distance() -> None:
    arbiter = Arbiter(1)
    arbiter.update("a", 1, "", 5)
    arbiter.update("b", 1, "", 3)
    for device, role, election_id, code in (
        (2, "", 3, "FAILED_PRECONDITION"),
        (1, "other", 3, "FAILED_PRECONDITION"),
        (1, "", 5, "INVALID_ARGUMENT"),
    ):
        with pytest.raises(RuntimeRequestError) as refusal:
            arbiter.update("b", device, role, election_id)
        assert refusal.value.code == code


def test_too_many_clients() -> None:
    arbiter = Arbiter(1, max_clients=2)
    arbiter.update("a", 1, "", 1)
    arbiter.update("b", 1, "", None)
    with pytest.raises(RuntimeRequestError) as refusal:
        arbiter.update("c", 1, "", 3)
    assert refusal.value.code == "RESOURCE_EXHAUSTED"
    assert told(arbiter.update("c", 1, "other", 3)) == {"c": (3, "OK")}


steps = st.lists(
    st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 6), st.just("leave"))),
    max_size=40,
)


@given(steps)
def test_invariants(moves: list[tuple[str, int | str | None]]) -> None:
    """At most one primary, which holds the highest id ever seen; whoever's state changes hears it; ids differ."""
    arbiter = Arbiter(1)
    live: dict[object, int | None] = {}
    status: dict[object, str] = {}
    highest: int | None = None
    for client, move in moves:
        if isinstance(move, str):
            notices = arbiter.disconnect(client)
            live.pop(client, None)
            status.pop(client, None)
        else:
            taken = move is not None and any(o != client and chosen == move for o, chosen in live.items())
            if taken:
                with pytest.raises(RuntimeRequestError):
                    arbiter.update(client, 1, "", move)
                continue
            notices = arbiter.update(client, 1, "", move)
            live[client] = move
            if move is not None:
                highest = move if highest is None else max(highest, move)
            assert client in told(notices)
        status.update({notice.client: notice.status for notice in notices})
        assert all(notice.election_id == highest for notice in notices)
        holders = [client for client, chosen in live.items() if chosen is not None and chosen == highest]
        assert arbiter.primaries() == holders
        assert arbiter.is_primary("", highest) == bool(holders)
        assert status == {
            client: ("OK" if client in holders else "ALREADY_EXISTS" if holders else "NOT_FOUND")
            for client in live
        }
