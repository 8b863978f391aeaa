"""Who may listen to a switch: on loopback everybody, elsewhere who knows its token.

Beyond loopback messages go over CURVE (rfc.zeromq.org/spec/25): encrypted, and only for who has the switch's public key. That key
is published nowhere. Both sides derive it from the token, so knowing it is knowing the token.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
import socket
from typing import Any

from switchml.control.address import join_address

_SALT = b"switchml telemetry 1"
_WORK = 1 << 14  # scrypt's n: 16 MiB and some 50 ms for every guess
_MARK = "switchml-telemetry/"


def is_private(host: str) -> bool:
    """Whether what listens there is for this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@functools.cache
def _keys(token: str) -> tuple[bytes, bytes]:
    """Public and secret key of the switch with that token."""
    import zmq
    from zmq.utils import z85

    secret = z85.encode(hashlib.scrypt(token.encode(), salt=_SALT, n=_WORK, r=8, p=1, dklen=32))
    return zmq.curve_public(secret), secret


def admit_by_token(socket: Any, token: str) -> None:
    """For the ZeroMQ socket of a switch."""
    socket.curve_publickey, socket.curve_secretkey = _keys(token)
    socket.curve_server = True


def show_token(socket: Any, token: str) -> None:
    """For the ZeroMQ socket of a reader."""
    import zmq

    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.curve_serverkey = _keys(token)[0]


def mark(host: str, port: int) -> socket.socket:
    """Let readers of this machine find a switch as long as the result is open: an abstract Unix socket, only for its name."""
    sign = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sign.bind(f"\0{_MARK}{join_address(host, port)}")
    except OSError:
        sign.close()
        raise
    return sign


def marked() -> list[str]:
    """host:port where switches of this machine publish, those of its network namespace."""
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as names:
            found = re.findall(rf" @{_MARK}(\S+)$", names.read(), re.MULTILINE)
    except OSError:
        return []
    return sorted(set(found))
