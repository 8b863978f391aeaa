"""All ranks of one system: started once, kept asleep while others are measured, ended without leftovers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import override

from switchml.bench import rank_protocol
from switchml.bench.systems.catalogue import Entry, Place
from switchml.bench.systems.mpi_installations import installation_of
from switchml.closing import Closing
from switchml.errors import BenchError
from switchml.testbed.namespace import Namespace

START_SECONDS = 120.0
LEAVE_SECONDS = 5.0
TROUBLE_SECONDS = 0.3
_SHOWN = 3000  # characters of a failed group's output


class RankGroup(Closing):
    """The ranks of one system, joined. A context manager.

    Attributes:
        entry: the system.
        name: its name.
        world_size: number of ranks.
        facts: what rank 0 says of the system: versions, transport in use.
    """

    def __init__(
        self,
        entry: Entry,
        world_size: int,
        options: dict[str, Any],
        *,
        namespaces: Sequence[Namespace] = (),
        interface: str = "lo",
        each: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Start the ranks and let them join.

        Args:
            entry: the system.
            world_size: number of ranks.
            options: of the system.
            namespaces: one for each rank, or none for this process's own.
            interface: the network interface that leads to the other ranks.
            each: further options, one mapping a rank; or none.

        Raises:
            BenchError: a rank fails, dies or is not there in time.
            UsageError: its MPI is not installed.
        """
        self.entry = entry
        self.name = entry.name
        self.world_size = world_size
        self.facts: dict[str, Any] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="switchml-bench-"))
        self._log = (self._folder / "log").open("wb")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pidfds: dict[int, int] = {}  # rank -> descriptor: a signal can then hit no other process
        self._connections: dict[int, Connection] = {}
        try:
            self._start([{**options, **more} for more in each or [{}] * world_size], namespaces, interface)
        except BaseException:
            self._broken = True
            self.close()
            raise
        self._broken = False

    def _start(
        self, options: Sequence[dict[str, Any]], namespaces: Sequence[Namespace], interface: str
    ) -> None:
        deadline = time.monotonic() + START_SECONDS
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(self._folder / "parent"))
            listener.listen(self.world_size)
            command = [sys.executable, "-P", "-m", "switchml.bench.rank", str(self._folder / "parent")]
            if self.entry.mpi is not None:
                mpi = installation_of(self.entry.mpi)
                start = [mpi.mpiexec, *self.entry.mpi_options, "-n", str(self.world_size)]
                self._spawn(None, [*start, *command, "mpi"], mpi.environment)
            else:
                for rank in range(self.world_size):
                    self._spawn(namespaces[rank] if namespaces else None, [*command, str(rank)])
            while len(self._connections) < self.world_size:
                self._accept(listener, deadline)
        for rank, connection in self._connections.items():
            place = Place(rank, self.world_size, str(self._folder), interface, options[rank])
            self._send(rank, connection, rank_protocol.Join(self.entry.rank, place))
        self.facts = self._collect(deadline, "Join")[0].facts

    def _spawn(
        self, namespace: Namespace | None, argv: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        start = namespace.popen if namespace is not None else subprocess.Popen
        self._processes.append(
            start(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={
                    **os.environ,
                    "TMPDIR": str(self._folder),
                    **self.entry.environment,
                    **(environment or {}),
                },
                start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the ranks in order
            )
        )

    def _accept(self, listener: socket.socket, deadline: float) -> None:
        with _watched(self._processes) as watched:
            found = wait([listener, *watched], max(0.0, deadline - time.monotonic()))
        if listener not in found:
            raise self._failed("ended before they joined" if found else "did not start in time")
        link, _ = listener.accept()
        connection = Connection(link.detach())
        if not connection.poll(max(0.0, deadline - time.monotonic())):
            connection.close()
            raise self._failed("did not start in time")
        try:
            hello = connection.recv()
            self._pidfds[hello.rank] = os.pidfd_open(hello.pid)
        except (EOFError, ProcessLookupError):
            connection.close()
            raise self._failed("ended before they joined") from None
        self._connections[hello.rank] = connection

    @property
    def pids(self) -> list[int]:
        """Processes started, by rank; mpiexec alone for an MPI."""
        return [process.pid for process in self._processes]

    def ask(self, command: Any, timeout: float) -> list[Any]:
        """Have every rank carry out a command.

        Args:
            command: one of `rank_protocol`.
            timeout: seconds.

        Returns:
            The answers, by rank.

        Raises:
            BenchError: a rank fails, dies or does not answer in time.
        """
        self.begin(command)
        return self.end(command, timeout)

    def begin(self, command: Any) -> None:
        """The first half of `ask`, which does not wait: until `end`, other groups can be asked as well.

        Raises:
            BenchError: a rank has died.
        """
        for rank, connection in self._connections.items():
            self._send(rank, connection, command)

    def end(self, command: Any, timeout: float) -> list[Any]:
        """The second half of `ask`. Arguments, answers and errors as there."""
        return self._collect(time.monotonic() + timeout, type(command).__name__)

    def counters(self, timeout: float) -> dict[str, int]:
        """What the system counted since it was opened, summed over ranks. Raises as `ask` does."""
        total: Counter[str] = Counter()
        for counters in self.ask(rank_protocol.Counters(), timeout):
            total.update(counters)
        return dict(total)

    def _send(self, rank: int, connection: Connection, command: Any) -> None:
        try:
            connection.send(command)
        except OSError:
            raise self._failed(f"lost rank {rank}") from None

    def _collect(self, deadline: float, what: str) -> list[Any]:
        answers: dict[int, Reply | None] = {}
        ranks = {connection: rank for rank, connection in self._connections.items()}
        troubled = False
        while len(answers) < self.world_size:
            pending = [connection for connection, rank in ranks.items() if rank not in answers]
            # After a first failure the others get a moment to fail too: the last to notice knows least.
            patience = TROUBLE_SECONDS if troubled else max(0.0, deadline - time.monotonic())
            found = wait(pending, patience)
            if not found:
                break
            for connection in found:
                assert isinstance(connection, Connection)
                answer = _receive(connection)
                answers[ranks[connection]] = answer
                troubled = troubled or answer is None or isinstance(answer.value, rank_protocol.Failure)
        lost = [rank for rank, answer in answers.items() if answer is None]
        if lost:
            raise self._failed(f"lost rank {lost[0]} ({what})")
        values = {rank: answer.value for rank, answer in answers.items() if answer is not None}
        failures = [(rank, one) for rank, one in values.items() if isinstance(one, rank_protocol.Failure)]
        if failures:
            self._broken = True
            # One without a trace is a typed error, which says most.
            rank, failure = min(failures, key=lambda pair: pair[1].trace != "")
            raise BenchError(f"{self.name}, rank {rank}: {failure.kind}: {failure.text}{failure.trace}")
        if len(answers) < self.world_size:
            silent = sorted(set(ranks.values()) - set(answers))
            raise self._failed(f"got no answer from ranks {silent} in time ({what})")
        return [values[rank] for rank in range(self.world_size)]

    def _failed(self, what: str) -> BenchError:
        self._broken = True
        self._log.flush()
        said = (self._folder / "log").read_text(errors="replace")[-_SHOWN:].strip()
        return BenchError(f"{self.name}, {self.world_size} workers: {what}; they said: {said or '(nothing)'}")

    def close(self) -> None:
        """Ask the ranks to leave and make sure that they are gone. Idempotent."""
        if not self._broken:
            for connection in self._connections.values():
                with contextlib.suppress(OSError):
                    connection.send(rank_protocol.Stop())
            self._wait(LEAVE_SECONDS)
        for connection in self._connections.values():
            connection.close()
        for ending in (signal.SIGTERM, signal.SIGKILL):
            for process in self._processes:
                if process.poll() is None:
                    process.send_signal(ending)
            for pidfd in self._pidfds.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, ending)
            if self._wait(LEAVE_SECONDS):
                break
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._connections.clear()
        self._pidfds.clear()
        self._broken = True
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self, timeout: float) -> bool:
        """Whether all processes ended within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return False
        return all(wait([pidfd], max(0.0, deadline - time.monotonic())) for pidfd in self._pidfds.values())

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._broken = True
        super().__exit__(kind, error, trace)


@dataclass(frozen=True)
class Reply:
    """An answer in an envelope: "no answer" (the rank is gone) is None, an answer of None is not."""

    value: Any


def _receive(connection: Connection) -> Reply | None:
    try:
        return Reply(connection.recv())
    except (EOFError, ConnectionError):
        return None


@contextlib.contextmanager
def _watched(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Descriptors that become readable when a process ends."""
    with contextlib.ExitStack() as stack:
        descriptors = []
        for process in processes:
            descriptor = os.pidfd_open(process.pid)
            stack.callback(os.close, descriptor)
            descriptors.append(descriptor)
        yield descriptors
