"""`SWITCHML_LOG=collectives`: each collective of a rank on standard error, and a summary by kind when the program ends.

A process group that is not logged has nothing of it: one that is, is of another class.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from typing_extensions import override

from switchml.control.exits import Stage, close_at_exit
from switchml.telemetry.terminal_view import duration, quantity
from switchml.torch_backend.agreement import Agreement, Said
from switchml.torch_backend.kept_handles import KeptHandle
from switchml.torch_backend.logged_call import LoggedCall
from switchml.torch_backend.observation import TITLES
from switchml.torch_backend.process_group import SwitchProcessGroup
from switchml.torch_backend.routing import ROUTES_OF, Path
from switchml.torch_backend.switch_work import SwitchWork
from switchml.torch_backend.untraced import untraced
from switchml.variables import LOG_ALL_RANKS, LOG_COLLECTIVES, LOG_SUMMARY, log_words

_ROWS = 30  # of a summary; the rest is one more
_PATIENCE = 2.0  # seconds for standard error to take the last lines
_BETWEEN_TWO = ("send", "recv", "recv_anysource", "recvAnysource")
_NONE = ("monitored_barrier", "_start_coalescing", "_end_coalescing", "start_coalescing", "end_coalescing")


class Record(NamedTuple):
    """A collective that is over.

    Attributes:
        rank: in its group.
        name: of the operation, as torch calls it.
        size: bytes, of all ranks' parts where they are gathered.
        path: `memory`, `udp`, `shm`, `gloo`, `rows` (sums of sparse tensors) or `-` (a group of one rank).
        seconds: from the call to the end.
        stood: of these, for which the program stood still; None where nobody can tell.
    """

    rank: int
    name: str
    size: int
    path: str
    seconds: float
    stood: float | None

    def line(self) -> str:
        """For the log."""
        return (
            f"switchml: rank {self.rank}: {self.name:<16} {quantity(self.size, 'B'):>8}  {self.path:<6}  "
            f"{duration(self.seconds):>8}  {bandwidth(self.size, self.seconds):>11}  waiting {share(self.stood, self.seconds)}"
        )


def bandwidth(size: int, seconds: float) -> str:
    """Algorithm bandwidth, as nccl-tests count it."""
    return f"{quantity(size / seconds, 'B')}/s" if size and seconds else "-"


def share(part: float | None, whole: float) -> str:
    """In per cent."""
    return "-" if part is None or not whole else f"{min(1.0, part / whole):.0%}"


class OverheardAgreement(Agreement):
    """Keeps what was called last, for who asks."""

    last: tuple[Said, KeptHandle] | None = None

    @override
    def note(self, said: Said, handle: KeptHandle) -> None:
        super().note(said, handle)
        self.last = said, handle


class CollectiveLog:
    """Of one process. Thread-safe.

    Args:
        say: takes a line.
        each: whether every collective is told.
    """

    def __init__(self, say: Callable[[str], None], *, each: bool = True) -> None:
        self._say, self._each = say, each
        self._begun = time.perf_counter()
        self._come: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._totals: dict[tuple[int, str, int, str], list[Any]] = {}
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()

    def take(self, record: Record) -> None:
        """One that is over. It is written by another thread: this one may be the engine's."""
        with self._lock:
            if self._writer is None or not self._writer.is_alive():  # a forked child has none
                self._writer = threading.Thread(target=self._write, name="switchml-log", daemon=True)
                self._writer.start()
        self._come.put(record)

    def _write(self) -> None:
        while (record := self._come.get()) is not None:
            count = self._totals.setdefault(
                (record.rank, record.name, record.size, record.path), [0, 0.0, 0.0]
            )
            count[0] += 1
            count[1] += record.seconds
            count[2] = None if record.stood is None or count[2] is None else count[2] + record.stood
            if self._each:
                self._say(record.line())

    def close(self) -> None:
        """Write the summary. Idempotent."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is None:
            return
        self._come.put(None)
        writer.join(_PATIENCE)
        if writer.is_alive():  # standard error takes nothing; we would wait for it as well
            return
        for rank in sorted({key[0] for key in self._totals}):
            for line in self._summary(rank):
                self._say(line)
        self._totals = {}

    def _summary(self, rank: int) -> Iterable[str]:
        kinds = {key[1:]: tuple(total) for key, total in self._totals.items() if key[0] == rank}
        rows = sorted(kinds.items(), key=lambda each: -each[1][1])
        elapsed = time.perf_counter() - self._begun
        stood = sum(total[2] for _, total in rows if total[2] is not None)
        count = sum(total[0] for _, total in rows)
        unseen = sum(total[0] for _, total in rows if total[2] is None)
        yield (
            f"switchml: rank {rank}: {count:,} collectives in {duration(elapsed)}; the program stood still for them for "
            f"{duration(stood)} ({share(stood, elapsed)})"
            + (f", without the {unseen:,} whose wait nobody sees" if unseen else "")
        )
        yield (
            f"  {'operation':<16} {'bytes':>8}  {'path':<6}  {'count':>7}  {'in all':>8}  {'each':>8}  {'algbw':>11}  waiting"
        )
        for (name, size, path), (count, seconds, waited) in rows[:_ROWS]:
            yield (
                f"  {name:<16} {quantity(size, 'B'):>8}  {path:<6}  {count:>7,}  {duration(seconds):>8}  "
                f"{duration(seconds / count):>8}  {bandwidth(size * count, seconds):>11}  {share(waited, seconds):>7}"
            )
        if len(rows) > _ROWS:
            rest = [total for _, total in rows[_ROWS:]]
            seconds = sum(total[1] for total in rest)
            yield f"  {len(rest):,} more kinds, {sum(total[0] for total in rest):,} collectives, {duration(seconds)} in all"


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


_log: CollectiveLog | None = None


def _of_this_process() -> CollectiveLog:
    global _log
    if _log is None:
        _log = CollectiveLog(_stderr, each=LOG_COLLECTIVES in log_words())
        close_at_exit(Stage.CLIENTS, _log.close)
    return _log


def is_wanted(rank: int) -> bool:
    """Whether the environment asks for that rank's collectives."""
    words = log_words()
    return bool(words & {LOG_COLLECTIVES, LOG_SUMMARY}) and (rank == 0 or LOG_ALL_RANKS in words)


class LoggedProcessGroup(SwitchProcessGroup):
    """A process group whose collectives are logged. Its membership has an `OverheardAgreement`."""

    log: CollectiveLog | None = None
    """Where to; None = this process's."""

    def _logged(self, begin: float, handle: Any) -> Any:
        agreement = self._membership.agreement
        assert isinstance(agreement, OverheardAgreement)
        noted, agreement.last = agreement.last, None
        # Of tensors on a GPU nothing is noted here.
        if noted is not None and noted[1] is handle and isinstance(handle, SwitchWork):
            handle.follow(LoggedCall(noted[0], begin, self._over))
        return handle

    def _over(self, call: LoggedCall) -> None:
        said, membership = call.said, self._membership
        size = 0
        if said.dtype:
            size = said.elements * getattr(torch, said.dtype.removeprefix("torch.")).itemsize
        name = TITLES.get(said.method, said.method)
        if name == "all_gather":
            size *= membership.world_size
        stood = None if call.chained else call.stood
        log = self.log or _of_this_process()
        log.take(Record(membership.rank, name, size, self._path(said.path), call.seconds, stood))

    def _path(self, path: Path) -> str:
        if path is Path.ROWS:
            return "rows"
        if self._membership.world_size == 1:
            return "-"
        carrier: Any = self._gathers if path is Path.BESIDE else self._membership
        carrier = None if path is Path.GLOO or carrier is None else carrier.carrier
        return getattr(carrier, "transport", "") or Path.GLOO.value


def _logged(method: str) -> Callable[..., Any]:
    function = getattr(SwitchProcessGroup, method)

    def call(self: LoggedProcessGroup, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        return self._logged(begin, function(self, *args, **kwargs))

    call.__name__ = method
    call.__doc__ = f"`{method}`, logged."
    return untraced(call)


for _method in ROUTES_OF:
    if _method not in (*_BETWEEN_TWO, *_NONE) and hasattr(SwitchProcessGroup, _method):
        setattr(LoggedProcessGroup, _method, _logged(_method))
