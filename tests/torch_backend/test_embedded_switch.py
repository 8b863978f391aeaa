"""One embedded switch a process, closed after its last user."""

from __future__ import annotations

import os

import pytest

from switchml.control.tls import TlsFiles
from switchml.torch_backend import embedded_switch
from switchml.torch_backend.embedded_switch import EmbeddedSwitches, SwitchAddress


class Running:
    def __init__(self, host: str, number: int) -> None:
        self.address = f"{host}:{number}"
        self.token = f"secret {number}"
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Starter:
    def __init__(self) -> None:
        self.started: list[Running] = []

    def __call__(self, host: str, tls: TlsFiles) -> Running:
        self.started.append(Running(host, len(self.started)))
        return self.started[-1]


def test_groups_share_one_switch() -> None:
    start = Starter()
    switches = EmbeddedSwitches(start)
    first = switches.acquire("10.0.0.1")
    second = switches.acquire("10.0.0.1")
    assert first == second == SwitchAddress("10.0.0.1:0", "secret 0", embedded=True)
    switches.release(first)
    assert not start.started[0].closed
    switches.release(second)
    assert start.started[0].closed == 1
    switches.release(second)
    assert start.started[0].closed == 1


def test_a_group_over_several_hosts_is_not_given_a_switch_on_loopback() -> None:
    start = Starter()
    switches = EmbeddedSwitches(start)
    assert switches.acquire("127.0.0.1").address == "127.0.0.1:0"
    assert switches.acquire("10.0.0.1").address == "10.0.0.1:1"
    assert switches.acquire("10.0.0.1").address == "10.0.0.1:1"
    assert len(start.started) == 2


def test_after_the_last_group_the_next_starts_anew() -> None:
    start = Starter()
    switches = EmbeddedSwitches(start)
    switches.release(switches.acquire("a"))
    assert switches.acquire("b").address == "b:1"


def test_a_switch_of_another_process_is_used_and_not_closed() -> None:
    start = Starter()
    switches = EmbeddedSwitches(start)
    told = SwitchAddress("10.0.0.9:50551", "secret", embedded=True)
    switches.adopt(told)
    assert switches.acquire("10.0.0.9") == told
    switches.release(told)
    switches.release(told)
    assert switches.acquire("own").address == "own:0"


def test_a_host_uses_its_own_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ("10.0.0.2", "10.1.0.2")
    monkeypatch.setattr(
        embedded_switch, "local_address_towards", lambda address: address if address in mine else "10.0.0.2"
    )
    start = Starter()
    switches = EmbeddedSwitches(start)
    told = [SwitchAddress(f"10.0.0.{host}:50551", f"{host}", embedded=True) for host in (1, 2, 3)]
    for switch in told:
        switches.adopt(switch)
    assert switches.acquire("10.0.0.2") == told[1]
    assert switches.acquire("10.1.0.2") == told[1], "by another of the host's addresses"
    assert switches.acquire("127.0.0.1") == told[1], "for a group of this host alone"
    switches.release(*told, *[told[1]] * 3)
    assert switches._shared == {}
    assert start.started == []


def test_a_failed_start_leaves_nothing() -> None:
    def fail(host: str, tls: TlsFiles) -> Running:
        raise OSError("no")

    switches = EmbeddedSwitches(fail)
    with pytest.raises(OSError, match="no"):
        switches.acquire("a")
    assert switches._shared == {}


def test_a_forked_child_closes_nothing() -> None:
    start = Starter()
    switches = EmbeddedSwitches(start)
    switch = switches.acquire("a")
    child = os.fork()
    if child == 0:
        switches.release(switch)
        os._exit(start.started[0].closed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    switches.release(switch)
    assert start.started[0].closed == 1


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(SwitchAddress("a:1", "secret", embedded=True))
