"""A port for programs that must be told one before any of them listens there."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_dice = random.SystemRandom()


def free_port() -> int:
    """A TCP port that the kernel gives to nobody who asks for any: so nobody has it by the time that it is used."""
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = _dice.randrange(end // 2, end)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
