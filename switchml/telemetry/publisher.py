"""Publishes what a controller says of its switch: a thread beside it that the packet path knows nothing of.

While nobody listens it sleeps on the listening socket, and ZeroMQ is not even loaded. While somebody does, it looks at the switch
ten times a second, or less often where looking takes long: at most a twentieth of its time. Who reads too slowly misses messages.
"""

from __future__ import annotations

import json
import logging
import math
import os
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from typing_extensions import override

from switchml.closing import Closing
from switchml.control.address import join_address, listen_error
from switchml.control.control_messages import SwitchStatus
from switchml.control.target import SlotMap
from switchml.errors import JoinError, SwitchMLError, UsageError
from switchml.telemetry.admission import admit_by_token, is_private, mark
from switchml.telemetry.event_table import CHANGE, COUNTERS, JOBS, SLOTS, SWITCH, VERSION
from switchml.telemetry.events import (
    Message,
    changes,
    counters_message,
    jobs_message,
    slots_message,
    switch_message,
)

_log = logging.getLogger(__name__)

_EVERY = 0.1
_JOBS_EVERY = 1.0
_SWITCH_EVERY = 5.0
_SHARE = 0.05  # of this thread's time that may go into looking
_KEPT = 256  # messages for a reader that is slow
_LONGEST_WORD = 1024  # of a listener; CURVE greets with 200 bytes
_ANSWER_SECONDS = 5.0


class Observed(Protocol):
    """What can be published: a `Controller`."""

    telemetry: str

    def observe(self, *, slots: bool) -> tuple[SwitchStatus, Mapping[int, SlotMap]]:
        """See `Controller.observe`."""


class Publisher(Closing):
    """Publishes until `close`.

    Args:
        observed: the controller of a switch.
        switch: its control address.
        host: address to listen on.
        port: 0 = a free one.
        token: the switch's join token.

    Attributes:
        address: host:port.

    Raises:
        PortInUseError: the port is taken.
        UsageError: the host is not an address of this machine, or open to others and there is no token.
    """

    def __init__(
        self, observed: Observed, *, switch: str, host: str = "127.0.0.1", port: int = 0, token: str = ""
    ) -> None:
        if not is_private(host) and not token:
            raise UsageError(
                f"--telemetry-host {host}: others than this machine's users may only listen with a token; give --token"
            )
        self._observed, self._switch, self._host, self._token = observed, switch, host, token
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((host, port))
            self._listener.listen()
        except OSError as error:
            self._listener.close()
            raise listen_error(error, "telemetry", host, port, "--telemetry-port") from error
        self._port: int = self._listener.getsockname()[1]
        self.address = join_address(host, self._port)
        self._mark = mark(host, self._port)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closed = False
        observed.telemetry = self.address
        self._thread = threading.Thread(target=self._run, name="switchml-telemetry", daemon=True)
        self._thread.start()

    @override
    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._observed.telemetry = ""
        os.eventfd_write(self._stop, 1)
        self._thread.join(_ANSWER_SECONDS)
        self._mark.close()
        self._listener.close()
        os.close(self._stop)

    def _run(self) -> None:
        if not self._somebody_comes():
            return
        import zmq

        context = zmq.Context()
        try:
            outlet = context.socket(zmq.XPUB)
            outlet.linger, outlet.sndhwm = 0, _KEPT
            outlet.setsockopt(zmq.XPUB_VERBOSE, 1)
            outlet.setsockopt(zmq.MAXMSGSIZE, _LONGEST_WORD)
            if not is_private(self._host):
                admit_by_token(outlet, self._token)
            outlet.setsockopt(zmq.USE_FD, os.dup(self._listener.fileno()))
            outlet.bind(f"tcp://{self.address}")
            _Broadcast(self._observed, self._switch, outlet).run(self._stop)
        except Exception:
            _log.exception("telemetry has ended; the switch goes on")
        finally:
            context.destroy(0)

    def _somebody_comes(self) -> bool:
        """Waits for the first connection, and leaves it to be accepted; False at the end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._stop, selectors.EVENT_READ)
            return all(key.fileobj is self._listener for key, _ in selector.select())


class _Broadcast:
    """Looks, and sends to who listens."""

    def __init__(self, observed: Observed, switch: str, outlet: Any) -> None:
        self._observed, self._switch, self._outlet = observed, switch, outlet
        self._topics: set[str] = set()
        self._numbers: Counter[str] = Counter()
        self._before: SwitchStatus | None = None
        self._due = {JOBS: 0.0, SWITCH: 0.0}

    def run(self, stop: int) -> None:
        """Until the descriptor is readable."""
        import zmq

        poller = zmq.Poller()
        poller.register(self._outlet, zmq.POLLIN)
        poller.register(stop, zmq.POLLIN)
        next_look = time.monotonic()
        while True:
            patience = math.ceil(max(0.0, next_look - time.monotonic()) * 1000) if self._topics else None
            ready = dict(poller.poll(patience))
            if stop in ready:
                return
            if self._outlet in ready:
                self._take_subscriptions()
            now = time.monotonic()
            if self._topics and now >= next_look:
                self._look(now)
                took = time.monotonic() - now
                next_look = max(next_look + _EVERY, now + took / _SHARE)

    def _take_subscriptions(self) -> None:
        import zmq

        while self._outlet.poll(0, zmq.POLLIN):
            said = self._outlet.recv()
            topic = said[1:].decode(errors="replace")
            if said[:1] == b"\1":
                if not self._topics:
                    self._before = None  # nobody has seen what was before
                self._topics.add(topic)
                self._due = dict.fromkeys(self._due, 0.0)
            else:
                self._topics.discard(topic)

    def _wanted(self, kind: str) -> bool:
        return any(kind.startswith(topic) for topic in self._topics)

    def _look(self, now: float) -> None:
        try:
            status, maps = self._observed.observe(slots=self._wanted(SLOTS))
        except JoinError as error:  # in other hands
            if self._is_due(SWITCH, now, _SWITCH_EVERY) and self._before is not None:
                self._send(switch_message(self._before, str(error)))
            return
        except SwitchMLError as error:
            _log.warning("the switch could not be looked at: %s", error)
            return
        news = [] if self._before is None else list(changes(self._before, status))
        self._before = status
        if self._is_due(SWITCH, now, _SWITCH_EVERY):
            self._send(switch_message(status))
        if self._is_due(JOBS, now, _JOBS_EVERY, at_once=bool(news)):
            self._send(jobs_message(status))
        for change in news:
            self._send(change)
        if self._wanted(COUNTERS):
            self._send(counters_message(status))
        if maps:
            self._send(slots_message(maps))

    def _is_due(self, kind: str, now: float, every: float, *, at_once: bool = False) -> bool:
        if now < self._due[kind] and not at_once:
            return False
        self._due[kind] = now + every
        return self._wanted(kind)

    def _send(self, message: Message) -> None:
        import zmq

        kind = message["kind"]
        if kind == CHANGE and not self._wanted(kind):
            return
        head = {
            "version": VERSION,
            "switch": self._switch,
            "time": time.time(),
            "number": self._numbers[kind],
        }
        self._numbers[kind] += 1
        text = json.dumps(head | message, separators=(",", ":"), allow_nan=False)
        self._outlet.send_multipart([kind.encode(), text.encode()], zmq.DONTWAIT)
