"""What an L2 switch has learnt: which port each MAC address is behind. No I/O."""

from __future__ import annotations

from switchml.control.p4runtime import program
from switchml.control.p4runtime.p4runtime_client import Change, P4RuntimeClient, Update

_MULTICAST = 1 << 40


class Stations:
    """Says what to write when a station turns up."""

    def __init__(self) -> None:
        self._ports: dict[int, int] = {}

    def learn(self, client: P4RuntimeClient, mac: int, port: int) -> list[Update]:
        """Updates of the tables `forward` and `station`; none for what is known, or for no station's address."""
        known = self._ports.get(mac)
        if known == port or mac == 0 or mac & _MULTICAST:
            return []
        self._ports[mac] = port
        schema = client.schema
        forward, station = program.forward(schema, mac, port), program.station(schema, mac, port)
        if known is None:
            return client.updates(Change.INSERT, [forward, station])
        return [
            *client.updates(Change.MODIFY, [forward]),
            *client.updates(Change.DELETE, [program.station(schema, mac, known)]),
            *client.updates(Change.INSERT, [station]),
        ]

    def forget(self, mac: int) -> None:
        """The updates could not be written."""
        self._ports.pop(mac, None)
