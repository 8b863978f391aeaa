"""Addresses of control services, as people write them, and those of this host."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct

from switchml.control.control_messages import DEFAULT_CONTROL_PORT
from switchml.errors import PortInUseError, SwitchMLError, UsageError

PRIVATE = "unix-abstract:"
"""How gRPC begins the name of an abstract Unix socket."""

_SIOCGIFADDR = 0x8915


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


def listen_error(error: OSError, what: str, host: str, port: int, option: str = "port") -> SwitchMLError:
    """Why nobody can listen there, and what to do: the address is not ours, the port is not for us, or it is taken.

    Args:
        error: as `bind` raised it.
        what: the port's name in the message.
        host: as it was asked for.
        port: likewise.
        option: what chooses another port.
    """
    where = join_address(host, port)
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(
            f"the {what} port {where} is taken; stop what listens there, or choose another {option} (0 = a free one)"
        )
    if isinstance(error, PermissionError):
        return UsageError(
            f"this user may not listen on the {what} port {where} ({error.strerror}): choose one above 1023, or 0 for a free one"
        )
    return UsageError(
        f"cannot listen on {host!r}: {error.strerror}; give an address of this machine, or 0.0.0.0"
    )


def interface_of(address: str) -> str:
    """The name of the interface that has this IPv4 address; "" where none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("16s240x", name.encode()))
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return ""
