"""The lines of a trace that tell of certain packets: by job, slot and rank, and no more packets than asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from switchml.packets.selection import Selection

_PORT_LINE = re.compile(
    r"\d\d:\d\d:\d\d\.\d+ port (\d+) +(->|<-) (?:VLAN \d+ )*(\S+) > (\S+) SwitchML .*job (\d+) .*slot (\d+) "
)
_ANY_PORT_LINE = re.compile(r"\d\d:\d\d:\d\d\.\d+ port ")
_STEPS = re.compile(r"packet of \d+ bytes on port (\d+)")
_HEADER = re.compile(r"\bjob_number = (0x[0-9a-f]+), .*\bslot = (0x[0-9a-f]+)")


class ChosenTrace:
    """Takes a trace line by line, and hands on those of the packets that are wanted.

    A packet has a line where it comes in, then the steps it takes through the program, which tell job and slot once its header is
    parsed and are held back until then, and a line for each copy that leaves.

    Args:
        write: gets the lines.
        selection: of the packets.
    """

    def __init__(self, write: Callable[[str], None], selection: Selection) -> None:
        self._write = write
        self._selection = selection
        self._ranks: Mapping[tuple[str, int], int] = {}
        self._by_port: dict[str, int | None] = {}
        self._arrived = self._processed = 0
        self._held: list[str] | None = None  # the steps so far of a packet that is not known yet
        self._port = ""
        self._wanted = False

    def know(self, ranks: Mapping[tuple[str, int], int]) -> None:
        """Ranks by address and port. From any thread."""
        self._ranks = dict(ranks)

    def __call__(self, line: str) -> None:
        """The next line."""
        if _ANY_PORT_LINE.match(line):
            self._take_port_line(line)
        elif steps := _STEPS.match(line):
            self._held, self._port, self._wanted = [line], steps[1], False
        elif self._held is not None:
            self._held.append(line)
            if header := _HEADER.search(line):
                self._decide(int(header[1], 16), int(header[2], 16))
        elif self._wanted:
            self._write(line)

    def _decide(self, job: int, slot: int) -> None:
        held, self._held = self._held or [], None
        more = self._selection.count is None or self._processed < self._selection.count
        self._wanted = more and self._selection.takes(job, slot, self._by_port.get(self._port))
        if self._wanted:
            self._processed += 1
            for line in held:
                self._write(line)

    def _take_port_line(self, line: str) -> None:
        found = _PORT_LINE.match(line)
        if found is None:
            return
        port, arrow, source, destination, job, slot = found.groups()
        host, _, number = (source if arrow == "->" else destination).rpartition(":")
        rank = self._by_port[port] = self._ranks.get((host, int(number)))
        if not self._selection.takes(int(job), int(slot), rank):
            return
        if arrow == "->":
            if self._selection.count is not None and self._arrived >= self._selection.count:
                return
            self._arrived += 1
        elif not self._wanted and self._selection.count is not None:
            return  # an answer to a packet that is not shown
        self._write(line)
