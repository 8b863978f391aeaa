"""By which addresses the ranks of a group reach each other's hosts.

A host's own name is no guide: in many hosts files it stands for 127.0.1.1, and a host may have several interfaces. So each rank
says what it knows of its network, and the first rank of a host chooses.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch._C._distributed_c10d import Store

LOOPBACK = "127.0.0.1"

_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_ELSEWHERE = "192.0.2.1"  # TEST-NET-1: reached by the default route, if at all


@dataclass(frozen=True)
class HostFacts:
    """What a rank knows of its place in the network.

    Attributes:
        machine: equal for ranks that reach each other by loopback.
        rendezvous: IPv4 address of the rendezvous host as this rank finds it; "" = none.
        source: this rank's address on the route to it; "" = none.
        networks: addresses of this host's interfaces with their prefix lengths, as "10.0.0.1/24"; the default route's first.
    """

    machine: str
    rendezvous: str
    source: str
    networks: tuple[str, ...]

    def to_json(self) -> str:
        """For the other ranks."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> HostFacts:
        """What another rank said."""
        said = json.loads(text)
        return cls(said["machine"], said["rendezvous"], said["source"], tuple(said["networks"]))

    @property
    def addresses(self) -> list[str]:
        """Of the interfaces."""
        return [network.partition("/")[0] for network in self.networks]


def facts_of_this_host(store: Store) -> HostFacts:
    """What this process can say of its host. `store` is the group's; its host counts where MASTER_ADDR is not set."""
    name = os.environ.get("MASTER_ADDR", "").strip() or _store_host(store)
    rendezvous = _resolved(name)
    return HostFacts(_machine(), rendezvous, local_address_towards(rendezvous), _networks())


@dataclass(frozen=True)
class Hosts:
    """The hosts of a group.

    Attributes:
        facts: what the ranks have said, by rank.
    """

    facts: tuple[HostFacts, ...]

    def first_ranks(self) -> list[int]:
        """The lowest rank of each host, in order."""
        first: dict[str, int] = {}
        for rank, facts in enumerate(self.facts):
            first.setdefault(facts.machine, rank)
        return list(first.values())

    def are_one(self) -> bool:
        """Whether all ranks are on one."""
        return len(self.first_ranks()) == 1

    def address_of(self, rank: int) -> str:
        """The address by which the others reach the host of a rank, on which this runs; "" where none can be told."""
        others = [facts for other, facts in enumerate(self.facts) if other != rank]
        return _address(self.facts[rank], others)


def _address(own: HostFacts, others: Sequence[HostFacts]) -> str:
    elsewhere = [facts for facts in others if facts.machine != own.machine]
    if not elsewhere:
        return LOOPBACK
    # Where the others meet may be here: they have reached that address already.
    for facts in elsewhere:
        if _is_of_a_network(facts.rendezvous) and local_address_towards(facts.rendezvous) == facts.rendezvous:
            return facts.rendezvous
    if _is_of_a_network(own.source):
        return own.source
    for network in map(ipaddress.IPv4Interface, own.networks):
        if all(_reaches(facts, network) for facts in elsewhere):
            return str(network.ip)
    mine = set(own.addresses)
    for address in [address for facts in elsewhere for address in facts.addresses if address not in mine]:
        source = local_address_towards(address)
        if _is_of_a_network(source):
            return source
    return ""


def local_address_towards(address: str) -> str:
    """The local address from which an IPv4 address is reached: itself, where it is this host's own; "" without a route."""
    if not address:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _is_of_a_network(address: str) -> bool:
    return bool(address) and not ipaddress.ip_address(address).is_loopback


def _reaches(facts: HostFacts, network: ipaddress.IPv4Interface) -> bool:
    """Whether another host is in a network. An address that both have is of a bridge inside each, as containers have."""
    others = [ipaddress.IPv4Address(address) for address in facts.addresses]
    return network.ip not in others and any(address in network.network for address in others)


def _resolved(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_DGRAM)[0][4][0]) if name else ""
    except OSError:
        return ""


def _store_host(store: Store) -> str:
    """The host of a TCP rendezvous; "" for stores without one (files, memory)."""
    while (inner := getattr(store, "underlying_store", None)) is not None:
        store = inner
    return str(getattr(store, "host", ""))


def _machine() -> str:
    """Of this kernel and network namespace alone."""
    try:
        return f"{_BOOT.read_text().strip()} {os.readlink('/proc/self/ns/net')}"
    except OSError:
        return socket.gethostname()


def interface_of(address: str) -> str:
    """The name of the interface that has this address; "" for none here."""
    return next((name for name, network in _interfaces() if str(network.ip) == address), "")


def _networks() -> tuple[str, ...]:
    found = [network.with_prefixlen for _, network in _interfaces() if _is_of_a_network(str(network.ip))]
    default = local_address_towards(_ELSEWHERE)
    return tuple(sorted(found, key=lambda network: network.partition("/")[0] != default))


def _interfaces() -> Iterator[tuple[str, ipaddress.IPv4Interface]]:
    """Those that have an IPv4 address, with their network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:

        def ask(request: int, name: str) -> str:
            answer = fcntl.ioctl(asking, request, struct.pack("256s", name.encode()))
            return socket.inet_ntoa(answer[20:24])

        for _, name in socket.if_nameindex():
            try:
                address, mask = ask(_SIOCGIFADDR, name), ask(_SIOCGIFNETMASK, name)
            except OSError:
                continue
            yield name, ipaddress.IPv4Interface(f"{address}/{mask}")
