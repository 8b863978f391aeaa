"""A rank's place in a job at one switch: its membership there, the way to it, and the stream of its transfers."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.aggregation.shared_slots import SharedLayout, SharedSlots, ring_bell
from switchml.control.address import parse_address
from switchml.control.client import ControlClient
from switchml.control.control_messages import JobLayout, JoinOffer, Pace, Resent
from switchml.control.exits import in_a_line
from switchml.control.heartbeat import Departures
from switchml.control.target import TRANSPORTS, TargetDescription
from switchml.errors import (
    JobAbortedError,
    JoinError,
    LeftBehindError,
    SwitchGoneError,
    SwitchMLError,
    UsageError,
    WorkerClosedError,
)
from switchml.link.records import table_of
from switchml.protocol.counters import WORKER_COUNTERS, named
from switchml.protocol.header import HEADER_BYTES
from switchml.protocol.messages import ELEMENT_BYTES, FLOAT32, WIRES, size_code, wire_lanes
from switchml.protocol.prepare import prepare
from switchml.worker.congestion import new_congestion, packets_allowed
from switchml.worker.connection import Connection, ShmConnection, UdpConnection, shares_memory
from switchml.worker.engine import Engine, run
from switchml.worker.failover import settle
from switchml.worker.in_memory import MemoryEngine, new_exponents, run_in_memory
from switchml.worker.port import Port
from switchml.worker.pulse import start_pulse
from switchml.worker.recovery import new_recovery
from switchml.worker.standing import begin_anew
from switchml.worker.stream import Stream
from switchml.worker.window import Window, new_window

# In which the others may have a loop to compile that they did not expect; whose process ends, is known at once.
_READY_SECONDS = 300.0

_LOOK_AGAIN = 0.05
_LISTENS = 1.0
_ONE_OF_SEVERAL = 3.0
"""Seconds in which the other ranks have to come to the same of several switches; then the first that is there is sought anew."""

_log = logging.getLogger(__name__)

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


def _capture_file(wanted: str, offer: JoinOffer, switch: str, epoch: int = 0) -> str:
    """Where a rank's packets go: `wire.pcap` becomes `wire.JOB.rank0.pcap`.

    Args:
        wanted: as the environment names it.
        offer: of the rank.
        switch: address of one of several; "" = the only one.
        epoch: of a job that has regrouped; 0 = it has not.
    """
    path = Path(wanted)
    of = f"{offer.job}.{switch}" if switch else offer.job
    of = f"{of}.epoch{epoch}" if epoch else of
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


def _listens(address: str) -> bool:
    """Whether somebody does, there."""
    try:
        socket.create_connection(parse_address(address), _LISTENS).close()
    except OSError:
        return False
    return True


class Revival(NamedTuple):
    """What is to be done when a switch is gone.

    Attributes:
        seconds: for which the job tries to go on; 0: it ends.
        connect: to the switch at an address, which listens; seconds that it may take.
        addresses: of the switch itself and of those that stand in for it, in the order in which they are tried.
    """

    seconds: float
    connect: Callable[[str, float], ControlClient]
    addresses: tuple[str, ...]


class _Way(NamedTuple):
    """A seat's place at a switch: everything that is another at the next switch."""

    client: ControlClient
    connection: Connection
    layout: JobLayout
    offer: JoinOffer
    multicast: bool
    port: PortTable | SharedSlots

    def give_up(self) -> None:
        self.client.close()
        self.connection.close()


def _join(
    client: ControlClient,
    offer: JoinOffer,
    transport: str,
    multicast: bool,
    timeout: float,
    capture: str = "",
    past: _Way | None = None,
    within: float = 0.0,
) -> _Way:
    """Come to the client's switch with all other ranks.

    Args:
        client: connected. Not closed where this fails.
        offer: as of `Seat.take`, and so on.
        transport: likewise.
        multicast: likewise.
        timeout: likewise.
        capture: the file for packets; "" = none. Of a rank that does not know its place yet: as the environment names it.
        past: the place at the switch that is gone; memory of that stays in use.
        within: seconds for which others are waited for who regroup the job; 0 = it begins.
    """
    deadline = time.monotonic() + timeout
    connection = _connect(client.discover(), transport, multicast)
    try:
        placed = not offer.enters and not within
        if capture and placed:
            connection.record(capture)
        own = replace(
            offer,
            transport=connection.kind,
            address=connection.address,
            port=connection.port_number,
            ticket=connection.ticket,
        )
        if within:
            layout = client.regroup(own, within=within, pulse=start_pulse)
        else:
            layout = client.join(own, timeout=timeout, pulse=start_pulse)
        if layout.world_size:
            own = replace(own, rank=layout.rank, world_size=layout.world_size, enters=False)
        elif offer.enters:
            raise JoinError(
                f"the switch at {client.address} lets no new ranks into a job: it is an older version"
            )
        if capture and not placed:
            connection.record(_capture_file(capture, own, "", layout.epoch))
        if layout.wire != offer.wire:
            raise JoinError(
                f"job {offer.job!r}: the switch at {client.address} does not know the wire {offer.wire}: leave it at {FLOAT32}"
            )
        # Mostly it is there; if not, heartbeats tell the others that we live.
        prepare_loop(layout.in_memory)
        way: PortTable | SharedSlots
        if past is not None and isinstance(past.port, SharedSlots):
            way = past.port
        elif layout.in_memory and isinstance(connection, ShmConnection):
            room = layout.payload // ELEMENT_BYTES * wire_lanes(layout.wire)
            way = connection.attach_slots(own.rank, SharedLayout(own.world_size, layout.window, room))
        else:
            way = PortTable(
                connection.attach(
                    own.rank,
                    own.world_size,
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
            timeout=left if layout.in_memory or past is not None else max(left, _READY_SECONDS),
        )
        return _Way(client, connection, layout, own, by_multicast, way)
    except BaseException:
        connection.close()
        raise


class _Reports(NamedTuple):
    """As `Seat.report_to` is given them."""

    on_abort: Callable[[SwitchMLError], None]
    on_left: Callable[[Departures], None]
    finished: Callable[[], int]


class Seat:
    """Made by `take`.

    Attributes:
        transport: "udp", "shm" or "memory".
        multicast: whether results come by multicast.
        payload: bytes a packet.
        window: slots.
        offer: of this rank, which has its place in it.
        epoch: how often the job had regrouped when this was made.
        survivors: ranks that were in the epoch before; they come first.
        stream: takes what goes through this switch.
        outages: seconds for which there was no switch, each time; but in memory, nothing went on meanwhile.
    """

    def __init__(
        self, way: _Way, transport: str, multicast: bool, spin_ns: int, share: int, revival: Revival
    ) -> None:
        layout, offer = way.layout, way.offer
        self.transport = way.connection.kind
        self.multicast = way.multicast
        self.payload = layout.payload
        self.window = layout.window
        self.offer, self.epoch = offer, layout.epoch
        self.survivors = layout.survivors if layout.epoch else offer.world_size
        self._wanted, self._spin_ns, self._share, self._revival = (
            (transport, multicast),
            spin_ns,
            share,
            revival,
        )
        self._spin_asked = spin_ns
        self._left = False
        self._reports: _Reports | None = None
        self.outages: list[float] = []
        self._lock = threading.Lock()
        self._way, self._client = way, way.client
        self._past: list[Connection] = []  # that somebody may still be about to wake
        # Until there is a worker: who leaves has finished nothing.
        way.client.start_heartbeats(_ignore, progress=lambda: 0)
        count = layout.payload // ELEMENT_BYTES
        self._state = self._new_window(way)
        self._counters = np.zeros(len(WORKER_COUNTERS), np.int64)
        self._descriptor, self._flag = np.zeros(count, np.uint32), np.zeros(1, np.int64)
        packets = 2 * layout.window * (HEADER_BYTES + layout.payload)
        self._tried = 0
        self._kept = np.zeros(packets if revival.seconds > 0 else 0, np.uint8)
        self._pace: Callable[[], Pace] = lambda: Pace(in_flight=layout.window)
        if self.transport == "memory":
            enough = offer.world_size * share <= len(os.sched_getaffinity(0))
            self._spin_ns = _SPIN_IN_MEMORY_NS if enough else 0  # whoever is waited for needs the core
        engine: Engine | MemoryEngine
        if isinstance(way.port, SharedSlots):
            lanes = np.zeros(layout.payload, np.uint8)
            reserved, scratch = np.zeros(2, np.int64), np.zeros(4, np.int64)
            engine = MemoryEngine(
                self._state,
                way.port,
                self._counters,
                self._descriptor,
                lanes,
                new_exponents(),
                reserved,
                self._flag,
                scratch,
            )
        else:
            engine = self._engine = self._engine_at(way, self._state, self._kept)
        self.stream = Stream(engine, way.connection.wake, self._explain, spin_ns=self._spin_ns)

    def _new_window(self, way: _Way) -> Window:
        layout, offer = way.layout, way.offer
        return new_window(
            rank=offer.rank,
            workers=offer.world_size,
            window=layout.window,
            elements=layout.payload // ELEMENT_BYTES,
            size=size_code(layout.payload),
            job=layout.job_number,
            block_kind=WIRES[layout.wire].code,
            in_memory=isinstance(way.port, SharedSlots),
        )

    def _engine_at(self, way: _Way, window: Window, kept: npt.NDArray[np.uint8]) -> Engine:
        """What brings the window's packets that way, and leaves the last of each slot in `kept`, unless that is empty."""
        assert isinstance(way.port, PortTable)
        congestion = new_congestion(
            packet=HEADER_BYTES + way.layout.payload,
            slots=way.layout.window,
            enabled=way.connection.kind == "udp",
            share=self._share,
        )
        recovery = new_recovery()
        self._pace = lambda: Pace(recovery[0]["srtt"] / 1e9, packets_allowed(congestion))
        return Engine(
            window, recovery, congestion, way.port.handle, self._counters, self._descriptor, self._flag,
            np.zeros(4, np.int64), kept,
        )  # fmt: skip

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
        revival: Revival,
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
            revival: for when the switch is gone.

        Raises:
            SwitchUnreachableError, JoinError, UsageError: see switchml/errors.py.
        """
        capture = os.environ.get("SWITCHML_CAPTURE", "").strip()
        if capture:
            transport = _with_packets(client.discover(), transport)
            if not offer.enters:
                capture = _capture_file(capture, offer, client.address if share > 1 else "")
        way = _join(client, offer, transport, multicast, timeout, capture)
        return cls(way, transport, multicast, spin_ns, share, revival)

    def report_to(
        self,
        on_abort: Callable[[SwitchMLError], None],
        on_left: Callable[[Departures], None],
        finished: Callable[[], int],
    ) -> None:
        """Have the job's early end here, and ranks that leave it, reported: see `ControlClient.start_heartbeats`."""
        self._reports = _Reports(on_abort, on_left, finished)
        self._report_of(self._way)

    def _report_of(self, way: _Way) -> None:
        """Have what happens at that switch reported; what has happened already is at once."""
        assert self._reports is not None
        on_abort, on_left, finished = self._reports

        def ended(reason: str) -> None:
            on_abort(self._ended(reason, way))

        def gone(reason: str) -> None:
            error = self._ended(reason, way, SwitchGoneError)
            if self._revival.seconds > 0:
                threading.Thread(
                    target=self._go_on, args=(way, error), name="switchml-failover", daemon=True
                ).start()
            else:
                on_abort(error)

        way.client.start_heartbeats(ended, on_left, finished, self._resent, self._speed, gone)

    def _speed(self) -> Pace:
        return self._pace()

    def _ended(
        self, reason: str, way: _Way, kind: type[JobAbortedError] = JobAbortedError
    ) -> JobAbortedError:
        return kind(f"job {way.offer.job!r} at {way.client.address} ended early: {reason}")

    def _go_on(self, lost: _Way, error: SwitchMLError) -> None:
        """The switch is gone: go on at the next, as soon as all ranks are there; else fail with `error`."""
        assert self._reports is not None
        began = time.monotonic()
        deadline = began + self._revival.seconds
        # In memory nothing is lost with it, and sums go on meanwhile: it is missed where a rank dies or leaves.
        holding = contextlib.nullcontext() if self.transport == "memory" else self.stream.held_up()
        with holding:
            lost.client.close()
            why: SwitchMLError = error
            while not self._left and self.stream.error is None and time.monotonic() < deadline:
                try:
                    if not self._goes_on(lost.offer, deadline):
                        time.sleep(_LOOK_AGAIN)
                        continue
                except (SwitchMLError, OSError) as again:
                    why = again if isinstance(again, SwitchMLError) else SwitchMLError(str(again))
                    time.sleep(_LOOK_AGAIN)
                    continue
                except Exception as fault:
                    _log.exception("a job could not go on")
                    self._reports.on_abort(SwitchGoneError(f"{error}; it could not go on: {fault!r}"))
                    return
                break
            else:
                if self._left or self.stream.error is not None:
                    return
                told = "" if why is error else f": {in_a_line(why)}"
                self._reports.on_abort(
                    SwitchGoneError(f"{error}; it could not go on within {self._revival.seconds:g} s{told}")
                )
                return
        took = time.monotonic() - began
        self.outages.append(took)
        level = logging.WARNING if lost.offer.rank == 0 else logging.INFO
        where, job = self._client.address, lost.offer.job
        _log.log(level, "%s; it goes on at %s after %.2f s", error, where, took, extra={"job": job})
        self._report_of(self._way)

    def _goes_on(self, offer: JoinOffer, deadline: float) -> bool:
        """Come to the first switch that is there, if there is one.

        Raises:
            SwitchMLError: it was in vain.
        """
        addresses = self._revival.addresses
        # In turn: one that takes connections and nothing else, as a stopped process does, must not hide the others.
        first = self._tried % len(addresses)
        address = next((each for each in (*addresses[first:], *addresses[:first]) if _listens(each)), None)
        if address is None:
            return False
        self._tried = addresses.index(address) + 1
        left = deadline - time.monotonic()
        patience = left if len(addresses) == 1 else min(left, _ONE_OF_SEVERAL)
        client = self._revival.connect(address, max(0.1, min(left, 2.0)))
        with self._lock:
            if self._left:
                client.close()
                return False
            self._client = client
        transport, multicast = self._wanted
        if self.transport != "memory":  # packets it stays
            transport = "shm" if transport != "udp" and shares_memory(client.discover()) else "udp"
        # What the stream is cut into stays.
        same = replace(offer, payload=self.payload, window=self.window)
        try:
            way = _join(client, same, transport, multicast, max(0.1, patience), past=self._way)
        except BaseException:
            client.close()
            raise
        try:
            if self.transport != "memory":
                self._settle(way, deadline)
        except BaseException:
            way.give_up()
            raise
        with self._lock:
            if not self._left:
                self._past.append(self._way.connection)
                self._way = way
                return True
        way.give_up()
        return False

    def _settle(self, way: _Way, deadline: float) -> None:
        """Have the stream go on there, where the ranks agree on it."""
        window = self._new_window(way)
        # What the ranks agree on is read from the packets that are kept: those of the agreement must not take their places.
        engine = self._engine_at(way, window, np.zeros(0, np.uint8))
        stream = Stream(engine, way.connection.wake, self._explain, spin_ns=self._spin_ns)
        closed = SwitchGoneError(f"the ranks of job {way.offer.job!r} were about to go on, and could not")
        try:
            way.client.start_heartbeats(
                lambda reason: stream.abort(self._ended(reason, way)),
                lambda _: stream.abort(closed),
                lambda: 0,
            )
            settle(self._engine, stream, int(deadline * 1e9))
        finally:
            stream.close(closed)
        begin_anew(self._state, way.layout.job_number, int(window.stream[0]["end"]))
        self._engine = self._engine_at(way, self._state, self._kept)
        self.stream.go_on(self._engine, way.connection.wake)

    def counters(self) -> dict[str, int]:
        """Counters of this stream by name (protocol/counters.py)."""
        return named(WORKER_COUNTERS, self._counters)

    def _resent(self) -> Resent:
        counters = self.counters()
        return Resent(counters["retransmissions"], counters["dropped_duplicate"] + counters["dropped_stale"])

    def leave(self, error: SwitchMLError, reason: str = "") -> None:
        """Leave the job here; works in flight fail with `error`, the others are told `reason`. Idempotent."""
        with self._lock:
            if self._left:
                return
            self._left = True
        self._client.close(reason)  # first: it may be waiting at the next switch, with the stream held up
        self.stream.close(error)
        for connection in (*self._past, self._way.connection):
            connection.close()

    @property
    def newcomers(self) -> int:
        """Ranks that wait to enter the job, as far as this rank has been told."""
        return self._client.newcomers

    def regroup(self, within: float, timeout: float) -> Seat:
        """A seat in the job's next epoch, with those who call this as well. This one is left, whatever comes of it.

        Args:
            within: seconds from the first rank's call, in which the others have to call.
            timeout: seconds for what follows once it is known who goes on.

        Raises:
            LeftBehindError, SwitchGoneError, SwitchUnreachableError, JoinError: see switchml/errors.py.
        """
        job, client = self.offer.job, self._client
        with self._lock:
            if self._left:
                raise WorkerClosedError(f"job {job!r}: this rank has left")
            self._left = True
        self.stream.close(WorkerClosedError(f"job {job!r} was about to regroup"))
        for connection in (*self._past, self._way.connection):
            connection.close()
        transport, multicast = self._wanted
        capture = os.environ.get("SWITCHML_CAPTURE", "").strip()
        deadline = time.monotonic() + within + timeout
        try:
            if client is not self._way.client or not client.joined:
                raise SwitchGoneError(
                    f"job {job!r}: the switch at {client.address} is gone, and regroups nothing; join anew"
                )
            while True:
                try:
                    way = _join(client, self.offer, transport, multicast, timeout, capture, None, within)
                    return Seat(way, transport, multicast, self._spin_asked, self._share, self._revival)
                except (SwitchGoneError, LeftBehindError):
                    raise
                except SwitchMLError as error:
                    # Of those who were to go on one has died before all were ready: without it, then.
                    over = isinstance(error, JobAbortedError) or client.job_ended
                    if not over or time.monotonic() > deadline:
                        raise
        except BaseException as error:
            client.close(in_a_line(error))
            raise

    def _explain(self, position: int) -> str:
        """Why the chunk at that position of the stream has no result."""
        offer = self._way.offer
        told = (
            f"job {offer.job!r}, rank {offer.rank}: the timeout of a collective passed with no result for chunk "
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
