"""The worker: one rank of one job on one switch."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.control.client import ControlClient
from switchml.control.messages import JobLayout, JoinOffer
from switchml.control.target import TargetDescription
from switchml.errors import JobAbortedError, SwitchMLError, UsageError
from switchml.link.records import table_of
from switchml.protocol.counters import WORKER_COUNTERS, named
from switchml.protocol.messages import ELEMENT_BYTES, size_code
from switchml.protocol.numerics import error_bound
from switchml.protocol.prepare import prepare
from switchml.worker import elements
from switchml.worker.collectives import (
    BroadcastBytes,
    Converted,
    Direct,
    Gathered,
    GatheredBytes,
    Part,
    Pipeline,
    Strategy,
    nothing,
)
from switchml.worker.connection import Connection, ShmConnection, UdpConnection, shares_memory
from switchml.worker.engine import Engine, run
from switchml.worker.port import Port
from switchml.worker.recovery import new_recovery
from switchml.worker.signature import Signature
from switchml.worker.stream import Stream, closed
from switchml.worker.window import BLOCKS, WORDS, new_window
from switchml.worker.work import Work

Array = npt.NDArray[Any]

_SMALL_GATHER_BYTES = 32768
"""Float sums this small (bytes times workers) are gathered exactly: one round trip in place of two."""
_SPIN_NS = 50_000


def _connect(target: TargetDescription, transport: str, multicast: bool) -> Connection:
    if transport not in ("auto", "udp", "shm"):
        raise UsageError(f"transport {transport!r} is none of auto, udp, shm")
    if transport == "shm" or (transport == "auto" and shares_memory(target)):
        return ShmConnection(target)
    return UdpConnection(target, multicast=multicast)


def _check_writable(array: Array) -> None:
    if not array.flags.writeable:
        raise UsageError(
            "the result is to be written to a read-only array: give a copy of it, or another `out`"
        )


class PortTable:
    """A port with the handle that the engine knows it by; keeps its arrays alive."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._table = table_of(port)
        self.handle: int = self._table.ctypes.data


class Worker:
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
        self._lock = threading.Lock()
        self._left = False
        self._stream = Stream(engine, connection.wake, self._explain, spin_ns=_SPIN_NS)
        client.start_heartbeats(self._aborted)

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
        token: str = "",
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
            token: what the switch wants to see; "" for none.
            join_timeout: seconds for joining.
            timeout: seconds for a collective.
            multicast: False asks for results by unicast.
            paper: run the slot machine as published, without stamps.

        Raises:
            SwitchUnreachableError, JoinError, UsageError: see switchml/errors.py.
        """
        prepare(run, "worker's engine", 0, 0, 0)
        deadline = time.monotonic() + join_timeout
        client = ControlClient(switch, token=token, timeout=min(10.0, join_timeout))
        connection: Connection | None = None
        try:
            target = client.discover()
            connection = _connect(target, transport, multicast)
            offer = JoinOffer(
                job=job, rank=rank, world_size=world_size, transport=connection.kind, address=connection.address,
                port=connection.port_number, ticket=connection.ticket, payload=payload, window=window, paper=paper,
            )  # fmt: skip
            layout = client.join(offer, timeout=join_timeout)
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

    def allreduce(
        self,
        array: Array,
        op: str = "sum",
        *,
        out: Array | None = None,
        dtype: str | None = None,
        timeout: float | None = None,
        notify: bool = True,
    ) -> Work:
        """Reduce `array` over all ranks, in place unless `out` (same shape and dtype) is given.

        Sums of float32, float16 and bfloat16 go through block floating point (`Work.error_bound`), small ones and everything
        else are exact in the sense of the dtype; the bits of the result are the same on all ranks.

        Args:
            array: float32, float16, float64, any integer, bool or complex dtype.
            op: sum, avg, prod, min, max, band, bor, bxor.
            out: takes the result.
            dtype: "bfloat16" over an array of uint16.
            timeout: seconds, in place of the worker's.
            notify: False when `wait` follows at once.

        Raises:
            UsageError: dtype, operation or `out` do not fit, or the result's memory is read-only.
            CollectiveError: the job has failed before.
        """
        name = elements.dtype_name(array, dtype)
        elements.check_operation(name, op)
        target = array if out is None else out
        if target.shape != array.shape or target.dtype != array.dtype:
            raise UsageError(
                f"out has shape {target.shape} and dtype {target.dtype}, the array {array.shape} and {array.dtype}"
            )
        _check_writable(target)
        flat_in = np.ascontiguousarray(array).reshape(-1)
        flat_out = target.reshape(-1) if target.flags.c_contiguous else np.empty(array.size, array.dtype)
        strategy, bounded = self._reduction(flat_in, flat_out, name, op)
        divide = op == "avg" and bounded

        def finish() -> None:
            if divide:
                self._divide(flat_out, name)
            if not target.flags.c_contiguous:
                target[...] = flat_out.reshape(target.shape)

        signature = ("allreduce", name, op, array.size, 0)
        return self._submit(
            strategy,
            signature,
            target,
            timeout,
            notify,
            finish,
            bounded,
            1 / self.world_size if divide else 1.0,
        )

    def _divide(self, values: Array, name: str) -> None:
        if name == "float32":
            values /= np.float32(self.world_size)
            return
        wide = np.empty(values.size, np.float32)
        elements.widen(values, name, wide)
        wide /= np.float32(self.world_size)
        elements.narrow(wide, name, values)

    def _reduction(self, source: Array, out: Array, name: str, op: str) -> tuple[Strategy, bool]:
        """How to reduce, and whether block floating point is used."""
        if source.size == 0:
            return nothing(), False
        way = elements.summed_as(name, op)
        small = way == "blocks" and source.nbytes * self.world_size <= _SMALL_GATHER_BYTES
        if way == "" or small:
            return Gathered(source, out, name, op, self.rank, self.world_size), False
        if name == "float32":
            return Direct(Part(BLOCKS, source.size, source, out)), True
        if name == "int32":
            return Direct(Part(WORDS, source.size, source.view(np.uint32), out.view(np.uint32))), False
        return Converted(source, out, name, BLOCKS if way == "blocks" else WORDS), way == "blocks"

    def broadcast(
        self, array: Array, root: int = 0, *, timeout: float | None = None, notify: bool = True
    ) -> Work:
        """Give every rank the array of `root`, in place, bit for bit. Any dtype.

        Raises:
            UsageError: `root` is no rank, or the array is read-only.
        """
        if not 0 <= root < self.world_size:
            raise UsageError(f"root {root} is no rank of {self.world_size}")
        _check_writable(array)
        flat = np.ascontiguousarray(array).reshape(-1)
        raw = flat.view(np.uint8) if flat.size else np.zeros(0, np.uint8)
        is_root = self.rank == root
        strategy: Strategy
        if raw.size == 0:
            strategy = nothing()
        elif raw.size % 4 == 0:
            words = raw.view(np.uint32)
            strategy = Direct(Part(WORDS, words.size, words if is_root else words[:0], words))
        else:
            strategy = BroadcastBytes(raw, is_root)

        def finish() -> None:
            if not array.flags.c_contiguous:
                array[...] = flat.reshape(array.shape)

        return self._submit(
            strategy, ("broadcast", "bytes", "none", raw.size, root << 12), array, timeout, notify, finish
        )

    def allgather(
        self, array: Array, *, out: Array | None = None, timeout: float | None = None, notify: bool = True
    ) -> Work:
        """Gather every rank's array, which has the same shape and dtype everywhere; the result is
        (world_size, *array.shape). Any dtype.

        Raises:
            UsageError: `out` is not contiguous, read-only or does not fit.
        """
        shape = (self.world_size, *array.shape)
        if out is None:
            out = np.empty(shape, array.dtype)
        if out.shape != shape or out.dtype != array.dtype or not out.flags.c_contiguous:
            raise UsageError(f"out must be contiguous, of shape {shape} and dtype {array.dtype}")
        _check_writable(out)
        flat = np.ascontiguousarray(array).reshape(-1)
        raw = flat.view(np.uint8) if flat.size else np.zeros(0, np.uint8)
        strategy: Strategy
        if raw.size == 0:
            strategy = nothing()
        elif raw.size % 4 == 0:
            every = out.reshape(-1).view(np.uint32)
            strategy = Direct(
                Part(WORDS, every.size, raw.view(np.uint32), every, self.rank * (raw.size // 4))
            )
        else:
            strategy = GatheredBytes(raw, out.reshape(self.world_size, -1).view(np.uint8), self.rank)
        return self._submit(
            strategy, ("allgather", "bytes", "none", raw.size, 0), out, timeout, notify, lambda: None
        )

    def barrier(self, *, timeout: float | None = None, notify: bool = True) -> Work:
        """Done when every rank has called it."""
        return self._submit(
            nothing(),
            ("barrier", "bytes", "none", 0, 0),
            np.zeros(0, np.uint8),
            timeout,
            notify,
            lambda: None,
        )

    def counters(self) -> dict[str, int]:
        """Counters of this worker by name (protocol/counters.py)."""
        return named(WORKER_COUNTERS, self._engine.counters)

    def leave(self) -> None:
        """Leave the job. Idempotent; works in flight fail with WorkerClosedError."""
        with self._lock:
            if self._left:
                return
            self._left = True
        self._stream.close(closed(self.job))
        self._client.close()
        self._connection.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def _submit(
        self,
        strategy: Strategy,
        call: tuple[str, str, str, int, int],
        result: Array,
        timeout: float | None,
        notify: bool,
        finish: Any,
        bounded: bool = False,
        factor: float = 1.0,
    ) -> Work:
        collective, dtype, op, count, detail = call
        work = Work(self._stream, f"{collective} of {count} x {dtype} in job {self.job!r}", result)
        deadline = time.monotonic_ns() + int((self._timeout if timeout is None else timeout) * 1e9)

        def done(highest: int) -> None:
            try:
                finish()
            except Exception as error:
                work.finish(error)
                return
            work.finish(bound=error_bound(highest, self.world_size) * factor if bounded else 0.0)

        with self._lock:
            # Numbering and queueing are one step: the stream's order is the order of the numbers.
            signature = Signature(collective, dtype, op, count, self._calls, detail)
            self._calls += 1
            self._stream.submit(Pipeline(strategy, signature, deadline, done, work.finish), notify)
        return work

    def _aborted(self, reason: str) -> None:
        self._stream.abort(JobAbortedError(f"job {self.job!r} ended early: {reason}"))

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
