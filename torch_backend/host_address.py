"""On which of this host's addresses an embedded switch should listen, so that every rank can reach it."""

from __future__ import annotations

import ipaddress
import os
import socket

from torch._C._distributed_c10d import Store

from switchml.errors import SwitchUnreachableError

LOOPBACK = "127.0.0.1"


def embedded_host(store: Store) -> str:
    """The IPv4 address for an embedded switch on this host: the one on the network where the ranks rendezvous.

    Raises:
        SwitchUnreachableError: the rendezvous host has no IPv4 address that can be told.
    """
    name = os.environ.get("MASTER_ADDR", "").strip() or _store_host(store)
    return local_address_towards(name) if name else LOOPBACK


def local_address_towards(name: str) -> str:
    """`name`'s IPv4 address if it is this host's own, else the local address from which `name` is reached."""
    try:
        target = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_DGRAM)[0][4][0]
    except OSError as error:
        raise SwitchUnreachableError(
            f"the rendezvous host {name!r} has no IPv4 address ({error}), so an embedded switch cannot be placed; "
            "start one with `switchml switch` and set SWITCHML_SWITCH=host:port on rank 0"
        ) from error
    address = str(target)
    if ipaddress.ip_address(address).is_loopback:
        return LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:  # not ours
            probe.connect((address, 9))  # sends nothing
            return str(probe.getsockname()[0])
    return address


def _store_host(store: Store) -> str:
    """The host of a TCP rendezvous; "" for stores without one (files, memory)."""
    while (inner := getattr(store, "underlying_store", None)) is not None:
        store = inner
    return str(getattr(store, "host", ""))
