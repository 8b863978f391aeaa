"""What an L2 switch has learnt: which port each MAC address is behind. No I/O."""

from __future__ import annotations

from switchml.control.p4runtime import program
from switchml.control.p4runtime.catalog import Catalog
from switchml.control.p4runtime.client import Change, Update

_MULTICAST = 1 << 40


class Stations:
    """Says what to write when a station turns up."""

    def __init__(self) -> None:
        self._ports: dict[int, int] = {}

    def learn(self, catalog: Catalog, mac: int, port: int) -> list[Update]:
        """Updates of the tables `forward` and `station`; none for what is known, or for no station's address."""
        known = self._ports.get(mac)
        if known == port or mac == 0 or mac & _MULTICAST:
            return []
        self._ports[mac] = port
        new = (Change.INSERT, catalog.entity(program.station(mac, port)))
        if known is None:
            return [(Change.INSERT, catalog.entity(program.forward(mac, port))), new]
        return [
            (Change.MODIFY, catalog.entity(program.forward(mac, port))),
            (Change.DELETE, catalog.entity(program.station(mac, known))),
            new,
        ]

    def forget(self, mac: int) -> None:
        """The updates could not be written."""
        self._ports.pop(mac, None)
