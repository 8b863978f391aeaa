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
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from switchml.bench import rank_protocol
from switchml.bench.collective_data import expected_pieces, fill_given
from switchml.bench.rank_protocol import MemoryReading, Resident
from switchml.bench.systems.catalogue import Place, System, load
from switchml.bench.timed_collectives import COLLECTIVES
from switchml.bench.verification import (
    PERIOD,
    Array,
    Verdict,
    element_type,
    table,
    timed_table,
    verify,
)
from switchml.errors import SwitchMLError
from switchml.launchers import mpi_variable
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
        self._collective = COLLECTIVES["allreduce"]
        self._given: Array = np.empty(0, np.float32)
        self._taken = self._given
        self._timed: Array = np.empty(0, np.float32)
        self._dtype = "float32"
        self._op = "sum"

    def answer(self, command: Any) -> Any:
        """The answer to one command other than `Stop`."""
        match command:
            case rank_protocol.Prepare(count, dtype, op, collective):
                return self._prepare(count, dtype, op, collective)
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

    def _prepare(self, count: int, dtype: str, op: str, collective: str = "allreduce") -> None:
        kind = element_type(dtype)
        self._dtype, self._op, self._collective = dtype, op, COLLECTIVES[collective]
        self._given = self._taken = np.empty(0, kind.storage)  # lets the old one go before the new one comes
        self._given = np.empty(self._elements(self._collective.given, count), kind.storage)
        self._taken = self._given
        if not self._collective.in_place:
            self._taken = np.zeros(self._elements(self._collective.taken, count), kind.storage)
        self._timed = timed_table(kind, op, self._place.rank, self._place.world_size)
        self._fill(self._timed)

    def _elements(self, share: str, count: int) -> int:
        number, length = self._collective.pieces(share, count, self._place.world_size)
        return number * length

    def _fill(self, stored: Array) -> None:
        fill_given(self._collective, self._given, stored, self._place.world_size)

    def _act(self) -> Callable[[], None]:
        """The collective, once."""
        if self._collective.name == "barrier":
            return self._system.barrier
        if self._collective.name == "allreduce":
            return partial(self._system.allreduce, self._given, self._dtype, self._op)
        name = self._collective.name
        return partial(self._system.collective, name, self._given, self._taken, self._dtype, self._op)

    def _batch(self, iterations: int, refill: int) -> float:
        act = self._act()
        seconds = 0.0
        while iterations > 0:
            self._fill(self._timed)
            self._system.barrier()
            started = time.perf_counter()
            for _ in range(min(iterations, refill)):
                act()
            seconds += time.perf_counter() - started
            iterations -= refill
        return seconds

    def _timeline(self, iterations: int, refill: int) -> list[float]:
        act = self._act()
        moments: list[float] = []
        for number in range(iterations):
            if number % refill == 0:
                self._fill(self._timed)
                self._system.barrier()
            moments = moments or [time.monotonic()]
            act()
            moments.append(time.monotonic())
        return moments

    def _check(self) -> Verdict:
        kind, collective = element_type(self._dtype), self._collective
        rank, size = self._place.rank, self._place.world_size
        verdict = Verdict(0, 0, 0.0)
        # What is only moved must arrive with all its bits; sums are known exactly of small integers alone.
        mantissas = (False, True) if collective.reduces else (True,)
        for rounded in mantissas if kind.floating and self._op in ("sum", "avg") else (False,):
            self._fill(table(kind, self._op, rank, size, rounded=rounded))
            self._act()()
            bound = self._system.error_bound() if collective.reduces else 0.0
            narrow = self._place.options.get("wire", FLOAT32) != FLOAT32
            expected = expected_pieces(collective, kind, self._op, rank, size, rounded=rounded)
            for piece, taken in zip(expected, np.split(self._taken, max(1, len(expected))), strict=False):
                tolerance = piece.tolerance(size, rounded=rounded or narrow, op=self._op, block_bound=bound)
                verdict += verify(taken, piece, tolerance if collective.reduces else np.zeros(PERIOD))
        return verdict

    def _measure_memory(self, count: int, dtype: str, op: str, warm_up: int) -> MemoryReading:
        self._prepare(warm_up, dtype, op)
        for _ in range(3):
            self._system.allreduce(self._given, dtype, op)
        self._prepare(count, dtype, op)
        gc.collect()
        self._system.barrier()
        reset_peak()
        joined = resident()
        self._system.allreduce(self._given, dtype, op)
        reading = MemoryReading(self._given.nbytes, self._before, self._loaded, joined, resident())
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
    """Serve the parent whose Unix socket the first argument names; the second is the rank ("mpi" = the MPI's number)."""
    parent, rank = sys.argv[1:]
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.connect(parent)
    _end_with(link)
    connection = Connection(link.detach())
    connection.send(
        rank_protocol.Hello(int(os.environ[mpi_variable(os.environ)] if rank == "mpi" else rank), os.getpid())
    )
    serve(connection)
    connection.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # Libraries under test leave threads that may abort an orderly exit of the interpreter; all is done here.
    os._exit(0)


if __name__ == "__main__":
    main()
