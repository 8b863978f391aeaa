"""switchml's own worker library against a running switch."""

from __future__ import annotations

from typing import Any

from switchml.bench.systems.catalogue import Place
from switchml.bench.timed_collectives import ROOT
from switchml.bench.verification import Array
from switchml.errors import BenchError, UsageError
from switchml.worker import Worker


class SwitchML:
    """One rank of a job.

    Options: switch, token, job, transport, multicast (True, False or None = as it comes), payload, window, wire, timeout.
    """

    def open(self, place: Place) -> None:
        """Join the job.

        Raises:
            BenchError: the transport asked for was not granted.
        """
        options = place.options
        multicast = options["multicast"]
        self._worker = Worker.join(
            options["switch"],
            job=options["job"],
            rank=place.rank,
            world_size=place.world_size,
            transport=options["transport"],
            payload=options["payload"],
            window=options["window"],
            wire=options["wire"],
            token=options["token"],
            timeout=options["timeout"],
            multicast=multicast is not False,
        )
        self._bound = 0.0
        if multicast and place.world_size > 1 and not self._worker.multicast:
            self._worker.leave()
            raise BenchError(
                "multicast was asked for, and not every worker can receive it here: choose udp-unicast"
            )

    def allreduce(self, buffer: Array, dtype: str, op: str) -> None:
        """Reduce in place."""
        kind = dtype if dtype == "bfloat16" else None
        work = self._worker.allreduce(buffer, op, dtype=kind, notify=False)
        work.wait()
        self._last = work

    def collective(self, name: str, given: Array, taken: Array, dtype: str, op: str) -> None:
        """See `System`."""
        worker, kind = self._worker, dtype if dtype == "bfloat16" else None
        match name:
            case "broadcast":
                work = worker.broadcast(given, ROOT, notify=False)
            case "reduce":
                work = worker.reduce(given, ROOT, op, dtype=kind, notify=False)
            case "all_gather":
                work = worker.allgather(given, out=taken.reshape(worker.world_size, -1), notify=False)
            case "reduce_scatter":
                rows = given.reshape(worker.world_size, -1)
                work = worker.reduce_scatter(rows, op, out=taken, dtype=kind, notify=False)
            case _:
                raise UsageError(f"our library has no {name}")
        work.wait()
        self._last = work

    def barrier(self) -> None:
        """The switch's."""
        self._worker.barrier(notify=False).wait()

    def error_bound(self) -> float:
        """As the library reports it for the last reduction."""
        return self._last.error_bound()

    def counters(self) -> dict[str, int]:
        """The worker's."""
        return self._worker.counters()

    def describe(self) -> dict[str, Any]:
        """What the switch granted."""
        return {
            "transport": self._worker.transport,
            "multicast": self._worker.multicast,
            "payload": self._worker.payload,
            "window": self._worker.window,
            "wire": self._worker.wire,
        }

    def close(self) -> None:
        """Leave the job."""
        self._worker.leave()
