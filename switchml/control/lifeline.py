"""A worker's end of its lifeline; lifelines.py says what it is for.

No gRPC here: a fork can catch its threads inside a lock.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

_CONNECT = 2.0
_AGAIN = 0.1  # seconds to the next attempt, twice as long each time
_SELDOM = 5.0


Pulse = Callable[[int], Callable[[], None]]
"""Begins on a descriptor, and returns what ends it."""


class Lifeline:
    """Holds the connection from construction to `stop`, in a daemon thread; a broken one is made anew.

    Attributes:
        severed: it was held once, and now nobody listens where the switch did.
        tried: set once the switch holds its end, or cannot be had at the first attempt.
        over: nothing is held any more, nor will be.
    """

    def __init__(
        self,
        host: str,
        port: int,
        ticket: bytes,
        on_word: Callable[[], bool],
        guard: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        pulse: Pulse | None = None,
    ) -> None:
        """Begin.

        Args:
            host: of the switch's control service.
            port: of its lifelines.
            ticket: what names the membership.
            on_word: called when the switch has news, and when the connection is broken; False = no need for another.
            guard: keeps forks out while a descriptor is made that a child has to know of.
            pulse: sends a byte every now and then; None = nothing is sent.
        """
        self.severed = self.over = False
        self.tried = threading.Event()
        self._place = (host, port)
        self._ticket = ticket
        self._on_word = on_word
        self._guard = guard
        self._pulse = pulse
        self._held = False
        self._socket: socket.socket | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="switchml-lifeline", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Closes the connection and ends the thread, waiting for it unless called from it."""
        self._stop.set()
        line = self._socket
        if line is not None:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def forget(self) -> None:
        """In a forked child: its copy of the descriptor would keep the connection alive when the parent has died."""
        if self._socket is not None:
            self._socket.close()

    def _run(self) -> None:
        pause = _AGAIN
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                self._attend(socket.getaddrinfo(*self._place, type=socket.SOCK_STREAM))
            except ConnectionRefusedError:
                self.severed = self._held
            except OSError:
                pass  # a network that is cut, or a switch that lets no more in
            self.tried.set()
            if self._held and not self._on_word():
                break
            pause = _AGAIN if time.monotonic() - begun > _SELDOM else min(2 * pause, _SELDOM)
            self._stop.wait(pause)
        self.over = True

    def _attend(self, places: Sequence[tuple[Any, ...]]) -> None:
        """Connects to the first of the places where somebody listens, and listens until either end is closed."""
        for family, _, _, _, address in places:
            with self._guard():
                self._socket = socket.socket(family, socket.SOCK_STREAM)
            with self._socket as line:
                line.settimeout(_CONNECT)
                try:
                    line.connect(address)
                except OSError:
                    if address == places[-1][-1]:
                        raise
                    continue
                line.sendall(self._ticket)
                line.settimeout(None)
                stop_pulse = None if self._pulse is None else self._pulse(line.fileno())
                try:
                    self._listen(line)
                finally:
                    if stop_pulse is not None:
                        stop_pulse()
                return

    def _listen(self, line: socket.socket) -> None:
        while not self._stop.is_set() and line.recv(64):
            self._held, self.severed = True, False
            self.tried.set()
            # Also when the job has ended: who lives, may regroup.
            self._on_word()
