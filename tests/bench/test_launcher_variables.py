"""What launchers leave in the environment, and where their ranks meet."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from switchml.errors import UsageError
from switchml.launchers import meeting_place, mpi_meeting_place, started_by

SLURM = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "2007", "SLURM_STEP_ID": "5"}


@pytest.mark.parametrize(
    ("environment", "launcher", "rank", "size"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "torchrun", 1, 2),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}, "Open MPI", 0, 3),
        ({"PMI_RANK": "2", "PMI_SIZE": "3", "SLURM_PROCID": "0"}, "MPICH or Intel MPI", 2, 3),
        (SLURM, "Slurm", 1, 4),
        ({**SLURM, "RANK": "0", "WORLD_SIZE": "8"}, "torchrun", 0, 8),
    ],
)
def test_a_launcher_is_known_by_its_variables(
    environment: dict[str, str], launcher: str, rank: int, size: int
) -> None:
    started = started_by(environment)
    assert started is not None
    assert (started.launcher.name, started.rank, started.size) == (launcher, rank, size)


@pytest.mark.parametrize(
    "environment",
    [{}, {"RANK": " ", "WORLD_SIZE": ""}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}],
    ids=["none", "empty", "Slurm's batch script"],
)
def test_no_launcher(environment: dict[str, str]) -> None:
    assert started_by(environment) is None


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "0"}, "RANK is set and WORLD_SIZE is not: torchrun sets both"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set and RANK is not"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK is not: Open MPI"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID is not"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 and WORLD_SIZE=2 are no rank of so many"),
        ({"RANK": "first", "WORLD_SIZE": "2"}, "no rank"),
    ],
)
def test_variables_in_part_are_an_error(environment: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        started_by(environment)


def place(environment: dict[str, str]) -> tuple[str, int]:
    started = started_by(environment)
    assert started is not None
    return meeting_place(started, environment)


def test_ranks_meet_where_the_variables_say() -> None:
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"}
    assert place({**torchrun, "MASTER_PORT": "1234"}) == ("10.0.0.1", 1234)
    assert place(torchrun) == ("10.0.0.1", 29500)
    assert place({**SLURM, "MASTER_ADDR": "10.0.0.1"}) == ("10.0.0.1", 29500)
    with pytest.raises(UsageError, match="MASTER_ADDR is not: set it"):
        place({"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(UsageError, match="MASTER_PORT=http is no port"):
        place({**torchrun, "MASTER_PORT": "http"})


def test_slurms_ranks_meet_on_the_first_host_of_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place({**SLURM, "SLURM_STEP_NUM_NODES": "1"}) == ("127.0.0.1", 29500 + 2012 % 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    nodes = {**SLURM, "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "node[07-08]"}
    with pytest.raises(UsageError, match="scontrol is not to be had"):
        place(nodes)
    with pytest.raises(UsageError, match="SLURM_STEP_NODELIST is not set"):
        place(SLURM)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[07-08]" ] && echo node07 && echo node08\n')
    scontrol.chmod(0o755)
    assert place(nodes) == ("node07", 29512)
    assert place({**nodes, "MASTER_PORT": "4000"}) == ("node07", 4000)
    scontrol.write_text("#!/bin/sh\necho no such job >&2\nexit 1\n")
    with pytest.raises(UsageError, match=r"names no host of node.*no such job"):
        place(nodes)


class _World:
    """MPI's ranks, as far as they are asked; this one is rank 0."""

    rank = 0

    def __init__(self, size: int, here: int) -> None:
        self.size, self._here = size, here

    def Split_type(self, _: int) -> _World:
        return _World(self._here, self._here)

    def Free(self) -> None:
        return

    def bcast(self, place: tuple[str, int]) -> tuple[str, int]:
        return place


def test_mpis_ranks_meet_at_rank_0s_address(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real one would begin MPI in this process.
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=SimpleNamespace(COMM_TYPE_SHARED=0)))
    host, port = mpi_meeting_place(_World(2, 2), {})  # type: ignore[arg-type]
    assert host == "127.0.0.1"
    assert 0 < port < 65536
    several = _World(4, 2)
    monkeypatch.setattr(socket, "gethostbyname", lambda _: "10.0.0.7")
    assert mpi_meeting_place(several, {"MASTER_PORT": "9"}) == ("10.0.0.7", 9)  # type: ignore[arg-type]
    assert mpi_meeting_place(several, {"MASTER_ADDR": "a", "MASTER_PORT": "9"}) == ("a", 9)  # type: ignore[arg-type]
    monkeypatch.setattr(socket, "gethostbyname", lambda _: "127.0.1.1")
    with pytest.raises(UsageError, match="give rank 0 MASTER_ADDR"):
        mpi_meeting_place(several, {})  # type: ignore[arg-type]
