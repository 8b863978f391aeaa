"""A packet on its way through the switch."""

from __future__ import annotations

import sys
from typing import Any

# Slots of a packet's list: integers, and runs (runs.py).
Slots = list[Any]


class ParserError(Exception):
    """Ends parsing; the program sees `code` in standard_metadata.parser_error."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Packet:
    """A packet and what was asked for it, its slots apart.

    Args:
        data: the frame, headers included.

    Attributes:
        at: how far it is parsed.
        length: what packet_length shows, which follows headers that are added and removed.
        clone: session + 1, 0 = no clone was asked for.
        passes: queues that it has been through, and what it was copied from before.

    The others are numbers of field lists and digests that an action asked for, 0 = none.
    """

    __slots__ = (
        "at",
        "clone",
        "clone_list",
        "data",
        "digest",
        "error",
        "exited",
        "ingress_length",
        "length",
        "passes",
        "port",
        "recirculate",
        "resubmit",
        "slots",
        "truncated",
    )

    def __init__(self, slots: Slots, data: bytes, port: int) -> None:
        self.slots = slots
        self.data = data
        self.port = port
        self.at = self.passes = 0
        self.length = self.ingress_length = len(data)
        self.truncated = sys.maxsize
        self.clone = self.clone_list = self.digest = self.resubmit = self.recirculate = 0
        self.exited = False
        self.error = 0

    def forget_requests(self) -> None:
        """As after a copy: nothing asked for yet."""
        self.truncated = sys.maxsize
        self.clone = self.clone_list = self.digest = self.resubmit = self.recirculate = 0
        self.exited = False

    def copy(self, slots: Slots) -> Packet:
        """The same bytes with other slots, nothing asked for yet: BMv2's copies are whole, too."""
        copy = Packet(slots, self.data, self.port)
        copy.at = self.at
        copy.length = self.length
        copy.ingress_length = self.ingress_length
        copy.error = self.error
        copy.passes = self.passes
        return copy
