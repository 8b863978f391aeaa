"""Readers' end: messages of one switch or several, as they come."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from typing_extensions import override

from switchml.closing import Closing
from switchml.control.address import join_address, parse_address
from switchml.errors import SwitchUnreachableError, UsageError
from switchml.telemetry.admission import is_private, marked, show_token
from switchml.telemetry.event_table import KINDS, VERSION
from switchml.telemetry.events import Message

_KEPT = 1024


class Subscription(Closing):
    """Messages of the switches that publish at `addresses`.

    Args:
        addresses: host:port each; None = the switches of this machine, also those that come later.
        kinds: of messages; () = all.
        token: of switches beyond loopback.

    Attributes:
        addresses: where it listens.

    Raises:
        UsageError: an address or kind is none, or a token is missing.
    """

    def __init__(
        self, addresses: Sequence[str] | None, kinds: Iterable[str] = (), *, token: str = ""
    ) -> None:
        import zmq

        self.addresses: list[str] = []
        self._local, self._token = addresses is None, token
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger, self._socket.rcvhwm = 0, _KEPT
        # The names that are given are what is wanted, but prefixes are what ZeroMQ knows: no kind begins as another does.
        for kind in kinds or (kind.name for kind in KINDS):
            self._socket.subscribe(kind)
        try:
            self._connect(marked() if addresses is None else addresses)
        except BaseException:
            self.close()
            raise

    def _connect(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            host, port = parse_address(address)
            private = is_private(host)
            if not private and not self._token:
                if self._local:
                    continue
                raise UsageError(
                    f"the switch at {address} lets who knows its token listen: give it (--token)"
                )
            if not private:
                show_token(self._socket, self._token)
            self._socket.connect(f"tcp://{join_address(host, port)}")
            self.addresses.append(address)

    def _follow(self) -> None:
        """Listen to the switches that this machine has now."""
        there = marked()
        for address in [each for each in self.addresses if each not in there]:
            self._socket.disconnect(f"tcp://{address}")
            self.addresses.remove(address)
        self._connect(address for address in there if address not in self.addresses)

    def receive(self, seconds: float) -> list[Message]:
        """What has come, oldest first; waits for the first one at most so long.

        Raises:
            UsageError: a switch speaks another version.
        """
        import zmq

        if self._local:
            self._follow()
        found: list[Message] = []
        if self._socket.poll(math.ceil(seconds * 1000), zmq.POLLIN):
            while len(found) < _KEPT:
                try:
                    parts = self._socket.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:
                    break
                found.append(decode(parts[-1]))
        return found

    @override
    def close(self) -> None:
        self._context.destroy(0)


def decode(text: bytes | str) -> Message:
    """A message.

    Raises:
        UsageError: it is none, or of another version.
    """
    try:
        message = json.loads(text)
    except ValueError:
        message = None
    if not isinstance(message, dict) or "version" not in message or "kind" not in message:
        raise UsageError(f"this is no message of a switch: {text[:60]!r}")
    if message["version"] != VERSION:
        raise UsageError(
            f"the switch speaks version {message['version']} of the telemetry messages and this is version {VERSION}: "
            "use the switchml of the switch"
        )
    return message


def published_at(switch: str, published: str) -> str:
    """host:port at which to listen to a switch.

    Args:
        switch: its control address, as it was reached.
        published: what it says of where it publishes; "" = it does not.

    Raises:
        SwitchUnreachableError: nobody can listen from here.
    """
    if not published:
        raise SwitchUnreachableError(
            f"the switch at {switch} publishes nothing: it was started with --no-telemetry"
        )
    reached, (host, port) = parse_address(switch)[0], parse_address(published)
    if is_private(host) and not is_private(reached) and published not in marked():
        raise SwitchUnreachableError(
            f"the switch at {switch} publishes on its own machine alone ({published}): start it with --telemetry-host and a "
            "token, or look from there"
        )
    return join_address(reached if host == "0.0.0.0" else host, port)
