"""Where a command listens: to the switches that are named, or to those of this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from switchml.errors import SwitchUnreachableError
from switchml.telemetry.admission import marked
from switchml.telemetry.subscription import Subscription, published_at

LOCAL = "no switch on this machine publishes; start one (switchml switch, switchml run), or name one with --switch"


@dataclass(frozen=True)
class Sources:
    """Switches as the command line names them.

    Attributes:
        switch: control addresses; "" = those of this machine.
        token: theirs.
        timeout: seconds to wait for their answer.
    """

    switch: str
    token: str
    timeout: float

    def subscribe(self, kinds: Iterable[str] = ()) -> Subscription:
        """Listen.

        Raises:
            SwitchUnreachableError: a switch that is named does not answer, or cannot be listened to from here.
        """
        return Subscription(self._addresses(), kinds, token=self.token)

    def check(self) -> None:
        """That there is one.

        Raises:
            SwitchUnreachableError: there is none on this machine.
        """
        if not self.switch and not marked():
            raise SwitchUnreachableError(LOCAL)

    def _addresses(self) -> list[str] | None:
        if not self.switch:
            return None
        from switchml.control.client import ControlClient
        from switchml.control.named_switches import parse_switches
        from switchml.control.tls import TlsFiles

        found = []
        for one in parse_switches(self.switch):
            with ControlClient(
                one.first, token=self.token, timeout=self.timeout, tls=TlsFiles.given().client()
            ) as client:
                found.append(published_at(client.address, client.status().telemetry))
        return found
