"""One rank of a system under test: a process that waits for commands and sleeps in the kernel meanwhile.

`python -m switchml.bench.rank` is started by `switchml.bench.rank_group`, directly or through mpiexec.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from switchml.bench import rank_protocol
from switchml.bench.rank_protocol import MemoryReading, Resident
from switchml.bench.systems.catalogue import Place, System, load
from switchml.bench.verification import (
    Array,
    Expected,
    Verdict,
    element_type,
    fill,
    table,
    timed_table,
    verify,
)
from switchml.errors import SwitchMLError
from switchml.protocol.messages import FLOAT32

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident() -> Resident:
    """This process, now (/proc/self/status)."""
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)

    def size(name: str) -> int:
        return int(fields[name].split()[0]) * 1024

    return Resident(size("RssAnon"), size("RssFile"), size("RssShmem"), size("VmHWM"))


def reset_peak() -> None:
    """Let `Resident.peak` start anew from what is resident now."""
    _CLEAR.write_text("5")


class Rank:
    """Carries out commands on one rank's end of a system."""

    def __init__(self, system: System, place: Place, before: Resident, loaded: Resident) -> None:
        self._system = system
        self._place = place
        self._before = before
        self._loaded = loaded
        self._buffer: Array = np.empty(0, np.float32)
        self._timed: Array = np.empty(0, np.float32)
        self._dtype = "float32"
        self._op = "sum"

    def answer(self, command: Any) -> Any:
        """The answer to one command other than `Stop`."""
        match command:
            case rank_protocol.Prepare(count, dtype, op):
                return self._prepare(count, dtype, op)
            case rank_protocol.Batch(iterations, refill):
                return self._batch(iterations, refill)
            case rank_protocol.Timeline(iterations, refill):
                return self._timeline(iterations, refill)
            case rank_protocol.Check():
                return self._check()
            case rank_protocol.Counters():
                return self._system.counters()
            case rank_protocol.MeasureMemory(count, dtype, op, warm_up):
                return self._measure_memory(count, dtype, op, warm_up)
            case _:
                raise TypeError(f"not a command: {command!r}")

    def _prepare(self, count: int, dtype: str, op: str) -> None:
        kind = element_type(dtype)
        self._dtype, self._op = dtype, op
        self._buffer = np.empty(0, kind.storage)  # lets the old one go before the new one comes
        self._buffer = np.empty(count, kind.storage)
        self._timed = timed_table(kind, op, self._place.rank, self._place.world_size)
        fill(self._buffer, self._timed)

    def _batch(self, iterations: int, refill: int) -> float:
        reduce, buffer, dtype, op = self._system.allreduce, self._buffer, self._dtype, self._op
        seconds = 0.0
        while iterations > 0:
            fill(buffer, self._timed)
            self._system.barrier()
            started = time.perf_counter()
            for _ in range(min(iterations, refill)):
                reduce(buffer, dtype, op)
            seconds += time.perf_counter() - started
            iterations -= refill
        return seconds

    def _timeline(self, iterations: int, refill: int) -> list[float]:
        moments: list[float] = []
        for number in range(iterations):
            if number % refill == 0:
                fill(self._buffer, self._timed)
                self._system.barrier()
            moments = moments or [time.monotonic()]
            self._system.allreduce(self._buffer, self._dtype, self._op)
            moments.append(time.monotonic())
        return moments

    def _check(self) -> Verdict:
        kind = element_type(self._dtype)
        verdict = Verdict(0, 0, 0.0)
        for rounded in (False, True) if kind.floating and self._op in ("sum", "avg") else (False,):
            size = self._place.world_size
            fill(self._buffer, table(kind, self._op, self._place.rank, size, rounded=rounded))
            expected = Expected.of(kind, self._op, size, rounded=rounded)
            self._system.allreduce(self._buffer, self._dtype, self._op)
            bound = self._system.error_bound()
            narrow = self._place.options.get("wire", FLOAT32) != FLOAT32
            tolerance = expected.tolerance(size, rounded=rounded or narrow, op=self._op, block_bound=bound)
            verdict += verify(self._buffer, expected, tolerance)
        return verdict

    def _measure_memory(self, count: int, dtype: str, op: str, warm_up: int) -> MemoryReading:
        self._prepare(warm_up, dtype, op)
        for _ in range(3):
            self._system.allreduce(self._buffer, dtype, op)
        self._prepare(count, dtype, op)
        gc.collect()
        self._system.barrier()
        reset_peak()
        joined = resident()
        self._system.allreduce(self._buffer, dtype, op)
        reading = MemoryReading(self._buffer.nbytes, self._before, self._loaded, joined, resident())
        self._prepare(1, dtype, op)
        return reading


def serve(connection: Connection) -> None:
    """Join, then answer commands until `Stop` or until the parent is gone. A failure is answered, then ends it."""

    def next_command() -> Any:
        try:
            return connection.recv()
        except EOFError:
            return rank_protocol.Stop()  # the parent has died or given up: so do we

    try:
        timed_table(element_type("float32"), "sum", 0, 1)  # numpy's own lazy parts are not the system's
        before = resident()
        join = next_command()
        if isinstance(join, rank_protocol.Stop):
            return
        system = load(join.system)
        loaded = resident()
        system.open(join.place)
        rank = Rank(system, join.place, before, loaded)
        connection.send(rank_protocol.Ready(system.describe()))
        while not isinstance(command := next_command(), rank_protocol.Stop):
            connection.send(rank.answer(command))
        system.close()
    except Exception as error:
        trace = "" if isinstance(error, SwitchMLError) else "\n" + traceback.format_exc()
        with contextlib.suppress(OSError):  # nobody listens any more
            connection.send(rank_protocol.Failure(type(error).__name__, str(error), trace))


def _end_with(link: socket.socket) -> None:
    """End this process when the other end of `link` is closed, whatever the rank does then."""
    poll = select.poll()
    poll.register(link, select.POLLRDHUP)

    def watch() -> None:
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    """Serve the parent whose Unix socket the first argument names; the second is the rank ("mpi" = Open MPI's number)."""
    parent, rank = sys.argv[1:]
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.connect(parent)
    _end_with(link)
    connection = Connection(link.detach())
    connection.send(
        rank_protocol.Hello(int(os.environ["OMPI_COMM_WORLD_RANK"] if rank == "mpi" else rank), os.getpid())
    )
    serve(connection)
    connection.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # Libraries under test leave threads that may abort an orderly exit of the interpreter; all is done here.
    os._exit(0)


if __name__ == "__main__":
    main()
