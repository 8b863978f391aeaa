"""A script's ranks, each a host of its own on links of chosen speed: what torchrun is to real hosts.

The ranks find each other, the switch and their interface by environment variables, so any script that torchrun can start will do.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from switchml.bench.allreduce import Network, Plan
from switchml.errors import BenchError, UsageError
from switchml.testbed.namespace import Namespace

LINK_RATE = "TESTBED_RATE"
"""The variable that tells a script its links' rate in bits a second; not set where they have none."""
_PORT = 29500  # of a rank's own namespace
_LEAVE_SECONDS = 10.0
_SHOWN = 3000  # characters of a failed rank's output


def run_script(
    script: Path, arguments: Sequence[str], plan: Plan, transport: str = "auto", *, shown: bool = True
) -> None:
    """Run a script to its end on the plan's network, as many ranks as it has workers. Leaves no process behind.

    What rank 0 says is shown; what the others say, if they fail.

    Args:
        script: the program's file.
        arguments: of every rank.
        plan: workers (one number), network, switches, and how our backend uses them.
        transport: of our backend. On links of a testbed "auto" means "udp".
        shown: whether that of rank 0 is; otherwise it is as the others.

    Raises:
        UsageError: there is no such script, or no such network can be built here.
        BenchError: a rank has failed, or they do not end in time.
    """
    if not script.is_file():
        raise UsageError(f"{script}: no such script; name one, or go to the folder that has it")
    (workers,) = plan.workers
    with contextlib.ExitStack() as stack:
        network = Network.build(plan, workers, stack)
        address, token = network.start_switches(plan, stack)
        environment = {
            "MASTER_ADDR": network.addresses[0],
            "MASTER_PORT": str(_PORT if network.namespaces else _free_port()),
            "WORLD_SIZE": str(workers),
            "LOCAL_WORLD_SIZE": str(1 if network.namespaces else workers),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": network.interface,
            "SWITCHML_SWITCH": address,
            "SWITCHML_TOKEN": token,
            "SWITCHML_TRANSPORT": "udp" if network.namespaces and transport == "auto" else transport,
            "SWITCHML_WIRE": plan.wire,
            "SWITCHML_QUIET": "1",
        }
        if plan.shape is not None and plan.shape.rate:
            environment[LINK_RATE] = str(plan.shape.rate)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="switchml-script-")))
        ranks: list[subprocess.Popen[Any]] = []
        stack.callback(_end, ranks)
        for rank in range(workers):
            where = {"RANK": str(rank), "LOCAL_RANK": str(0 if network.namespaces else rank)}
            said = stack.enter_context((folder / str(rank)).open("wb"))
            namespace = network.namespaces[rank] if network.namespaces else None
            program = [str(script), *arguments]
            ranks.append(
                _start(
                    program, namespace, os.environ | environment | where, said if rank or not shown else None
                )
            )
        _wait(ranks, script, folder, time.monotonic() + plan.timeout)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _start(
    program: list[str], namespace: Namespace | None, environment: dict[str, str], said: IO[bytes] | None
) -> subprocess.Popen[Any]:
    command = [sys.executable, "-P", "-m", "switchml.bench.script_rank", *program]
    start = namespace.popen if namespace is not None else subprocess.Popen
    output = None if said is None else subprocess.STDOUT
    return start(command, stdin=subprocess.PIPE, stdout=said, stderr=output, env=environment)


def _wait(ranks: list[subprocess.Popen[Any]], script: Path, folder: Path, deadline: float) -> None:
    with contextlib.ExitStack() as stack:
        running = {}
        for rank, process in enumerate(ranks):
            descriptor = os.pidfd_open(process.pid)
            stack.callback(os.close, descriptor)
            running[descriptor] = rank
        while running:
            ended = set(wait(list(running), max(0.0, deadline - time.monotonic())))
            if not ended:
                silent = sorted(running.values())
                raise BenchError(f"{script.name}: ranks {silent} did not end in time; give it more --timeout")
            for descriptor in [one for one in running if one in ended]:
                rank = running.pop(descriptor)
                code = ranks[rank].wait()
                if code:
                    said = (folder / str(rank)).read_text(errors="replace")[-_SHOWN:].strip()
                    raise BenchError(
                        f"{script.name}: rank {rank} ended with code {code}; it said: {said or '(see above)'}"
                    )


def _end(ranks: list[subprocess.Popen[Any]]) -> None:
    deadline = time.monotonic() + _LEAVE_SECONDS
    for process in ranks:
        if process.stdin is not None:
            process.stdin.close()  # the rank ends at that, if it has not yet
    for process in ranks:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
