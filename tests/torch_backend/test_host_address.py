"""An embedded switch listens where the ranks can reach it."""

from __future__ import annotations

import ipaddress
import socket

import pytest
import torch.distributed as dist

from switchml.errors import SwitchUnreachableError
from switchml.torch_backend.host_address import embedded_host, local_address_towards


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.0.0.7"])
def test_loopback_stays_loopback(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", name)
    assert embedded_host(dist.HashStore()) == "127.0.0.1"


def test_without_any_rendezvous_host_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert embedded_host(dist.PrefixStore("a", dist.HashStore())) == "127.0.0.1"


def test_the_host_of_a_tcp_rendezvous_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    store = dist.TCPStore("localhost", 0, 1, is_master=True)
    monkeypatch.setattr(
        "switchml.torch_backend.host_address.local_address_towards", lambda name: f"towards {name}"
    )
    assert embedded_host(dist.PrefixStore("a", dist.PrefixStore("b", store))) == "towards localhost"


def test_a_host_elsewhere_gives_the_address_that_reaches_it() -> None:
    # TEST-NET-1: nobody answers there, but the kernel chooses a source address, or has no route.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("no route to other networks on this machine")
        expected = probe.getsockname()[0]
    assert local_address_towards("192.0.2.1") == expected
    assert local_address_towards(expected) == expected
    assert ipaddress.ip_address(expected).version == 4


def test_a_host_without_an_address_says_what_to_do() -> None:
    with pytest.raises(SwitchUnreachableError, match="SWITCHML_SWITCH"):
        local_address_towards("no-such-host.invalid")
