"""A rank's place in a job at one switch: its membership there, the way to it, and the stream of its transfers."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from switchml.aggregation.shared_slots import SharedLayout, SharedSlots, ring_bell
from switchml.control.client import ControlClient
from switchml.control.control_messages import JobLayout, JoinOffer, Pace, Resent
from switchml.control.heartbeat import Departures
from switchml.control.target import TRANSPORTS, TargetDescription
from switchml.errors import JobAbortedError, JoinError, SwitchMLError, UsageError
from switchml.link.records import table_of
from switchml.protocol.counters import WORKER_COUNTERS, named
from switchml.protocol.header import HEADER_BYTES
from switchml.protocol.messages import ELEMENT_BYTES, FLOAT32, WIRES, size_code, wire_lanes
from switchml.protocol.prepare import prepare
from switchml.worker.congestion import new_congestion, packets_allowed
from switchml.worker.connection import Connection, ShmConnection, UdpConnection, shares_memory
from switchml.worker.engine import Engine, run
from switchml.worker.in_memory import MemoryEngine, new_exponents, run_in_memory
from switchml.worker.port import Port
from switchml.worker.pulse import start_pulse
from switchml.worker.recovery import new_recovery
from switchml.worker.stream import Stream
from switchml.worker.window import new_window

# In which the others may have a loop to compile that they did not expect; whose process ends, is known at once.
_READY_SECONDS = 300.0

_SPIN_IN_MEMORY_NS = 200_000
"""Longer than a rank takes to wake up: ranks that slept meanwhile would wait for each other asleep ever after."""


def prepare_loop(in_memory: bool) -> None:
    """Compile the loop of a job whose switch is in memory, or that of packets; or load it."""
    if in_memory:
        prepare(run_in_memory, "worker's engine in memory", 0, 0, 0, 0, 0, 0, 0, 0, 0)
        prepare(ring_bell, "worker's engine in memory", np.zeros(1, np.int64), 0)
    else:
        prepare(run, "worker's engine", 0, 0, 0)


def expects_memory(target: TargetDescription, paper: bool) -> bool:
    """Whether a job will have its switch in memory, unless ranks are on other hosts or want it otherwise."""
    return target.in_memory and not paper and shares_memory(target)


def _connect(target: TargetDescription, transport: str, multicast: bool) -> Connection:
    if transport not in TRANSPORTS:
        raise UsageError(f"transport {transport!r} is none of {', '.join(TRANSPORTS)}")
    if transport in ("shm", "memory") or (transport == "auto" and shares_memory(target)):
        return ShmConnection(target, transport)
    return UdpConnection(target, multicast=multicast)


def _with_packets(target: TargetDescription, transport: str) -> str:
    """The transport for packets that are to be recorded."""
    if transport == "memory":
        raise UsageError(
            "SWITCHML_CAPTURE: there are no packets in memory; use the transport shm, udp or auto"
        )
    return "shm" if transport == "auto" and shares_memory(target) else transport


def _capture_file(wanted: str, offer: JoinOffer, switch: str) -> str:
    """Where a rank's packets go: `wire.pcap` becomes `wire.JOB.rank0.pcap`.

    Args:
        wanted: as the environment names it.
        offer: of the rank.
        switch: address of one of several; "" = the only one.
    """
    path = Path(wanted)
    of = f"{offer.job}.{switch}" if switch else offer.job
    name = re.sub(r"[^\w.-]+", "_", of)
    return str(path.with_name(f"{path.stem}.{name}.rank{offer.rank}{path.suffix or '.pcap'}"))


def _ignore(reason: str) -> None:
    return


class PortTable:
    """A port with the handle that the engine knows it by; keeps its arrays alive."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._table = table_of(port)
        self.handle: int = self._table.ctypes.data


class Seat:
    """Made by `take`.

    Attributes:
        transport: "udp", "shm" or "memory".
        multicast: whether results come by multicast.
        payload: bytes a packet.
        window: slots.
        stream: takes what goes through this switch.
    """

    def __init__(
        self,
        client: ControlClient,
        connection: Connection,
        layout: JobLayout,
        offer: JoinOffer,
        multicast: bool,
        way: PortTable | SharedSlots,
        spin_ns: int,
        share: int,
    ) -> None:
        self.transport = connection.kind
        self.multicast = multicast
        self.payload = layout.payload
        self.window = layout.window
        self._offer = offer
        self._left = False
        self._client = client
        # Until there is a worker: who leaves has finished nothing.
        client.start_heartbeats(_ignore, progress=lambda: 0)
        self._connection = connection
        self._way = way
        count = layout.payload // ELEMENT_BYTES
        window = new_window(
            rank=offer.rank,
            workers=offer.world_size,
            window=layout.window,
            elements=count,
            size=size_code(layout.payload),
            job=layout.job_number,
            block_kind=WIRES[layout.wire].code,
        )
        self._counters = np.zeros(len(WORKER_COUNTERS), np.int64)
        descriptor, flag, scratch = np.zeros(count, np.uint32), np.zeros(1, np.int64), np.zeros(4, np.int64)
        engine: Engine | MemoryEngine
        self._pace = lambda: Pace(in_flight=layout.window)
        if isinstance(way, SharedSlots):
            lanes = np.zeros(layout.payload, np.uint8)
            reserved = np.zeros(1, np.int64)
            engine = MemoryEngine(
                window, way, self._counters, descriptor, lanes, new_exponents(), reserved, flag, scratch
            )
        else:
            congestion = new_congestion(
                packet=HEADER_BYTES + layout.payload,
                slots=layout.window,
                enabled=connection.kind == "udp",
                share=share,
            )
            recovery = new_recovery()
            engine = Engine(
                window, recovery, congestion, way.handle, self._counters, descriptor, flag, scratch
            )
            self._pace = lambda: Pace(recovery[0]["srtt"] / 1e9, packets_allowed(congestion))
        if self.transport == "memory":
            enough = offer.world_size * share <= len(os.sched_getaffinity(0))
            spin_ns = _SPIN_IN_MEMORY_NS if enough else 0  # whoever is waited for needs the core
        self.stream = Stream(engine, connection.wake, self._explain, spin_ns=spin_ns)

    @classmethod
    def take(
        cls,
        client: ControlClient,
        offer: JoinOffer,
        *,
        transport: str,
        multicast: bool,
        timeout: float,
        spin_ns: int,
        share: int,
    ) -> Seat:
        """Join the job at the client's switch; returns when all ranks have.

        Args:
            client: connected. Not closed where this fails.
            offer: without transport and addresses, which are found here.
            transport: of `control.target.TRANSPORTS`.
            multicast: False asks for results by unicast.
            timeout: seconds.
            spin_ns: how long the stream's engine looks again before it sleeps.
            share: streams of this rank that leave by the same link.

        Raises:
            SwitchUnreachableError, JoinError, UsageError: see switchml/errors.py.
        """
        deadline = time.monotonic() + timeout
        capture = os.environ.get("SWITCHML_CAPTURE", "").strip()
        target = client.discover()
        connection = _connect(target, _with_packets(target, transport) if capture else transport, multicast)
        try:
            if capture:
                connection.record(_capture_file(capture, offer, client.address if share > 1 else ""))
            own = replace(
                offer,
                transport=connection.kind,
                address=connection.address,
                port=connection.port_number,
                ticket=connection.ticket,
            )
            layout = client.join(own, timeout=timeout, pulse=start_pulse)
            if layout.wire != offer.wire:
                raise JoinError(
                    f"job {offer.job!r}: the switch at {client.address} does not know the wire {offer.wire}: "
                    f"leave it at {FLOAT32}"
                )
            # Mostly it is there; if not, heartbeats tell the others that we live.
            prepare_loop(layout.in_memory)
            way: PortTable | SharedSlots
            if layout.in_memory and isinstance(connection, ShmConnection):
                room = layout.payload // ELEMENT_BYTES * wire_lanes(layout.wire)
                way = connection.attach_slots(offer.rank, SharedLayout(offer.world_size, layout.window, room))
            else:
                way = PortTable(
                    connection.attach(
                        offer.rank,
                        offer.world_size,
                        layout.window,
                        layout.payload,
                        layout.job_number,
                        layout.multicast_group,
                        layout.multicast_port,
                    )
                )
            left = max(1.0, deadline - time.monotonic())
            by_multicast = client.ready(
                multicast=connection.multicast,
                timeout=left if layout.in_memory else max(left, _READY_SECONDS),
            )
            return cls(client, connection, layout, own, by_multicast, way, spin_ns, share)
        except BaseException:
            connection.close()
            raise

    def report_to(
        self,
        on_abort: Callable[[SwitchMLError], None],
        on_left: Callable[[Departures], None],
        finished: Callable[[], int],
    ) -> None:
        """Have the job's early end here, and ranks that leave it, reported: see `ControlClient.start_heartbeats`."""

        def ended(reason: str) -> None:
            on_abort(
                JobAbortedError(f"job {self._offer.job!r} at {self._client.address} ended early: {reason}")
            )

        self._client.start_heartbeats(ended, on_left, finished, self._resent, self._pace)

    def counters(self) -> dict[str, int]:
        """Counters of this stream by name (protocol/counters.py)."""
        return named(WORKER_COUNTERS, self._counters)

    def _resent(self) -> Resent:
        counters = self.counters()
        return Resent(counters["retransmissions"], counters["dropped_duplicate"] + counters["dropped_stale"])

    def leave(self, error: SwitchMLError, reason: str = "") -> None:
        """Leave the job here; works in flight fail with `error`, the others are told `reason`. Idempotent."""
        if self._left:
            return
        self._left = True
        self.stream.close(error)
        self._client.close(reason)
        self._connection.close()

    def _explain(self, position: int) -> str:
        """Why the chunk at that position of the stream has no result."""
        told = (
            f"job {self._offer.job!r}, rank {self._offer.rank}: the timeout of a collective passed with no result for chunk "
            f"{position} from the switch at {self._client.address}"
        )
        try:
            report = self._client.slot(position & 0xFFFFFFFF)
        except SwitchMLError as error:
            return f"{told}; the switch could not be asked why: {error}"
        if not report.missing:
            return (
                f"{told}, though the switch has every rank's packet: results do not get through to this rank"
            )
        heard = []
        for rank in report.missing:
            ago = report.last_heard[rank]
            heard.append(f"rank {rank} ({'never heard' if ago is None else f'last heard {ago:.1f} s ago'})")
        return (
            f"{told}; the switch has not seen it from {', '.join(heard)}. "
            "Did every rank call this collective, and is it alive?"
        )
