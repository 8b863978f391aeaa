"""Ranks agree on a switch and a job; who cannot come is named."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import torch.distributed as dist

from switchml.control.tls import TlsFiles
from switchml.errors import (
    InvalidTokenError,
    JoinError,
    JoinTimeoutError,
    PortInUseError,
    SwitchUnreachableError,
    UsageError,
)
from switchml.torch_backend import discovery, rendezvous
from switchml.torch_backend.discovery import Placement, find_switches
from switchml.torch_backend.embedded_switch import EmbeddedSwitches, SwitchAddress
from switchml.torch_backend.host_address import Hosts
from switchml.torch_backend.options import Options


class Running:
    token = "token of the embedded one"

    def __init__(self, host: str) -> None:
        self.address = f"{host}:7"
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Ranks:
    """Each rank a thread with an embedded-switch registry of its own, as if it were a process."""

    def __init__(
        self, error: Exception | None = None, hosts: Sequence[str] = ("127.0.0.1",), fails: str = ""
    ) -> None:
        """hosts: addresses, by rank, the last of all ranks beyond. error: at the start of a switch on host `fails`, "" = all."""
        self.hosts = hosts
        self.store = dist.HashStore()
        self.error = error
        self.fails = fails
        self.running: list[Running] = []
        self.registries: dict[int, EmbeddedSwitches] = {}

    def start(self, host: str, tls: TlsFiles) -> Running:
        if self.error is not None and self.fails in ("", host):
            raise self.error
        running = Running(host)
        self.running.append(running)
        return running

    def first_ranks(self) -> list[int]:
        return [self.hosts.index(host) for host in dict.fromkeys(self.hosts)]

    def address_of(self, rank: int) -> str:
        return self.hosts[min(rank, len(self.hosts) - 1)]

    def find(self, ranks: list[int], world_size: int, timeout: float = 10.0, **options: Any) -> list[Any]:
        """By rank: its placement, or what it raised."""

        def one(rank: int) -> Placement | Exception:
            try:
                return find_switches(
                    self.store,
                    rank,
                    world_size,
                    group="group",
                    options=Options(**options),
                    hosts=lambda: cast(Hosts, self),
                    timeout=timeout,
                    embedded=self.registries.setdefault(rank, EmbeddedSwitches(self.start)),
                )
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(ranks)) as threads:
            return list(threads.map(one, ranks))


def test_all_ranks_get_the_switch_of_rank_0() -> None:
    places = Ranks().find([0, 1, 2], 3, switch="10.1.1.1:50551", token="t")
    assert [place.rank for place in places] == [0, 1, 2]
    assert {place.world_size for place in places} == {3}
    assert len({place.job for place in places}) == 1
    assert {place.switches for place in places} == {(SwitchAddress("10.1.1.1:50551", "t", False, None),)}


def test_several_named_switches_and_their_shares() -> None:
    places = Ranks().find([0, 1], 2, switch="10.1.1.1:50551*3,10.1.1.2", token="t")
    named = SwitchAddress("10.1.1.1:50551", "t", False, 3), SwitchAddress("10.1.1.2", "t", False, None)
    assert {place.switches for place in places} == {named}
    assert places[1].addresses == "10.1.1.1:50551,10.1.1.2"
    errors = Ranks().find([0, 1], 2, switch="a:1,a:1")
    assert [type(error) for error in errors] == [UsageError] * 2


def test_shares_that_were_found_hold_for_the_next_group() -> None:
    (first,) = Ranks().find([0], 1, switch="10.1.1.3:1,10.1.1.4:1")
    assert [switch.share for switch in first.switches] == [None, None]
    discovery.remember_shares(first, (16, 5))
    (second,) = Ranks().find([0], 1, switch="10.1.1.3:1,10.1.1.4:1")
    assert [switch.share for switch in second.switches] == [16, 5]
    (told,) = Ranks().find([0], 1, switch="10.1.1.3:1*1,10.1.1.4:1*1")
    assert [switch.share for switch in told.switches] == [1, 1]


def test_without_a_switch_rank_0_starts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHML_SWITCH", raising=False)
    ranks = Ranks()
    places = ranks.find([0, 1, 2], 3)
    assert len(ranks.running) == 1
    assert {place.switches for place in places} == {(SwitchAddress("127.0.0.1:7", Running.token, True),)}
    # A subgroup's rank 0 in another process knows it too.
    assert ranks.registries[2].acquire("127.0.0.1") == places[0].switches[0]


def test_on_several_hosts_each_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHML_SWITCH", raising=False)
    ranks = Ranks(hosts=["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3"])
    places = ranks.find([0, 1, 2, 3], 4)
    assert {place.addresses for place in places} == {"10.0.0.1:7,10.0.0.2:7,10.0.0.3:7"}
    assert len(ranks.running) == 3
    # A subgroup's first rank on a host, in another process, takes the one that is there.
    assert ranks.registries[2].acquire("10.0.0.1") == places[0].switches[0]
    for place in places:
        ranks.registries[place.rank].release(*place.switches)
    ranks.registries[2].release(*places[0].switches)
    assert all(running.closed for running in ranks.running)


def test_the_reason_of_one_host_reaches_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHML_SWITCH", raising=False)
    hosts = ["10.0.0.1", "10.0.0.2", "10.0.0.2"]
    ranks = Ranks(PortInUseError("taken"), hosts=hosts, fails="10.0.0.2")
    errors = ranks.find([0, 1, 2], 3)
    assert [type(error) for error in errors] == [PortInUseError] * 3
    assert str(errors[1]) == "taken"
    assert all("rank 1 of the group has no switch to offer: taken" in str(errors[rank]) for rank in (0, 2))
    assert all(running.closed for running in ranks.running)
    assert all(registry._shared == {} for registry in ranks.registries.values())


def test_two_groups_of_one_name_have_two_jobs() -> None:
    jobs = {Ranks().find([0], 1, switch="h:1")[0].job for _ in range(20)}
    assert len(jobs) == 20


def test_the_reason_of_rank_0_reaches_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHML_SWITCH", raising=False)
    errors = Ranks(InvalidTokenError("not mine")).find([0, 1, 2], 3)
    assert [type(error) for error in errors] == [InvalidTokenError] * 3
    assert all("not mine" in str(error) for error in errors)


def test_an_error_of_no_type_of_ours_is_a_join_error_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHML_SWITCH", raising=False)
    errors = Ranks(OSError("disk full")).find([0, 1], 2)
    assert [type(error) for error in errors] == [OSError, JoinError]
    assert "disk full" in str(errors[1])


def test_without_an_address_all_are_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHML_SWITCH", raising=False)
    errors = Ranks(hosts=[""]).find([0, 1], 2)
    assert [type(error) for error in errors] == [SwitchUnreachableError] * 2
    assert all("SWITCHML_SWITCH=host:port" in str(error) for error in errors)


def test_without_rank_0_there_is_no_switch() -> None:
    (error,) = Ranks().find([1], 2, timeout=0.1)
    assert type(error) is JoinTimeoutError
    assert "rank 0" in str(error)


def test_missing_ranks_are_named_and_the_embedded_switch_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHML_SWITCH", raising=False)
    ranks = Ranks()
    errors = ranks.find([0, 2], 4, timeout=0.2)
    assert [type(error) for error in errors] == [JoinTimeoutError] * 2
    assert all("rank 1, 3 of 4" in str(error) for error in errors)
    assert ranks.running[0].closed


def test_a_rank_that_compiles_has_all_the_time_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 gives signs for longer than the timeout of rank 1, which gives up only once they have ended."""
    monkeypatch.setattr(rendezvous, "_COMPILING_SECONDS", 1.0)
    ranks = Ranks()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(ranks.find, [1], 2, timeout=0.1, switch="h:1")
        for _ in range(10):
            rendezvous.compiling(ranks.store)
            time.sleep(0.05)
        (first,) = ranks.find([0], 2, switch="h:1")
        (second,) = waiting.result()
    assert second.job == first.job


def test_signs_that_have_ended_do_not_keep_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_COMPILING_SECONDS", 0.2)
    ranks = Ranks()
    rendezvous.compiling(ranks.store)
    (error,) = ranks.find([1], 2, timeout=0.1)
    assert type(error) is JoinTimeoutError
