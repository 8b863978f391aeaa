"""Who started this process, as which rank of how many, and where the ranks meet: what torchrun, MPI and Slurm leave to know."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from switchml.errors import UsageError

if TYPE_CHECKING:
    from mpi4py import MPI

_LOOPBACK = "127.0.0.1"
_PORT = 29500  # torch's own default
_PORTS = 1000
_SCONTROL_SECONDS = 30.0


@dataclass(frozen=True)
class Launcher:
    """What starts ranks.

    Attributes:
        name: what people call it.
        rank: variable that numbers the ranks.
        size: variable with their number.
        mpi: it is an MPI's.
        numbers_others: `rank` is set as well for processes that are no ranks, so it says nothing without `size`.
    """

    name: str
    rank: str
    size: str
    mpi: bool = False
    numbers_others: bool = False


LAUNCHERS = (
    Launcher("torchrun", "RANK", "WORLD_SIZE"),
    Launcher("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", mpi=True),
    Launcher("MPICH or Intel MPI", "PMI_RANK", "PMI_SIZE", mpi=True),
    # A batch script has the first one too; the second only comes from srun.
    Launcher("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", numbers_others=True),
)
"""The first that says something counts: torchrun and MPI are often started by Slurm."""


@dataclass(frozen=True)
class Started:
    """This process as a rank.

    Attributes:
        launcher: what started it.
        rank: its number.
        size: number of ranks.
    """

    launcher: Launcher
    rank: int
    size: int


def started_by(environment: Mapping[str, str]) -> Started | None:
    """The rank that this process is; None where no launcher started it.

    Raises:
        UsageError: a launcher's variables are there in part, or are no rank of so many.
    """
    for launcher in LAUNCHERS:
        rank, size = (environment.get(name, "").strip() for name in (launcher.rank, launcher.size))
        if not size and (launcher.numbers_others or not rank):
            continue
        if not (rank and size):
            there, missing = (launcher.rank, launcher.size) if rank else (launcher.size, launcher.rank)
            raise UsageError(
                f"{there} is set and {missing} is not: {launcher.name} sets both for each of its ranks; set it too, or unset "
                f"{there} for a process that is none of them"
            )
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
            raise UsageError(f"{launcher.rank}={rank} and {launcher.size}={size} are no rank of so many")
        return Started(launcher, int(rank), int(size))
    return None


def mpi_variable(environment: Mapping[str, str]) -> str:
    """The variable that numbers the ranks of the MPI that started this process, whatever else did before it.

    Raises:
        UsageError: none did.
    """
    for launcher in LAUNCHERS:
        if launcher.mpi and launcher.rank in environment:
            return launcher.rank
    raise UsageError("no MPI has started this process: mpiexec does")


def meeting_place(started: Started, environment: Mapping[str, str]) -> tuple[str, int]:
    """Address and port at which rank 0 waits for the others, the same on all ranks.

    MPI's ranks ask each other, through mpi4py, and rank 0's MASTER_ADDR and MASTER_PORT count. Others take these, or the first
    host of Slurm's step.

    Raises:
        UsageError: it cannot be told; says what to set.
    """
    reason = ""
    if started.launcher.mpi:
        world, reason = _mpi_world(started)
        if world is not None:
            return mpi_meeting_place(world, environment)
    host = environment.get("MASTER_ADDR", "").strip()
    if host:
        return host, _port(environment, _PORT)
    if environment.get("SLURM_STEP_NUM_TASKS", "") == str(started.size):  # srun speaks PMI as well
        return _by_slurm(environment)
    if reason:
        raise UsageError(
            f"{started.launcher.name} started this rank, and {reason}; or give all ranks MASTER_ADDR, an address of rank 0's host"
        )
    raise UsageError(
        f"{started.launcher.rank} and {started.launcher.size} are set and MASTER_ADDR is not: set it to an address of rank 0's "
        f"host (and MASTER_PORT to a free port there), as {started.launcher.name} does"
    )


def _port(environment: Mapping[str, str], otherwise: int) -> int:
    port = environment.get("MASTER_PORT", "").strip()
    if port and not port.isdecimal():
        raise UsageError(f"MASTER_PORT={port} is no port")
    return int(port or otherwise)


def _mpi_world(started: Started) -> tuple[MPI.Intracomm | None, str]:
    """All ranks, or why mpi4py does not know them."""
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"  # one thread calls MPI: the cheapest locking beside other threads
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return (
            None,
            f"mpi4py, which asks it where the ranks meet, is not to be had ({error}): pip install mpi4py",
        )
    if MPI.COMM_WORLD.size == started.size:
        return MPI.COMM_WORLD, ""
    library = MPI.Get_library_version().split(",")[0].strip()
    return None, f"mpi4py loads another MPI ({library}): start the ranks with that one's mpiexec"


def mpi_meeting_place(world: MPI.Intracomm, environment: Mapping[str, str]) -> tuple[str, int]:
    """Where rank 0 listens: MASTER_ADDR and MASTER_PORT as it has them, else its address, and a port that is free there now.

    Called by all ranks; the same result on all.

    Raises:
        UsageError: the name of rank 0's host leads to no address that other hosts reach.
    """
    from mpi4py import MPI

    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    place: tuple[str, int] = "", 0
    if world.rank == 0:
        own = _LOOPBACK if node.size == world.size else _address_of(socket.gethostname())
        with socket.socket() as probe:
            probe.bind(("", 0))
            free = int(probe.getsockname()[1])
        place = environment.get("MASTER_ADDR", "").strip() or own, _port(environment, free)
    place = world.bcast(place)
    node.Free()
    if not place[0]:
        raise UsageError(
            "the name of rank 0's host leads to no address that other hosts reach: give rank 0 MASTER_ADDR, one that they do"
        )
    return place


def _address_of(name: str) -> str:
    """IPv4 address; "" for none, and for one that leads back to who asks."""
    try:
        found = socket.gethostbyname(name)
    except OSError:
        return ""
    return "" if ipaddress.ip_address(found).is_loopback else found


def _by_slurm(environment: Mapping[str, str]) -> tuple[str, int]:
    numbers = [environment.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    own = _PORT + sum(int(number) for number in numbers if number.isdecimal()) % _PORTS
    port = _port(environment, own)
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    if environment.get("SLURM_STEP_NUM_NODES") == "1":
        return _LOOPBACK, port
    if not nodes or shutil.which("scontrol") is None:
        missing = "scontrol is not to be had" if nodes else "SLURM_STEP_NODELIST is not set"
        raise UsageError(
            f"Slurm started this rank, and {missing}, so the first host is not known: give all ranks MASTER_ADDR, its address"
        )
    said = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=_SCONTROL_SECONDS
    )
    first, *_ = said.stdout.split() or [""]
    if not first:
        raise UsageError(
            f"scontrol names no host of {nodes} ({said.stderr.strip()}): give all ranks MASTER_ADDR, rank 0's"
        )
    return first, port
