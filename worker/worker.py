"""The worker: one rank of one job on one switch."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import numpy as np
from typing_extensions import override

from switchml.control.client import ControlClient
from switchml.control.control_messages import JobLayout, JoinOffer
from switchml.control.exits import in_a_line
from switchml.control.heartbeat import Departures
from switchml.control.target import TargetDescription
from switchml.control.tls import TlsFiles
from switchml.errors import JobAbortedError, SwitchMLError, UsageError
from switchml.link.records import table_of
from switchml.protocol.counters import WORKER_COUNTERS, named
from switchml.protocol.messages import ELEMENT_BYTES, size_code
from switchml.protocol.numerics import error_bound
from switchml.protocol.prepare import prepare
from switchml.variables import report_misspelt
from switchml.worker.collectives import Call, Collectives, Pipeline
from switchml.worker.connection import Connection, ShmConnection, UdpConnection, shares_memory
from switchml.worker.engine import Engine, run
from switchml.worker.owner import Owner
from switchml.worker.port import Port
from switchml.worker.pulse import prepare_pulse, start_pulse
from switchml.worker.recovery import new_recovery
from switchml.worker.stream import Stream, closed
from switchml.worker.window import new_window
from switchml.worker.work import Work

_SPIN_NS = 50_000


def _connect(target: TargetDescription, transport: str, multicast: bool) -> Connection:
    if transport not in ("auto", "udp", "shm"):
        raise UsageError(f"transport {transport!r} is none of auto, udp, shm")
    if transport == "shm" or (transport == "auto" and shares_memory(target)):
        return ShmConnection(target)
    return UdpConnection(target, multicast=multicast)


def prepare_engine() -> None:
    """Compile the worker's loop, or load it. `Worker.join` does it too, before its timeout begins."""
    prepare(run, "worker's engine", 0, 0, 0)
    prepare_pulse()


class PortTable:
    """A port with the handle that the engine knows it by; keeps its arrays alive."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._table = table_of(port)
        self.handle: int = self._table.ctypes.data


class Worker(Collectives):
    """One rank of a job. Made by `join`; a context manager that leaves on exit.

    Collectives may be submitted from any thread, but all ranks must submit the same ones in the same order.

    Attributes:
        rank: 0 to world_size - 1.
        world_size: ranks of the job.
        job: its name.
        transport: "udp" or "shm".
        multicast: whether results come by multicast.
        payload: bytes a packet.
        window: slots.
    """

    def __init__(
        self,
        client: ControlClient,
        connection: Connection,
        layout: JobLayout,
        offer: JoinOffer,
        timeout: float,
        multicast: bool,
        engine: Engine,
        port: PortTable,
    ) -> None:
        self.rank = offer.rank
        self.world_size = offer.world_size
        self.job = offer.job
        self.transport = connection.kind
        self.multicast = multicast
        self.payload = layout.payload
        self.window = layout.window
        self._timeout = timeout
        self._client = client
        self._connection = connection
        self._engine = engine
        self._port = port
        self._calls = 0
        self._owner = Owner()
        self._finished = 0
        self._alone: tuple[int, JobAbortedError] | None = None
        self._lock = threading.Lock()
        self._left = False
        self._stream = Stream(engine, connection.wake, self._explain, spin_ns=_SPIN_NS)
        client.start_heartbeats(self._aborted, self._others_left, lambda: self._finished)

    @classmethod
    def join(
        cls,
        switch: str,
        *,
        job: str,
        rank: int,
        world_size: int,
        transport: str = "auto",
        payload: int = 0,
        window: int = 0,
        token: str | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        tls_ca: str | Path | None = None,
        join_timeout: float = 60.0,
        timeout: float = 300.0,
        multicast: bool = True,
        paper: bool = False,
    ) -> Worker:
        """Join a job at the switch whose control service is at `switch` (host:port); returns when all ranks have.

        Args:
            switch: host:port.
            job: its name.
            rank: 0 to world_size - 1.
            world_size: ranks of the job.
            transport: "udp", "shm", or "auto", which takes shared memory where worker and switch share a host.
            payload: bytes a packet; 0 takes the switch's.
            window: slots; 0 takes the switch's.
            token: what the switch wants to see; None takes SWITCHML_TOKEN, "" none.
            tls_cert: PEM file of this worker's certificate, for a switch that asks; None takes SWITCHML_TLS_CERT, "" none.
            tls_key: PEM file of its key; likewise SWITCHML_TLS_KEY.
            tls_ca: PEM file of the switch's authority; likewise SWITCHML_TLS_CA. Without any of the three: in the clear.
            join_timeout: seconds for joining, after whatever has to be compiled.
            timeout: seconds for a collective.
            multicast: False asks for results by unicast.
            paper: run the slot machine as published, without stamps.

        Raises:
            SwitchUnreachableError, TlsError, JoinError, UsageError: see switchml/errors.py.
        """
        report_misspelt()
        prepare_engine()
        deadline = time.monotonic() + join_timeout
        client = ControlClient(
            switch,
            token=os.environ.get("SWITCHML_TOKEN", "") if token is None else token,
            timeout=min(10.0, join_timeout),
            tls=TlsFiles.given(tls_cert, tls_key, tls_ca).client(),
        )
        connection: Connection | None = None
        try:
            target = client.discover()
            connection = _connect(target, transport, multicast)
            offer = JoinOffer(
                job=job, rank=rank, world_size=world_size, transport=connection.kind, address=connection.address,
                port=connection.port_number, ticket=connection.ticket, payload=payload, window=window, paper=paper,
            )  # fmt: skip
            layout = client.join(offer, timeout=join_timeout, pulse=start_pulse)
            port = PortTable(
                connection.attach(
                    rank,
                    world_size,
                    layout.window,
                    layout.payload,
                    layout.job_number,
                    layout.multicast_group,
                    layout.multicast_port,
                )
            )
            by_multicast = client.ready(
                multicast=connection.multicast, timeout=max(1.0, deadline - time.monotonic())
            )
            count = layout.payload // ELEMENT_BYTES
            engine = Engine(
                window=new_window(
                    rank=rank,
                    workers=world_size,
                    window=layout.window,
                    elements=count,
                    size=size_code(layout.payload),
                    job=layout.job_number,
                ),
                recovery=new_recovery(),
                port=port.handle,
                counters=np.zeros(len(WORKER_COUNTERS), np.int64),
                descriptor=np.zeros(count, np.uint32),
                flag=np.zeros(1, np.int64),
                scratch=np.zeros(4, np.int64),
            )
            return cls(client, connection, layout, offer, timeout, by_multicast, engine, port)
        except BaseException:
            client.close()
            if connection is not None:
                connection.close()
            raise

    def counters(self) -> dict[str, int]:
        """Counters of this worker by name (protocol/counters.py)."""
        return named(WORKER_COUNTERS, self._engine.counters)

    @override
    def abort(self, error: SwitchMLError) -> None:
        self._stream.abort(error)

    def leave(self, reason: str = "") -> None:
        """Leave the job. Idempotent; works in flight fail with WorkerClosedError. A forked child does nothing.

        Args:
            reason: what the others are told, if they have a collective under way that needs this rank; by default
                the exception that is being handled.
        """
        if not self._owner.is_here():
            return
        error = sys.exc_info()[1]
        if not reason and error is not None:
            reason = in_a_line(error)
        with self._lock:
            if self._left:
                return
            self._left = True
        self._stream.close(closed(self.job))
        self._client.close(reason)
        self._connection.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave("" if error is None else in_a_line(error))

    def _submit(self, call: Call, timeout: float | None, notify: bool) -> Work:
        self._owner.check()
        said = call.signature
        work = Work(self._stream, f"{said.told()} in job {self.job!r}", call.result)
        deadline = time.monotonic_ns() + int((self._timeout if timeout is None else timeout) * 1e9)

        def done(highest: int) -> None:
            self._finished += 1
            self._end_if_alone()
            try:
                call.finish()
            except Exception as error:
                work.finish(error)
                return
            work.finish(bound=error_bound(highest, self.world_size) * call.bound)

        strategy = call.strategy()
        with self._lock:
            # Numbering and queueing are one step: the stream's order is the order of the numbers.
            signature = said._replace(call=self._calls)
            self._calls += 1
            self._stream.submit(Pipeline(strategy, signature, deadline, done, work.finish), notify)
        self._end_if_alone()
        return work

    def _aborted(self, reason: str) -> None:
        self._stream.abort(JobAbortedError(f"job {self.job!r} ended early: {reason}"))

    def _others_left(self, departures: Departures) -> None:
        """Ranks have left in order. What they have finished, all can finish; what they have not, nobody."""
        said = [
            (each.calls, rank, each.reason) for rank, each in departures.items() if each.calls is not None
        ]
        if said:
            calls, rank, reason = min(said)
            why = f" ({reason})" if reason else ""
            told = f"job {self.job!r}: rank {rank} has left{why} after {calls} collectives, and this rank has called more"
            self._alone = calls, JobAbortedError(told)
            self._end_if_alone()

    def _end_if_alone(self) -> None:
        if self._alone is not None:
            calls, error = self._alone
            if self._finished >= calls and self._calls > calls:
                self._stream.abort(error)

    def _explain(self, position: int) -> str:
        """Why the chunk at that position of the stream has no result."""
        told = f"job {self.job!r}, rank {self.rank}: the timeout of a collective passed with no result for chunk {position}"
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
