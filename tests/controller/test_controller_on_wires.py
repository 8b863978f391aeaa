"""`switchml controller` over P4 switches on veth, workers in network namespaces: BMv2's simple_switch_grpc, and the emulator.

    worker namespaces   eth0 (10.85.0.1 + rank)  --  port1, port2, ...
    hub namespace       own (10.85.0.253), where the controller listens  --  port9
                        the switch, on the ports; it has 10.85.0.254

Workers join through the switch as well: their TCP connections to the controller are traffic that it forwards by MAC address.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from switchml.testbed import Namespace, why_unavailable

REASON = why_unavailable()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=f"no network namespaces here: {REASON}"),
    pytest.mark.namespaces,
    pytest.mark.timeout(240),
]

WORKERS = 2
P4RUNTIME = "127.0.0.1:9559"
SWITCH_ADDRESS = "10.85.0.254"
CONTROLLER = "10.85.0.253"
CONTROLLER_PORT = 9  # of the switch
PORTS = [*range(1, WORKERS + 1), CONTROLLER_PORT]
PATIENCE = 90.0

WORKER = """
import json, sys
import numpy as np
from switchml.worker import Worker

address, job, rank, workers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
values = np.random.default_rng(7).standard_normal((workers, 3001)).astype(np.float32)
with Worker.join(address, job=job, rank=rank, world_size=workers, join_timeout=60) as worker:
    mine = values[rank].copy()
    work = worker.allreduce(mine)
    work.wait(60)
    whole = np.arange(1000, dtype=np.int32) * (rank + 1)
    worker.allreduce(whole).wait(60)
    error = float(np.max(np.abs(mine - values.astype(np.float64).sum(axis=0))))
    print(json.dumps({
        "bits": mine.tobytes().hex()[:4096], "error": error, "bound": work.error_bound(), "whole": whole.tolist(),
        "transport": worker.transport, "payload": worker.payload,
    }))
"""


def find_bmv2() -> str | None:
    """simple_switch_grpc: $SWITCHML_BMV2_GRPC, or from PATH."""
    return os.environ.get("SWITCHML_BMV2_GRPC") or shutil.which("simple_switch_grpc")


class Wires:
    """The namespaces, wired up."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.hub = stack.enter_context(Namespace("hub"))
        self.workers = [stack.enter_context(Namespace(f"worker {rank}")) for rank in range(WORKERS)]
        self.hub.call(self._wire)
        for rank, worker in enumerate(self.workers):
            worker.call(_bring_up, "eth0", f"10.85.0.{rank + 1}")
        for port in PORTS:
            self.hub.call(_bring_up, f"port{port}")
        self.hub.call(_bring_up, "own", CONTROLLER)

    def _wire(self) -> None:
        from pyroute2 import IPRoute

        with IPRoute() as route:
            for rank, worker in enumerate(self.workers):
                route.link(
                    "add",
                    ifname=f"port{rank + 1}",
                    kind="veth",
                    peer={"ifname": "eth0", "net_ns_fd": worker.fd},
                )
            route.link("add", ifname=f"port{CONTROLLER_PORT}", kind="veth", peer={"ifname": "own"})


def _bring_up(interface: str, address: str = "") -> None:
    from pyroute2 import IPRoute

    from switchml.testbed.offload import switch_off_offloads

    switch_off_offloads(interface)
    with IPRoute() as route:
        index = route.link_lookup(ifname=interface)[0]
        if address:
            route.addr("add", index=index, address=address, prefixlen=24)
        for ready in (1, index):  # loopback comes first in every namespace
            route.link("set", index=ready, state="up")


def bmv2(ports: list[str]) -> list[str]:
    binary = find_bmv2()
    if binary is None:
        pytest.skip("simple_switch_grpc is neither on PATH nor in SWITCHML_BMV2_GRPC")
    # It takes the flag of its logger only in this place.
    return [
        binary,
        "--no-p4",
        "--log-level",
        "off",
        *ports,
        "--",
        "--grpc-server-addr",
        P4RUNTIME,
        "--cpu-port",
        "510",
    ]


def emulator(ports: list[str]) -> list[str]:
    return [
        *(sys.executable, "-m", "switchml.cli", "switch", "--pipeline", "none", *ports),
        *("--p4runtime-port", P4RUNTIME.rpartition(":")[2]),
    ]


def _await_listener(namespace: Namespace, address: str, process: subprocess.Popen[Any]) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + PATIENCE

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return True
        return False

    while not namespace.call(listens):
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline, f"nothing listens at {address}"
        time.sleep(0.05)


@pytest.fixture(params=[bmv2, emulator])
def wires(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wires]:
    pytest.importorskip(
        "google.rpc.status_pb2",
        reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'",
    )
    command = request.param([word for port in PORTS for word in ("-i", f"{port}@port{port}")])
    with contextlib.ExitStack() as stack:
        wired = Wires(stack)
        log = stack.enter_context((tmp_path / "switch.log").open("wb"))
        switch = wired.hub.popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=tmp_path)
        _await_listener(wired.hub, P4RUNTIME, switch)
        yield wired


@contextlib.contextmanager
def controller(wires: Wires, files: tuple[Path, Path], said: Path) -> Iterator[str]:
    config, described = files
    with said.open("wb") as log:
        process = wires.hub.popen(
            [
                *(sys.executable, "-m", "switchml.cli", "controller", "--target", f"p4runtime://{P4RUNTIME}"),
                *("--data-address", SWITCH_ADDRESS, "--listen", f"{CONTROLLER}:0", "--announce", "-"),
                *("--pipeline", str(config), "--p4info", str(described)),
                *("--ports", ",".join(map(str, PORTS)), "--token", ""),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            line = process.stdout.readline() if process.stdout else b""
            if not line:
                pytest.fail(f"the controller has ended: {said.read_text()}")
            yield json.loads(line)["control"]
        finally:
            process.terminate()
            process.communicate(timeout=30)
    assert process.returncode == 0, said.read_text()


def sums(wires: Wires, address: str, job: str) -> list[dict[str, Any]]:
    """What each worker of a job got."""
    processes = [
        worker.popen(
            [sys.executable, "-c", WORKER, address, job, str(rank), str(WORKERS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank, worker in enumerate(wires.workers)
    ]
    answers = [process.communicate(timeout=PATIENCE) for process in processes]
    for process, (_, complaint) in zip(processes, answers, strict=True):
        assert process.returncode == 0, complaint.decode()
    return [json.loads(answer) for answer, _ in answers]


def test_an_all_reduce_is_right(wires: Wires, small_program_files: tuple[Path, Path], tmp_path: Path) -> None:
    """And again by the next controller, which loads the program anew."""
    said = tmp_path / "controller.log"
    results = []
    for _ in range(2):
        with controller(wires, small_program_files, said) as address:
            results += sums(wires, address, "sums")
    for result in results:
        assert (result["transport"], result["payload"]) == ("udp", 256)
        assert result["error"] <= result["bound"] + 1e-6
        assert result["whole"] == [3 * value for value in range(1000)]
        assert result["bits"] == results[0]["bits"]
    lines = said.read_text()
    assert "job 1: rank 0 (10.85.0.1:" in lines
    assert "is at port 2" in lines
    assert "job 1: removed" in lines
