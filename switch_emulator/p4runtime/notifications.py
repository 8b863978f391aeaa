"""What a pipeline tells its controllers: packets, digests, idle entries (P4Runtime specification, section 16).

A pipeline calls from its own threads. What it says goes through a queue of limited length to the event loop, where
messages are made and handed to the streams of the primaries. What does not fit is dropped, as the specification allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from switchml.p4runtime.bytestrings import encode
from switchml.p4runtime.data_types import encode_all
from switchml.p4runtime.entries import Digest, PacketIn, TableEntry
from switchml.p4runtime.refusals import failure
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.digests import DigestMessages
from switchml.switch_emulator.p4runtime.table_entries import entry_message
from switchml.switch_emulator.runtime import Runtime

_WAITING = 8192  # messages of the pipeline that the event loop has not seen
_IDLE_SCAN = 0.1  # seconds between two searches for idle entries

Event = Digest | PacketIn | tuple[str, TableEntry]


class Notifications:
    """Carries the messages of the pipeline it is attached to, as StreamMessageResponse, to `send`, on `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[Any], None]) -> None:
        self._loop = loop
        self._send = send
        self._pipeline: PipelineContext | None = None
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._scan: asyncio.TimerHandle | None = None

    def attach(self, pipeline: PipelineContext | None) -> None:
        """Listen to this pipeline, and to the one before no longer. On the event loop."""
        if pipeline is self._pipeline:
            return
        if self._pipeline is not None and (
            pipeline is None or pipeline.runtime is not self._pipeline.runtime
        ):
            _subscribe(self._pipeline.runtime, None)
        self._pipeline = pipeline
        self.rearm()
        if pipeline is not None:
            _subscribe(pipeline.runtime, self._put)
        self._scan_idle_entries()

    def rearm(self) -> None:
        """Sets the timer to the time the next digest list is due. On the event loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._pipeline.digests.next_timer() if self._pipeline else None
        if due is not None:
            delay = max(0, due - time.monotonic_ns()) / 1e9
            self._timer = self._loop.call_later(delay, self._expire)

    def forget_unanswered(self) -> None:
        """Digests that the primary before did not acknowledge may be sent again. On the event loop."""
        if self._pipeline is not None:
            self._pipeline.digests.forget_unanswered()

    def _scan_idle_entries(self) -> None:
        """Asks a pipeline that does not look by itself, again and again, while it has tables with an idle timeout."""
        if self._scan is not None:
            self._scan.cancel()
            self._scan = None
        if self._pipeline is None or not any(
            t.idle_timeout for t in self._pipeline.schema.tables.by_id.values()
        ):
            return
        self._pipeline.runtime.check_idle_timeouts()
        self._scan = self._loop.call_later(_IDLE_SCAN, self._scan_idle_entries)

    def _put(self, event: Event) -> None:
        """From any thread."""
        with self._lock:
            if len(self._events) >= _WAITING:
                return
            self._events.append(event)
            if self._scheduled:
                return
            self._scheduled = True
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        with self._lock:
            events, self._events = self._events, deque()
            self._scheduled = False
        pipeline = self._pipeline
        if pipeline is None:
            return
        for event in events:
            try:
                self._pass_on(pipeline, event)
            except Exception as error:  # one that does not fit the P4Info is no reason to lose the others
                failure(error, "a message of the pipeline")
        self.rearm()

    def _pass_on(self, pipeline: PipelineContext, event: Event) -> None:
        if isinstance(event, Digest):
            due = pipeline.digests.receive(event.name, event.values, time.monotonic_ns())
            if due is not None:
                self._send_list(pipeline, due)
        elif isinstance(event, PacketIn):
            self._send(packet_in_message(pipeline, event))
        else:
            self._send_idle(pipeline, *event)

    def _expire(self) -> None:
        if self._pipeline is not None:
            for due in self._pipeline.digests.expire(time.monotonic_ns()):
                self._send_list(self._pipeline, due)
        self.rearm()

    def _send_list(self, pipeline: PipelineContext, due: DigestMessages) -> None:
        digest = pipeline.schema.digests.by_name[due.name]
        message = pb.StreamMessageResponse()
        message.digest.digest_id = digest.id
        message.digest.list_id = due.list_id
        for values in due.messages:
            encode_all(digest.type, values, message.digest.data.add())
        message.digest.timestamp = time.time_ns()
        self._send(message)

    def _send_idle(self, pipeline: PipelineContext, table: str, entry: TableEntry) -> None:
        known = pipeline.schema.tables.by_name.get(table)
        if known is None:
            return
        message = pb.StreamMessageResponse()
        message.idle_timeout_notification.timestamp = time.time_ns()
        message.idle_timeout_notification.table_entry.append(entry_message(pipeline, known, entry))
        self._send(message)


def packet_in_message(pipeline: PipelineContext, packet: PacketIn) -> Any:
    """The StreamMessageResponse that brings a packet."""
    message = pb.StreamMessageResponse()
    message.packet.payload = packet.payload
    for field in pipeline.schema.packet_in:
        message.packet.metadata.add(metadata_id=field.id, value=encode(packet.metadata.get(field.name, 0)))
    return message


def _subscribe(runtime: Runtime, put: Callable[[Event], None] | None) -> None:
    runtime.on_digest(put)
    runtime.on_packet_in(put)
    runtime.on_idle_timeout(None if put is None else lambda table, entry: put((table, entry)))
