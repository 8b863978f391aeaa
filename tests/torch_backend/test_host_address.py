"""Rank 0 names an address that the others reach."""

from __future__ import annotations

import socket

import pytest
import torch.distributed as dist

from switchml.torch_backend import host_address
from switchml.torch_backend.host_address import (
    HostFacts,
    Hosts,
    facts_of_this_host,
    local_address_towards,
)

HERE = "this machine"
ROUTES = {"10.0.0.1": "10.0.0.1", "10.1.0.1": "10.1.0.1", "10.0.0.9": "10.0.0.1", "10.7.0.9": "10.1.0.1"}


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0's host: 10.0.0.1 and 10.1.0.1, the second with the route to 10.7.0.9."""
    monkeypatch.setattr(host_address, "local_address_towards", lambda address: ROUTES.get(address, ""))


def facts(machine: str, rendezvous: str = "", source: str = "", *networks: str) -> HostFacts:
    return HostFacts(machine, rendezvous, source, networks)


OWN = ("172.17.0.1/16", "10.0.0.1/24", "10.1.0.1/24")


@pytest.mark.usefixtures("routes")
@pytest.mark.parametrize(
    ("own", "others", "address"),
    [
        pytest.param(
            facts(HERE, "10.0.0.1", "10.0.0.1", *OWN),
            [facts(HERE, "10.0.0.1", "10.0.0.1", *OWN)],
            "127.0.0.1",
            id="all on one machine",
        ),
        pytest.param(facts(HERE), [], "127.0.0.1", id="alone"),
        pytest.param(
            facts(HERE, "127.0.1.1", "127.0.0.1", *OWN),
            [
                facts(HERE, "127.0.1.1", "127.0.0.1", *OWN),
                facts("b", "10.1.0.1", "10.1.0.2", "10.1.0.2/24", "10.0.0.2/24"),
            ],
            "10.1.0.1",
            id="127.0.1.1 in its own hosts file: as the others see it",
        ),
        pytest.param(
            facts(HERE, "10.0.0.1", "10.0.0.1", *OWN),
            [facts("b", "127.0.1.1", "127.0.0.1", "10.0.0.2/24")],
            "10.0.0.1",
            id="the others' hosts file is the wrong one",
        ),
        pytest.param(
            facts(HERE, "10.7.0.9", "10.1.0.1", *OWN),
            [facts("b", "10.7.0.9", "10.7.0.8", "10.7.0.8/24")],
            "10.1.0.1",
            id="they meet elsewhere: the route there",
        ),
        pytest.param(
            facts(HERE, "", "", *OWN),
            [facts("b", "", "", "172.17.0.1/16", "10.1.0.2/24"), facts("c", "", "", "10.1.0.3/24")],
            "10.1.0.1",
            id="they meet in a file: the network that all are in, and no bridge of containers",
        ),
        pytest.param(
            facts(HERE, "", "", *OWN),
            [facts("b", "", "", "172.17.0.1/16", "10.7.0.9/24")],
            "10.1.0.1",
            id="they meet in a file, in two networks: the route to the other",
        ),
        pytest.param(facts(HERE, "", "", *OWN), [facts("b", "", "", "10.9.0.9/24")], "", id="no way"),
    ],
)
def test_the_address_that_the_others_reach(own: HostFacts, others: list[HostFacts], address: str) -> None:
    assert Hosts((own, *others)).address_of(0) == address
    assert Hosts((*others, own)).address_of(len(others)) == address


def test_the_first_rank_of_each_host() -> None:
    machines = ["a", "b", "a", "c", "b"]
    assert Hosts(tuple(map(facts, machines))).first_ranks() == [0, 1, 3]


def test_facts_reach_the_other_ranks() -> None:
    said = facts("b", "10.0.0.1", "10.0.0.2", "10.0.0.2/24")
    assert HostFacts.from_json(said.to_json()) == said


def test_the_rendezvous_is_master_addr_else_the_host_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.TCPStore("localhost", 0, 1, is_master=True)
    wrapped = dist.PrefixStore("a", dist.PrefixStore("b", store))
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert facts_of_this_host(wrapped).rendezvous == "127.0.0.1"
    assert facts_of_this_host(dist.HashStore()).rendezvous == ""
    monkeypatch.setenv("MASTER_ADDR", "127.0.1.1")
    assert facts_of_this_host(wrapped).rendezvous == "127.0.1.1"
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    assert facts_of_this_host(wrapped).rendezvous == ""


def test_interfaces_are_listed_with_the_default_route_first() -> None:
    default = local_address_towards("192.0.2.1")
    found = facts_of_this_host(dist.HashStore())
    assert found == facts_of_this_host(dist.HashStore())  # so two processes of this machine are of one
    if not default:
        pytest.skip("no route to other networks on this machine")
    assert found.addresses[0] == default
    assert "127.0.0.1" not in found.addresses
    assert local_address_towards(default) == default
    with socket.socket() as probe:
        probe.bind((default, 0))
