"""Rendezvous over MPI: what torch's launcher would put into the environment, from mpi4py; then the script.

    mpiexec -n 4 python scripts/cluster/mpi_rank.py train.py --epochs 3

The script calls `init_process_group("switchml")` as under torchrun. MASTER_ADDR and MASTER_PORT, where they are set, are kept.
"""

from __future__ import annotations

import os
import runpy
import sys

from mpi4py import MPI

from switchml.launchers import mpi_meeting_place


def main() -> None:
    """Run the training script as one rank, told where the others are."""
    if len(sys.argv) < 2:
        sys.exit("mpi_rank.py SCRIPT [ARGS]...: name the training script")
    world = MPI.COMM_WORLD
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    host, port = mpi_meeting_place(world, os.environ)
    os.environ.update(
        RANK=str(world.rank),
        WORLD_SIZE=str(world.size),
        LOCAL_RANK=str(node.rank),
        LOCAL_WORLD_SIZE=str(node.size),
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
    )
    sys.argv = sys.argv[1:]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            _stop_all(world, end)
        raise
    except BaseException as error:
        _stop_all(world, error)
        raise


def _stop_all(world: MPI.Intracomm, error: BaseException) -> None:
    """The other ranks would wait for this one in MPI's end."""
    sys.excepthook(type(error), error, error.__traceback__)
    sys.stderr.flush()
    world.Abort(1)


if __name__ == "__main__":
    main()
