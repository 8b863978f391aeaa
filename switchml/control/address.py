"""Addresses of control services, as people write them."""

from __future__ import annotations

import socket

from switchml.control.control_messages import DEFAULT_CONTROL_PORT
from switchml.errors import UsageError

PRIVATE = "unix-abstract:"
"""How gRPC begins the name of an abstract Unix socket."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `host`, `host:port` or `[IPv6]:port`.

    Raises:
        UsageError: it is none of these.
    """
    host, separator, port = text.strip().rpartition(":")
    if not separator or text.strip().endswith("]"):
        host, port = text.strip(), str(DEFAULT_CONTROL_PORT)
    host = host.strip("[]")
    if not host or "/" in host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise UsageError(
            f"{text!r} is no address of a switch; write host:port, as in 127.0.0.1:{DEFAULT_CONTROL_PORT}"
        )
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """`host:port`, or `[IPv6]:port`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve_ipv4(host: str) -> str:
    """Dotted IPv4 of a host name.

    Raises:
        UsageError: it has none; the data ports speak IPv4.
    """
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise UsageError(
            f"{host!r} has no IPv4 address ({error.strerror}); start the switch with --host and one"
        ) from error
