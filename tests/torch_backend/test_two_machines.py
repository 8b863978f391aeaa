"""Two hosts, each a network namespace with a hosts file of its own: torchrun trains without any variable set."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from switchml.testbed import why_unavailable

REASON = why_unavailable()
if REASON is None:
    from switchml.testbed.star import Star, worker_address

PROGRAM = Path(__file__).parent / "programs" / "only_torch.py"
# Two torchruns import torch twice each, on a machine that may be busy.
SECONDS = 120.0
pytestmark = [
    pytest.mark.timeout(2 * SECONDS),
    pytest.mark.namespaces,
    pytest.mark.usefixtures("preloaded_programs"),
    pytest.mark.skipif(REASON is not None, reason=f"no testbed here: {REASON}"),
]
UNSET = ("MASTER_", "GLOO_", "SWITCHML_SWITCH", "RANK", "WORLD_SIZE", "LOCAL_RANK")


def add_a_bridge_of_containers() -> None:
    """A second interface, with the same address on every host, as Docker makes one."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        route.link("add", ifname="docker0", kind="bridge")
        [index] = route.link_lookup(ifname="docker0")
        route.addr("add", index=index, address="172.17.0.1", prefixlen=16)
        route.link("set", index=index, state="up")


@pytest.fixture
def star() -> Iterator[Any]:
    with Star(2) as made:
        for worker in made.workers:
            worker.call(add_a_bridge_of_containers)
        yield made


def machine(star: Any, number: int, folder: Path, command: list[str]) -> subprocess.Popen[str]:
    """Start a command on one of the hosts "one" and "two": its own name stands for 127.0.1.1 there, as Debian has it."""
    names = ("one", "two")
    hosts = folder / f"hosts-{names[number]}"
    addresses = [worker_address(rank) for rank in range(2)]
    addresses[number] = "127.0.1.1"
    lines = ["127.0.0.1 localhost", *(" ".join(pair) for pair in zip(addresses, names, strict=True))]
    hosts.write_text("\n".join(lines) + "\n")
    script = f"mount --bind {shlex.quote(str(hosts))} /etc/hosts && hostname {names[number]} && exec {shlex.join(command)}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(UNSET)}
    started: subprocess.Popen[str] = star.workers[number].popen(
        ["unshare", "--mount", "--uts", "sh", "-c", script],
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return started


def reports(machines: list[subprocess.Popen[str]]) -> list[Any]:
    deadline = time.monotonic() + SECONDS
    found = []
    for one in machines:
        stdout, stderr = one.communicate(timeout=max(0.1, deadline - time.monotonic()))
        assert one.returncode == 0, stderr
        found += [json.loads(line) for line in stdout.replace("}{", "}\n{").splitlines() if line]
    return found


def rendezvous(kind: str, number: int) -> list[str]:
    if kind == "c10d":
        return ["--rdzv-backend", "c10d", "--rdzv-endpoint", "one:29400", "--rdzv-id", "two"]
    return ["--node-rank", str(number), "--master-addr", "one", "--master-port", "29401"]


def test_torchrun_trains_over_two_hosts_with_127_0_1_1_in_their_hosts_files(
    star: Any, tmp_path: Path
) -> None:
    """They meet at an address that is given; in the next test by c10d's rendezvous."""
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    machines = [
        machine(star, number, tmp_path, [*torchrun, *rendezvous("static", number), str(PROGRAM)])
        for number in range(2)
    ]
    found = reports(machines)
    assert sorted(report["rank"] for report in found) == [0, 1]
    assert {report["gradient"] for report in found} == {6.0}


# A sum through the switch, and a tensor over gloo's own connections.
USES_BOTH = """
import json, sys
import torch
import torch.distributed as dist
{begin}
rank = dist.get_rank()
values = torch.full((4,), rank + 1.0)
dist.all_reduce(values)
received = torch.zeros(1)
dist.send(values[:1], 1) if rank == 0 else dist.recv(received, 0)
dist.barrier()
print(json.dumps([values[0].item(), dist.group.WORLD.switch_address]), flush=True)
dist.destroy_process_group()
"""
BY_TORCHRUN = 'dist.init_process_group("switchml")'
IN_A_FILE = 'dist.init_process_group("switchml", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)'


def test_torchrun_reaches_switch_and_gloo_over_two_hosts(star: Any, tmp_path: Path) -> None:
    program = tmp_path / "uses_both.py"
    program.write_text(USES_BOTH.replace("{begin}", BY_TORCHRUN))
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    machines = [
        machine(star, number, tmp_path, [*torchrun, *rendezvous("c10d", number), str(program)])
        for number in range(2)
    ]
    found = reports(machines)
    assert [value for value, _ in found] == [3.0, 3.0]
    [address] = {address.partition(":")[0] for _, address in found}
    assert address in [worker_address(number) for number in range(2)]


def test_two_hosts_that_meet_in_a_file(star: Any, tmp_path: Path) -> None:
    program = USES_BOTH.replace("{begin}", IN_A_FILE)
    command = [sys.executable, "-P", "-c", program, str(tmp_path / "store")]
    machines = [machine(star, number, tmp_path, [*command, str(number)]) for number in range(2)]
    found = reports(machines)
    assert [value for value, _ in found] == [3.0, 3.0]
    for _, addresses in found:
        hosts = [address.rpartition(":")[0] for address in addresses.split(",")]
        assert hosts == [worker_address(0), worker_address(1)], "an embedded switch on each host"


LOSES_A_SWITCH = """
import json, os, signal, sys
import torch
import torch.distributed as dist
from switchml.control.client import ControlClient
from switchml.torch_backend.embedded_switch import OF_THIS_PROCESS
rank = int(sys.argv[2])
dist.init_process_group("switchml", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
world = dist.group.WORLD
values = torch.arange(300_000, dtype=torch.int32) * (rank + 1)
dist.all_reduce(values)
floats = torch.full((300_000,), rank + 0.5)
dist.all_reduce(floats)
both = dist.new_group([0, 1])
dist.all_reduce(torch.ones(50_000), group=both)
report = {
    "right": bool((values == 3 * torch.arange(300_000)).all() and (floats == 2.0).all()),
    "one pair of switches": both.switch_address == world.switch_address,
    "switches": world.switch_address.split(","),
    "chunks": [],
}
for switch in world._membership.placement.switches:
    with ControlClient(switch.address, token=switch.token) as client:
        report["chunks"].append(client.status().counters["chunks_completed"])
dist.barrier()
if rank == 1:
    (own,) = [shared.running for shared in OF_THIS_PROCESS._shared.values() if shared.running is not None]
    os.kill(own.pid, signal.SIGKILL)
try:
    while True:
        dist.all_reduce(torch.ones(300_000))
except Exception as error:
    report["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(report))
dist.destroy_process_group()
"""


def test_each_host_sums_its_share_and_a_lost_switch_is_named_everywhere(star: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", LOSES_A_SWITCH, str(tmp_path / "store")]
    machines = [machine(star, number, tmp_path, [*command, str(number)]) for number in range(2)]
    found, said = [], []
    for one in machines:
        stdout, stderr = one.communicate(timeout=SECONDS)
        assert one.returncode == 0, stderr
        found.append(json.loads(stdout))
        said.append(stderr)
    for report in found:
        assert report["right"]
        assert report["one pair of switches"]
        first, second = report["chunks"]
        assert min(first, second) > 0.4 * (first + second), "each sums its share"
        assert report["error"].startswith("SwitchGoneError")
        assert report["switches"][1] in report["error"]
    assert f"2 ranks on the embedded switches at {', '.join(found[0]['switches'])}" in said[0]
