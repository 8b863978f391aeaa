"""A publisher and its listeners, in this process."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from watched_switch import Watched, job, receive_until, slots, status

import switchml.telemetry.publisher as publishing
from switchml.errors import JoinError, PortInUseError, SwitchUnreachableError, UsageError
from switchml.telemetry.admission import marked
from switchml.telemetry.publisher import Publisher
from switchml.telemetry.subscription import Subscription, decode, published_at

SWITCH = "127.0.0.1:50551"


@pytest.fixture
def watched() -> Watched:
    return Watched(status(job(), packets_received=9), {3: slots()})


@pytest.fixture
def publisher(watched: Watched) -> Iterator[Publisher]:
    with Publisher(watched, switch=SWITCH) as made:
        yield made


def test_a_listener_gets_every_kind(publisher: Publisher, watched: Watched) -> None:
    with Subscription([publisher.address]) as subscription:
        wanted = {"switch", "counters", "jobs", "slots"}
        found = receive_until(subscription, lambda all_: wanted <= {each["kind"] for each in all_})
        watched.now = status(packets_received=9)
        found += receive_until(subscription, lambda all_: any(each["kind"] == "change" for each in all_))
    first = {each["kind"]: each for each in reversed(found)}
    assert {each["switch"] for each in found} == {SWITCH}
    assert first["counters"]["counters"]["packets_received"] == 9
    assert first["jobs"]["jobs"][0]["members"][1]["round_trip"] == 0.0015
    assert first["slots"]["jobs"]["3"]["late"] == [0, 1]
    assert (first["change"]["what"], first["change"]["state"]) == ("job", "ended")
    numbers = [each["number"] for each in found if each["kind"] == "counters"]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_while_nobody_listens_nobody_looks(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    # Somebody on this machine may follow all its switches.
    monkeypatch.setattr(publishing, "mark", lambda host, port: socket.socket(socket.AF_UNIX))
    with Publisher(watched, switch=SWITCH) as publisher:
        assert not watched.looked.wait(0.3)
        with Subscription([publisher.address], ["counters"]) as subscription:
            found = receive_until(subscription, lambda all_: len(all_) >= 2)
        assert {each["kind"] for each in found} == {"counters"}
        # One look may be under way, or come before the news that the listener has gone.
        deadline = time.monotonic() + 60
        looks = -1
        while looks != watched.looks:
            assert time.monotonic() < deadline
            looks = watched.looks
            time.sleep(0.5)


def test_a_second_listener_is_told_of_the_jobs_at_once(publisher: Publisher) -> None:
    with Subscription([publisher.address]) as first:
        receive_until(first, bool)
        with Subscription([publisher.address], ["switch"]) as second:
            # The next one would come after five seconds; this does not measure them, only that it comes.
            assert receive_until(second, bool)[0]["pool_slots"] == 16384


def test_who_does_not_read_holds_nobody_up(publisher: Publisher, watched: Watched) -> None:
    context = zmq.Context()
    deaf = context.socket(zmq.SUB)
    deaf.setsockopt(zmq.RCVHWM, 1)
    deaf.setsockopt(zmq.RCVBUF, 4096)
    deaf.subscribe("")
    deaf.connect(f"tcp://{publisher.address}")
    try:
        with Subscription([publisher.address], ["counters"]) as subscription:
            found = receive_until(subscription, lambda all_: len(all_) >= 15)
        assert len({each["number"] for each in found}) == len(found)
    finally:
        context.destroy(0)


def test_a_switch_in_other_hands_says_why(publisher: Publisher, watched: Watched) -> None:
    with Subscription([publisher.address]) as subscription:
        receive_until(subscription, lambda all_: any(each["kind"] == "switch" for each in all_))

        def observe(*, slots: bool) -> None:
            raise JoinError("nobody can join this switch now: a new primary")

        watched.observe = observe  # type: ignore[method-assign, assignment]
        found = receive_until(subscription, lambda all_: any(each.get("suspended") for each in all_))
    assert found[-1]["suspended"] == "nobody can join this switch now: a new primary"


def test_beyond_loopback_it_takes_the_token(watched: Watched) -> None:
    with pytest.raises(UsageError, match="--token"):
        Publisher(watched, switch=SWITCH, host="0.0.0.0")
    with Publisher(watched, switch=SWITCH, host="0.0.0.0", token="secret") as publisher:
        address = publisher.address
        with pytest.raises(UsageError, match="token"):
            Subscription([address])
        with Subscription([address], ["counters"], token="another") as stranger:
            with Subscription([address], ["counters"], token="secret") as friend:
                assert (
                    receive_until(friend, lambda all_: len(all_) >= 5)[0]["counters"]["packets_received"] == 9
                )
            assert stranger.receive(0.0) == []
        clear = zmq.Context()
        bare = clear.socket(zmq.SUB)
        bare.subscribe("")
        bare.connect(f"tcp://127.0.0.1:{address.rpartition(':')[2]}")
        try:
            with Subscription([address], ["counters"], token="secret") as friend:
                receive_until(friend, lambda all_: len(all_) >= 5)
            assert not bare.poll(0)
        finally:
            clear.destroy(0)


def test_a_port_that_is_taken_and_a_host_that_is_not_ours(watched: Watched) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortInUseError, match="--telemetry-port"):
            Publisher(watched, switch=SWITCH, port=other.getsockname()[1])
    with pytest.raises(UsageError, match="cannot listen on"):
        Publisher(watched, switch=SWITCH, host="192.0.2.1", token="secret")


def test_it_is_found_as_long_as_it_runs_and_leaves_nothing(watched: Watched) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Publisher(watched, switch=SWITCH) as publisher:
        assert publisher.address in marked()
        assert watched.telemetry == publisher.address
        with Subscription([publisher.address]) as subscription:
            receive_until(subscription, bool)
    publisher.close()
    assert publisher.address not in marked()
    assert watched.telemetry == ""
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_switches_of_this_machine_are_followed(watched: Watched) -> None:
    with Subscription(None) as subscription:
        with Publisher(watched, switch="127.0.0.1:1") as first:
            receive_until(subscription, lambda all_: any(each["switch"] == "127.0.0.1:1" for each in all_))
            assert first.address in subscription.addresses
        with Publisher(watched, switch="127.0.0.1:2"):
            receive_until(subscription, lambda all_: any(each["switch"] == "127.0.0.1:2" for each in all_))
        subscription.receive(0.0)
        assert first.address not in subscription.addresses


@pytest.mark.parametrize("text", [b"", b"7", b"{}", b'{"version": 1}', b"\xff"])
def test_what_is_no_message_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(UsageError, match="no message of a switch"):
        decode(text)


def test_another_version_is_refused() -> None:
    with pytest.raises(UsageError, match=r"version 2 .* this is version 1"):
        decode('{"version": 2, "kind": "switch"}')


def test_where_to_listen(watched: Watched) -> None:
    assert published_at("10.0.0.9:50551", "10.0.0.9:7000") == "10.0.0.9:7000"
    assert published_at("10.0.0.9:50551", "0.0.0.0:7000") == "10.0.0.9:7000"
    assert published_at("127.0.0.1:50551", "127.0.0.1:7000") == "127.0.0.1:7000"
    with pytest.raises(SwitchUnreachableError, match="--telemetry-host"):
        published_at("10.0.0.9:50551", "127.0.0.1:1")
    with pytest.raises(SwitchUnreachableError, match="--no-telemetry"):
        published_at("10.0.0.9:50551", "")
