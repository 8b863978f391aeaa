"""The loop between ports and a pipeline that takes one frame at a time."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
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


class Forwarding:
    """Takes frames from `ports` through a pipeline and back, in a thread of its own, from `start` to `close`.

    Args:
        ports: closed at the end.
        pipeline: what becomes of a frame.
        tick: called about once a second in that thread, for what is due by time alone.
    """

    def __init__(
        self, ports: Ports, pipeline: FrameProcessor, *, tick: Callable[[], None] = lambda: None
    ) -> None:
        self._ports = ports
        self._pipeline = pipeline
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

    def transmit(self, port: int, frame: bytes) -> None:
        """Send a frame that no frame caused: a controller's packet out. From any thread."""
        self._outgoing.append((port, frame))
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
                    if self._ports.exhausted:
                        break
                    select.select([self._ports.fileno(), self._wake], [], [], self._ports.longest_wait)
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
        frames = self._ports.receive(now)
        moved = len(leaving) + len(frames)
        process = self._pipeline.process
        for port, data, _ in frames:
            self.received += 1
            try:
                leaving += process(port, data)
            except Exception:
                # A packet that breaks a program must not end the switch.
                self.failed += 1
                if self.failed & (self.failed - 1):
                    continue  # the first, the second, the fourth, ... go into the log
                _log.exception("the pipeline failed at a frame of port %d: %s", port, data.hex())
                continue
            if len(leaving) >= _SENT_TOGETHER:
                self._send(leaving)
                leaving = []
        if leaving:
            self._send(leaving)
        return moved

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
