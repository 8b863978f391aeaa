"""An MPI through mpi4py, over shared memory or TCP. Its ranks poll while they wait inside a call."""

from __future__ import annotations

from typing import Any

import mpi4py

mpi4py.rc.threads = False  # the cheapest locking: one thread calls MPI

from mpi4py import MPI  # noqa: E402 - after the setting above

from switchml.bench.systems.catalogue import Place  # noqa: E402
from switchml.bench.timed_collectives import ROOT  # noqa: E402
from switchml.bench.verification import Array  # noqa: E402
from switchml.errors import UsageError  # noqa: E402

_OPERATIONS = {
    "sum": MPI.SUM,
    "prod": MPI.PROD,
    "min": MPI.MIN,
    "max": MPI.MAX,
    "band": MPI.BAND,
    "bor": MPI.BOR,
    "bxor": MPI.BXOR,
}


class MpiRank:
    """One rank of MPI_COMM_WORLD."""

    def open(self, place: Place) -> None:
        """Check that the ranks, which mpiexec has joined already, are as many as asked for.

        Raises:
            UsageError: they are not.
        """
        self._world = MPI.COMM_WORLD
        if self._world.size != place.world_size or self._world.rank != place.rank:
            raise UsageError(f"mpiexec made rank {self._world.rank} of {self._world.size}")
        self._world.Barrier()

    def allreduce(self, buffer: Array, dtype: str, op: str) -> None:
        """Reduce in place."""
        self._world.Allreduce(MPI.IN_PLACE, buffer, _OPERATIONS[op])

    def collective(self, name: str, given: Array, taken: Array, dtype: str, op: str) -> None:
        """See `System`."""
        world = self._world
        match name:
            case "broadcast":
                world.Bcast(given, ROOT)
            case "reduce":
                own = MPI.IN_PLACE if world.rank == ROOT else given
                world.Reduce(own, given if world.rank == ROOT else None, _OPERATIONS[op], ROOT)
            case "all_gather":
                world.Allgather(given, taken)
            case "reduce_scatter":
                world.Reduce_scatter_block(given, taken, _OPERATIONS[op])
            case "all_to_all":
                world.Alltoall(given, taken)
            case _:
                raise UsageError(f"there is no {name} here")

    def barrier(self) -> None:
        """MPI's own."""
        self._world.Barrier()

    def error_bound(self) -> float:
        """MPI adds floating-point numbers."""
        return 0.0

    def counters(self) -> dict[str, int]:
        """MPI counts nothing that could be asked for here."""
        return {}

    def describe(self) -> dict[str, Any]:
        """The library's own words, first line."""
        return {"mpi": MPI.Get_library_version().split(",")[0], "mpi4py": mpi4py.__version__}

    def close(self) -> None:
        """MPI_Finalize."""
        MPI.Finalize()
