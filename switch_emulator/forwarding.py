"""The loop between ports and a pipeline that takes one frame at a time."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Protocol

from switchml.switch_emulator.ports.interface import Ports

_log = logging.getLogger(__name__)

_JOIN_SECONDS = 10.0
_TICK_SECONDS = 1.0
_SENT_TOGETHER = 16  # many save system calls, and let the first of them wait


class FrameProcessor(Protocol):
    """What the loop needs of a switch: `P4Switch` and `P4Device` have it."""

    def process(self, port: int, frame: bytes) -> Sequence[tuple[int, bytes]]:
        """What leaves, by port, because this frame came in."""


class QueueingProcessor(FrameProcessor, Protocol):
    """A switch with queues, from which frames leave later."""

    def depart(self) -> Sequence[tuple[int, bytes]] | None:
        """What leaves because a packet's turn in its queue has come; None = nobody's has."""

    def until_departure(self) -> float:
        """Seconds until then; infinity = no packet waits."""


class Forwarding:
    """Takes frames from `ports` through a pipeline and back, in a thread of its own, from `start` to `close`.

    Args:
        ports: closed at the end.
        pipeline: what becomes of a frame.
        queues: the same, where packets wait in it for their turn.
        tick: called about once a second in that thread, for what is due by time alone.
    """

    def __init__(
        self,
        ports: Ports,
        pipeline: FrameProcessor,
        *,
        queues: QueueingProcessor | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._ports = ports
        self._pipeline = pipeline
        self._queues = queues
        self._tick = tick
        self._next_tick = time.monotonic() + _TICK_SECONDS
        self._outgoing: deque[tuple[int, bytes]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._woken = False
        self._stopping = False
        self._closed = False
        self.finished = threading.Event()
        """Set when nothing can come any more, or the loop has ended."""
        self.failure: BaseException | None = None
        self.received = self.sent = self.failed = 0
        self._thread = threading.Thread(target=self._run, name="switchml-forwarding", daemon=True)

    def start(self) -> None:
        """Begin to forward."""
        self._thread.start()

    def transmit(self, frames: Iterable[tuple[int, bytes]]) -> None:
        """Send frames that no frame caused: a controller's packet out. From any thread.

        With none too: the loop looks at the queues.
        """
        self._outgoing.extend(frames)
        self._wake_up()

    def _wake_up(self) -> None:
        os.eventfd_write(self._wake, 1)
        self._woken = True

    def close(self) -> None:
        """Idempotent."""
        if self._closed:
            return
        self._closed = self._stopping = True
        if self._thread.ident is not None:
            self._wake_up()
            self._thread.join(_JOIN_SECONDS)
        self._ports.close()
        os.close(self._wake)

    def _run(self) -> None:
        try:
            while not self._stopping:
                if self._turn() == 0:
                    wait = math.inf if self._queues is None else self._queues.until_departure()
                    ended = self._ports.exhausted
                    if ended and wait == math.inf:
                        break
                    heard = [self._wake] if ended else [self._wake, self._ports.fileno()]
                    select.select(heard, [], [], min(wait, self._ports.longest_wait))
        except BaseException as error:
            self.failure = error
            _log.exception("the switch's loop has broken")
        finally:
            self.finished.set()

    def _turn(self) -> int:
        """How many frames there were to deal with."""
        if self._woken:
            self._woken = False  # first: who wakes us from here on is heard in the next turn
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + _TICK_SECONDS
            self._tick()
        leaving = [self._outgoing.popleft() for _ in range(len(self._outgoing))]
        leaving += self._departures()
        frames = self._ports.receive(now)
        moved = len(leaving) + len(frames)
        process = self._pipeline.process
        for port, data, _ in frames:
            self.received += 1
            try:
                leaving += process(port, data)
            except Exception:
                self._note_failure(f"a frame of port {port}: {data.hex()}")
                continue
            leaving += self._departures()
            if len(leaving) >= _SENT_TOGETHER:
                self._send(leaving)
                leaving = []
        if leaving:
            self._send(leaving)
        return moved

    def _departures(self) -> list[tuple[int, bytes]]:
        """What leaves the queues now."""
        leaving: list[tuple[int, bytes]] = []
        if self._queues is None:
            return leaving
        for _ in range(_SENT_TOGETHER):
            try:
                sent = self._queues.depart()
            except Exception:
                self._note_failure("a packet that left its queue")
                continue
            if sent is None:
                break
            leaving += sent
        return leaving

    def _note_failure(self, what: str) -> None:
        """A packet that breaks a program must not end the switch."""
        self.failed += 1
        if not self.failed & (self.failed - 1):  # the first, the second, the fourth, ... go into the log
            _log.exception("the pipeline failed at %s", what)

    def _send(self, leaving: list[tuple[int, bytes]]) -> None:
        self._ports.send_all(leaving)
        self.sent += len(leaving)

    def __enter__(self) -> Forwarding:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
