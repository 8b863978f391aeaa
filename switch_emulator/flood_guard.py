"""Who floods the data port is cut off for a while: all jobs share the port's buffer, and must not lose packets to one of them.

Packets are of no use that the switch drops (strangers', malformed ones, duplicates, stale ones) or answers once more. Whoever
sends more of them in a tenth of a second than workers ever do is cut off: the kernel drops what comes from there, before it lies
in the buffer. Accused are counted as Misra and Gries do (1982): with 64 candidates, whatever the number of senders, who sent more
than a 65th of all is among them, and counted short by no more than that.
"""

from __future__ import annotations

import ctypes
import logging
import socket
import struct
import time
from collections import deque
from typing import NamedTuple, TypedDict

from switchml.link.records import Int64, Records, new_records
from switchml.protocol.jit import compiled

MOST_USELESS = 20_000
"""Useless packets in `_PERIOD_NS` from one sender: a job that retransmits as fast as it can has fewer."""
CUT_SECONDS = 1.0

_PERIOD_NS = 100_000_000
_MOST_CUT = 64
_CANDIDATES = 64
_log = logging.getLogger(__name__)

# <linux/filter.h>, <linux/bpf_common.h>
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_LOAD_WORD, _LOAD_HALF, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF; what is loaded from elsewhere counts from the UDP header
_IPV4_SOURCE = 12
_ALL_OF_IT = 0xFFFFFFFF
# <linux/sock_diag.h>
_SO_MEMINFO, _DROPS_AT, _MEMINFO_WORDS = 55, 8, 9


class FloodRecord(TypedDict):
    """Where the guard stands."""

    since: Int64  # ns; begin of the period
    until: Int64  # ns; when somebody who is cut off may come again; 0: nobody is
    caught: Int64  # 1 + the candidate that is to be cut off; 0: none
    useless: Int64  # packets of the message in hand
    most: Int64  # from one sender that are too many


class Accused(TypedDict):
    """A candidate."""

    address: Int64  # as in SocketAddress
    port: Int64
    packets: Int64  # at least so many of no use; 0: a free place


class Flood(NamedTuple):
    """State of the guard."""

    state: Records[FloodRecord]
    accused: Records[Accused]


def new_flood() -> Flood:
    """Without candidates."""
    flood = Flood(new_records(FloodRecord, 1), new_records(Accused, _CANDIDATES))
    flood.state[0]["most"] = MOST_USELESS
    return flood


@compiled
def accuse(flood: Flood, address: int, port: int, packets: int, now: int) -> bool:
    """Note packets of a sender that are of no use; whether it is to be cut off.

    Args:
        flood: the guard's.
        address: as in SocketAddress.
        port: the same.
        packets: of no use.
        now: ns.
    """
    state, accused = flood.state[0], flood.accused
    if now - state["since"] > _PERIOD_NS:
        state["since"] = now
        for index in range(accused.size):
            accused[index]["packets"] = 0
    free, least = -1, packets
    for index in range(accused.size):
        entry = accused[index]
        if entry["packets"] == 0:
            free = index
        elif entry["address"] == address and entry["port"] == port:
            entry["packets"] += packets
            if entry["packets"] < state["most"]:
                return False
            state["caught"] = index + 1
            return True
        else:
            least = min(least, int(entry["packets"]))
    if free < 0:
        for index in range(accused.size):
            accused[index]["packets"] -= least
            if accused[index]["packets"] == 0:
                free = index
        packets -= least
    if packets == 0 or free < 0:
        return False
    entry = accused[free]
    entry["address"], entry["port"], entry["packets"] = address, port, packets
    if packets < state["most"]:
        return False
    state["caught"] = free + 1
    return True


class FloodGuard:
    """Cuts senders off from a socket; used by the thread that receives from it.

    Attributes:
        flood: for `accuse`.
        cuts: how often somebody was cut off.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.flood = new_flood()
        self.cuts = 0
        self._dropped = 0
        self._told: deque[tuple[int, int]] = deque(maxlen=_MOST_CUT)
        self._socket = sock
        self._out: dict[tuple[int, int], int] = {}  # until when, ns

    def tend(self) -> None:
        """Cut off who was caught, and let those back in whose time is over."""
        state, now = self.flood.state[0], time.monotonic_ns()
        changed = False
        for sender in [sender for sender, until in self._out.items() if until <= now]:
            del self._out[sender]
            changed = True
        if state["caught"] != 0:
            accused = self.flood.accused[int(state["caught"]) - 1]
            sender = socket.ntohl(int(accused["address"])), socket.ntohs(int(accused["port"]))
            # What lies in the buffer already comes after the cut.
            if sender not in self._out and len(self._out) < _MOST_CUT:
                self._out[sender] = now + int(CUT_SECONDS * 1e9)
                self._tell(sender)
                self.cuts += 1
                changed = True
            state["caught"] = accused["packets"] = 0
        if changed:
            try:
                self._set_filter()
            except OSError as error:
                _log.warning("the kernel cuts nobody off: %s", error)
                self._out.clear()
        state["until"] = min(self._out.values(), default=0)

    def _tell(self, sender: tuple[int, int]) -> None:
        if sender in self._told:
            return
        self._told.append(sender)
        _log.warning(
            "%s:%d floods this switch with packets that are of no use: nothing is taken from there for %g s, and again whenever "
            "it goes on",
            socket.inet_ntoa(sender[0].to_bytes(4, "big")),
            sender[1],
            CUT_SECONDS,
        )

    def dropped(self) -> int:
        """Datagrams and trains of them that the kernel has dropped at this socket."""
        if self._socket.fileno() >= 0:
            found = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS)
            self._dropped = int(struct.unpack(f"={_MEMINFO_WORDS}I", found)[_DROPS_AT])
        return self._dropped

    def _set_filter(self) -> None:
        if not self._out:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            return
        code = filter_code(self._out)
        memory = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HL", len(code) // 8, ctypes.addressof(memory))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def filter_code(senders: dict[tuple[int, int], int]) -> bytes:
    """A classic BPF program that drops what comes from these IPv4 addresses and UDP ports, both as numbers."""

    def step(code: int, value: int, jump_else: int = 0) -> bytes:
        return struct.pack("=HBBI", code, 0, jump_else, value)

    blocks = [
        step(_LOAD_WORD, _NETWORK_HEADER + _IPV4_SOURCE)
        + step(_JUMP_EQUAL, address, 3)
        + step(_LOAD_HALF, 0)
        + step(_JUMP_EQUAL, port, 1)
        + step(_RETURN, 0)
        for address, port in senders
    ]
    return b"".join([*blocks, step(_RETURN, _ALL_OF_IT)])
