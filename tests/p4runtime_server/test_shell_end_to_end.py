"""p4runtime-shell as it is, in an environment of its own: it holds protobuf at 3.20.

SWITCHML_P4RUNTIME_SHELL may name the Python of an environment that has it; otherwise one is made, which takes a while.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from switchml.p4runtime_stubs import p4info_pb2
from switchml.switch_emulator.p4runtime.server import P4RuntimeServer, serve
from switchml.switch_emulator.runtime import ActionCall, CounterValue, Match, MatchKind, Replica

pytestmark = pytest.mark.timeout(400)

SHELL = "p4runtime-shell==0.0.6"
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "p4runtime_shell" / "set_up_job.py"
EVERYTHING = Path(__file__).with_name("everything.p4info.txtpb")
SWITCHML = ROOT / "p4" / "build" / "switchml_64.p4info.txtpb"


@pytest.fixture(scope="module")
def shell_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has the shell."""
    if found := os.environ.get("SWITCHML_P4RUNTIME_SHELL"):
        return found
    folder = tmp_path_factory.mktemp("shell")
    python = str(folder / "bin" / "python")
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [python, "-m", "pip", "install", "-q", SHELL],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{' '.join(command[1:])} took more than 300 s")
        if done.returncode:
            pytest.skip(f"{' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}")
    return python


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program").write_bytes(b"program")
    return tmp_path


@pytest.fixture
def shell_server(device: Any) -> Iterator[P4RuntimeServer]:
    """Device 1, as the shell supposes."""
    device.device_id = 1
    with serve(device) as server:
        yield server


def run(python: str, folder: Path, *arguments: str, typed: str = "") -> str:
    """What it prints. It has a home of its own: IPython keeps its history there."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [python, *arguments],
        input=typed,
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        env=environment | {"HOME": str(folder), "IPYTHONDIR": str(folder), "TERM": "dumb"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PROMPT = """
entry = table_entry["Ingress.exact"](action="Ingress.forward")
entry.match["hdr.h.a"] = "10.0.0.1"
entry.match["hdr.h.b"] = "3"
entry.action["port"] = "1"
entry.action["mac"] = "00:00:00:00:00:05"
entry.insert()
print("READ", [(e.match["hdr.h.a"].exact.value, e.action["mac"].value) for e in table_entry["Ingress.exact"].read()])

entry.action["port"] = "2"
entry.modify()
print("PORT", [e.action["port"].value for e in table_entry["Ingress.exact"].read()])

entry.insert()
counter = counter_entry["Ingress.counter"]
counter.index = 5
counter.packet_count = 12
counter.modify()
print("COUNTERS", [c.packet_count for c in counter_entry["Ingress.counter"].read()])

from p4.v1 import p4runtime_pb2
import p4runtime_sh.shell as sh
wanted = p4runtime_pb2.Entity()
wanted.register_entry.register_id = 369098753
print("REGISTER", [e.register_entry.data.bitstring for r in sh.client.read_one(wanted) for e in r.entities])

group = multicast_group_entry(7)
group.add(1, 1)
group.add(2, 2)
group.insert()
print("GROUP", [[(r.egress_port, r.instance) for r in g.replicas] for g in multicast_group_entry(7).read()])

member = action_profile_member["Ingress.profile"](member_id=1, action="Ingress.forward")
member.action["port"] = "1"
member.action["mac"] = "00:00:00:00:00:05"
member.insert()
print("MEMBERS", [m.member_id for m in action_profile_member["Ingress.profile"].read()])

entry.delete()
print("LEFT", list(table_entry["Ingress.exact"].read()), "API", APIVersion())

"""


def test_a_session_at_the_prompt(
    shell_python: str, folder: Path, device: Any, shell_server: P4RuntimeServer
) -> None:
    output = run(
        shell_python,
        folder,
        *("-m", "p4runtime_sh", "--grpc-addr", shell_server.address),
        *("--config", f"{EVERYTHING},{folder / 'program'}"),
        typed=PROMPT,
    )
    for line in (
        r"READ [(b'\n\x00\x00\x01', b'\x05')]",
        r"PORT [b'\x02']",
        "ALREADY_EXISTS, 'table Ingress.exact has that entry'",
        "COUNTERS [0, 0, 0, 0, 0, 12, 0, 0]",
        f"REGISTER {[bytes(1)] * 8}",
        "GROUP [[(1, 1), (2, 2)]]",
        "MEMBERS [1]",
        "LEFT [] API 1.4.1",
    ):
        assert line in output, output
    assert device.config == b"program"
    assert device.runtime.entries("Ingress.exact") == ()
    assert device.runtime.read_counter("Ingress.counter", 5) == (CounterValue(12, 0),)
    assert device.runtime.multicast_groups() == {7: (Replica(1, 1), Replica(2, 2))}


@pytest.mark.skipif(not SWITCHML.exists(), reason=f"{SWITCHML.relative_to(ROOT)} is not there: make -C p4")
def test_a_job_set_up_by_hand(
    shell_python: str, folder: Path, device: Any, shell_server: P4RuntimeServer
) -> None:
    def script(*arguments: str) -> str:
        return run(
            shell_python, folder, str(SCRIPT), "--grpc-addr", shell_server.address, "--job", "3", *arguments
        )

    output = script(
        *("--config", f"{SWITCHML},{folder / 'program'}", "--switch", "10.0.0.254=02:53:4d:4c:00:01"),
        *("--worker", "10.0.0.1:48865=02:00:00:00:00:01@1", "--worker", "10.0.0.2:48866=02:00:00:00:00:02@2"),
        *("--window", "32", "--pool-base", "64", "--epoch", "9"),
    )
    assert "SwitchIngress.packets_received" in output
    info = text_format.Parse(SWITCHML.read_text(), p4info_pb2.P4Info())
    names = {action.preamble.name: [parameter.name for parameter in action.params] for action in info.actions}
    first, second = device.runtime.entries("SwitchIngress.job_table")
    assert first.key == {
        "hdr.ipv4.src_addr": Match(MatchKind.EXACT, 0x0A000001),
        "hdr.udp.src_port": Match(MatchKind.EXACT, 48865),
        "hdr.switchml.job_number": Match(MatchKind.EXACT, 3),
    }
    arguments = dict(zip(names["SwitchIngress.set_worker"], second.action.arguments, strict=True))
    assert arguments == {
        "worker": 1,
        "bit_of_worker": 2,
        "workers": 2,
        "everyone": 3,
        "pool_base": 64,
        "window": 32,
        "paper": 0,
        "epoch": 9,
        "multicast_group": 4,
    }
    assert device.runtime.multicast_groups() == {4: (Replica(1, 1), Replica(2, 2))}
    (own,) = device.runtime.entries("SwitchIngress.own_address")
    assert own.action == ActionCall("SwitchIngress.is_ours", (0x02534D4C0001,))
    script("--remove")
    for table in ("SwitchIngress.job_table", "SwitchIngress.sender_table", "SwitchIngress.worker_port"):
        assert device.runtime.entries(table) == ()
    assert device.runtime.multicast_groups() == {}
