"""Digest lists: gathered, sent once, forgotten (P4Runtime specification, section 9.11)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4runtime import digests
from switchml.switch_emulator.p4runtime.digests import DigestBuffers, DigestConfig


def test_at_once_without_a_timeout() -> None:
    buffers = DigestBuffers()
    assert buffers.receive("d", (1,), 0) is None  # not asked for
    buffers.insert("d", DigestConfig())
    first = buffers.receive("d", (1,), 0)
    second = buffers.receive("d", (1,), 0)
    assert first is not None
    assert second is not None
    assert first.messages == second.messages == ((1,),)
    assert first.list_id != second.list_id
    assert buffers.next_timer() is None


def test_gathers_up_to_the_size_without_duplicates() -> None:
    buffers = DigestBuffers()
    buffers.insert("d", DigestConfig(max_timeout_ns=100, max_list_size=2))
    assert buffers.receive("d", (1,), 10) is None
    assert buffers.receive("d", (1,), 11) is None
    due = buffers.receive("d", (2,), 12)
    assert due is not None
    assert due.messages == ((1,), (2,))


def test_gathers_up_to_the_time() -> None:
    buffers = DigestBuffers()
    buffers.insert("d", DigestConfig(max_timeout_ns=100, max_list_size=9))
    buffers.receive("d", (1,), 10)
    buffers.receive("d", (2,), 60)
    assert buffers.next_timer() == 110
    assert buffers.expire(109) == []
    (due,) = buffers.expire(110)
    assert due.messages == ((1,), (2,))
    assert buffers.expire(500) == []


def test_what_is_not_acknowledged_is_not_repeated_for_a_time() -> None:
    buffers = DigestBuffers()
    buffers.insert("d", DigestConfig(max_list_size=1, ack_timeout_ns=50))
    sent = buffers.receive("d", (1,), 0)
    assert sent is not None
    assert buffers.receive("d", (1,), 49) is None
    assert buffers.receive("d", (1,), 50) is not None
    buffers.acknowledge("d", sent.list_id)  # that of the list before: too late, so nothing
    assert buffers.receive("d", (1,), 60) is None


def test_an_acknowledged_message_may_come_again() -> None:
    buffers = DigestBuffers()
    buffers.insert("d", DigestConfig(ack_timeout_ns=1000))
    sent = buffers.receive("d", (1,), 0)
    assert sent is not None
    buffers.acknowledge("d", sent.list_id)
    assert buffers.receive("d", (1,), 1) is not None
    buffers.acknowledge("unknown", 1)


def test_another_primary_gets_what_the_one_before_did_not_acknowledge() -> None:
    buffers = DigestBuffers()
    buffers.insert("d", DigestConfig(ack_timeout_ns=1000))
    buffers.receive("d", (1,), 0)
    assert buffers.receive("d", (1,), 1) is None
    buffers.forget_unanswered()
    assert buffers.receive("d", (1,), 2) is not None


def test_a_client_that_never_answers_costs_no_more_than_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "REMEMBERED", 3)
    buffers = DigestBuffers()
    buffers.insert("d", DigestConfig(ack_timeout_ns=1000))
    sent = [buffers.receive("d", (value,), value) for value in range(5)]
    assert None not in sent
    assert [bool(buffers.receive("d", (value,), 10)) for value in (4, 3, 2, 0)] == [False, False, False, True]


def test_configuration_comes_and_goes() -> None:
    buffers = DigestBuffers()
    config = DigestConfig(max_list_size=3)
    for change in (lambda: buffers.modify("d", config), lambda: buffers.delete("d")):
        with pytest.raises(RuntimeRequestError) as refusal:
            change()
        assert refusal.value.code == "NOT_FOUND"
    buffers.insert("d", DigestConfig())
    with pytest.raises(RuntimeRequestError) as refusal:
        buffers.insert("d", config)
    assert refusal.value.code == "ALREADY_EXISTS"
    buffers.modify("d", config)
    assert buffers.configs() == {"d": config}
    buffers.delete("d")
    assert buffers.receive("d", (1,), 0) is None


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=60),
    st.integers(0, 40),
    st.integers(0, 4),
)
def test_without_a_cache_every_message_arrives_in_time(
    arrivals: list[tuple[int, int]], timeout: int, size: int
) -> None:
    buffers = DigestBuffers()
    buffers.insert("d", DigestConfig(max_timeout_ns=timeout, max_list_size=size))
    now = 0
    waiting: dict[int, int] = {}  # value -> since when
    for value, pause in arrivals:
        now += pause
        lists = buffers.expire(now)
        for due in lists:
            for (seen,) in due.messages:
                waiting.pop(seen)
        assert all(now - since < timeout for since in waiting.values())
        waiting.setdefault(value, now)
        if due_now := buffers.receive("d", (value,), now):
            assert len(set(due_now.messages)) == len(due_now.messages) <= (size or 1000)
            for (seen,) in due_now.messages:
                waiting.pop(seen)
        assert timeout > 0 or not waiting
