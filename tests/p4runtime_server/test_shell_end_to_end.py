"""p4runtime-shell as it is, against the P4 pipeline and the native one, with the P4 program that p4c has compiled.

The shell holds protobuf at 3.20, so it has an environment of its own, build/p4runtime-shell, made when first needed.
SWITCHML_P4RUNTIME_SHELL may name the Python of another one.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from switchml.errors import PortInUseError
from switchml.packets.ethernet import HEADERS_BYTES, UdpHeaders, mac_bytes
from switchml.protocol.header import HEADER_BYTES, Header, build_header, parse_header
from switchml.protocol.messages import SUM, size_code
from switchml.switch_emulator.native_runtime import NativeDevice
from switchml.switch_emulator.native_target import EmulatorTarget
from switchml.switch_emulator.p4.device import P4Device
from switchml.switch_emulator.p4runtime.p4runtime_server import P4RuntimeServer, serve

pytestmark = pytest.mark.timeout(400)

SHELL = "p4runtime-shell==0.0.6"
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "p4runtime_shell" / "set_up_job.py"
EVERYTHING = Path(__file__).with_name("everything.p4info.txtpb")
PROGRAM = ROOT / "p4" / "build" / "switchml_64.json"
P4INFO = PROGRAM.with_suffix(".p4info.txtpb")
ELEMENTS = 64
JOB, POOL_BASE, EPOCH = 3, 64, 9
SWITCH_MAC = "02:53:4d:4c:00:01"
PATIENCE = 10.0  # seconds


@pytest.fixture(scope="module")
def shell_python() -> str:
    """A Python that has the shell."""
    if found := os.environ.get("SWITCHML_P4RUNTIME_SHELL"):
        return found
    folder = ROOT / "build" / "p4runtime-shell"
    python = folder / "bin" / "python"
    complete = folder / SHELL  # written last: an environment without it was not finished
    if complete.exists():
        return str(python)
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "-q", SHELL],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{' '.join(command[1:])} took more than 200 s")
        if done.returncode:
            pytest.skip(f"{' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}")
    complete.touch()
    return str(python)


class Switch(Protocol):
    """A switch with two workers on it. workers: as the script's --worker takes them."""

    device: Any
    address: str
    workers: tuple[str, str]

    def exchange(self, datagrams: Sequence[bytes]) -> list[bytes]:
        """What the two workers get when each has sent its datagram."""


class P4OnFrames(ExitStack):
    """The P4 pipeline: workers are frames on ports 1 and 2."""

    address = "10.0.0.254"
    workers = ("10.0.0.1:48865=02:00:00:00:00:01@1", "10.0.0.2:48866=02:00:00:00:00:02@2")

    def __init__(self) -> None:
        super().__init__()
        self.device = P4Device(1)

    def exchange(self, datagrams: Sequence[bytes]) -> list[bytes]:
        sent: list[tuple[int, bytes]] = []
        for port, datagram in enumerate(datagrams, 1):
            headers = UdpHeaders(
                *(mac_bytes(f"02:00:00:00:00:0{port}"), mac_bytes(SWITCH_MAC)),
                *(socket.inet_aton(f"10.0.0.{port}"), socket.inet_aton(self.address)),
                *(48864 + port, 0xBEE0),
            )
            sent += self.device.process(port, headers.build(len(datagram)) + datagram)
        assert [port for port, _ in sent] == [1, 2]
        assert [frame[:6] for _, frame in sent] == [mac_bytes(f"02:00:00:00:00:0{port}") for port in (1, 2)]
        return [frame[HEADERS_BYTES:] for _, frame in sent]


class NativeOnSockets(ExitStack):
    """The native pipeline: workers are UDP sockets."""

    address = "127.0.0.1"

    def __init__(self) -> None:
        super().__init__()
        target = self._listen()
        self.callback(target.close)
        self._port = target.describe().udp_port
        self.device = NativeDevice(target, 1)
        self._sockets = [self.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2)]
        for each in self._sockets:
            each.settimeout(PATIENCE)
            each.bind(("127.0.0.1", 0))
        first, second = (
            f"127.0.0.1:{each.getsockname()[1]}=02:00:00:00:00:0{number}@{number}"
            for number, each in enumerate(self._sockets, 1)
        )
        self.workers = (first, second)

    @staticmethod
    def _listen() -> EmulatorTarget:
        for port in range(0xBEE1, 0xBEF0):
            try:
                return EmulatorTarget("127.0.0.1", port)
            except PortInUseError:
                continue
        pytest.fail("UDP ports 48865 to 48879 are all taken")

    def exchange(self, datagrams: Sequence[bytes]) -> list[bytes]:
        for each, datagram in zip(self._sockets, datagrams, strict=True):
            each.sendto(datagram, ("127.0.0.1", self._port))
        return [each.recv(2048) for each in self._sockets]


@pytest.fixture(params=[P4OnFrames, NativeOnSockets])
def switch(request: pytest.FixtureRequest) -> Iterator[Switch]:
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM.relative_to(ROOT)} is not there: make -C p4")
    with request.param() as switch:
        yield switch


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


OTHER_ENTITIES = """
entry = table_entry["Ingress.exact"](action="Ingress.forward")
entry.match["hdr.h.a"] = "10.0.0.1"
entry.match["hdr.h.b"] = "3"
entry.action["port"] = "1"
entry.action["mac"] = "00:00:00:00:00:05"
entry.insert()
entry.insert()
member = action_profile_member["Ingress.profile"](member_id=1, action="Ingress.forward")
member.action["port"] = "1"
member.action["mac"] = "00:00:00:00:00:05"
member.insert()
print("MEMBERS", [m.member_id for m in action_profile_member["Ingress.profile"].read()])

meter = meter_entry["Ingress.meter"]
meter.index = 2
meter.cir = 1
meter.pir = 2
meter.cburst = 3
meter.pburst = 4
meter.modify()
print("METERS", [(m.cir, m.pburst) for m in meter_entry["Ingress.meter"].read()])

clone = clone_session_entry(100)
clone.add(1, 5)
clone.insert()
print("CLONES", [[(r.egress_port, r.instance) for r in c.replicas] for c in clone_session_entry(100).read()])

digest = digest_entry["learn_t"]
digest.max_list_size = 7
digest.insert()
print("DIGESTS", [d.max_list_size for d in digest_entry["learn_t"].read()])

packet = packet_out(payload=b"out")
packet.metadata["egress_port"] = "3"
packet.send()

"""


def test_entities_that_our_program_has_not_got(
    shell_python: str, tmp_path: Path, device: Any, shell_server: P4RuntimeServer
) -> None:
    (tmp_path / "program").write_bytes(b"program")
    output = run(
        shell_python,
        tmp_path,
        *("-m", "p4runtime_sh", "--grpc-addr", shell_server.address),
        *("--config", f"{EVERYTHING},{tmp_path / 'program'}"),
        typed=OTHER_ENTITIES,
    )
    for line in (
        "ALREADY_EXISTS, 'table Ingress.exact has that entry'",
        "MEMBERS [1]",
        "METERS [(0, 0), (0, 0), (1, 4), (0, 0)]",
        "CLONES [[(1, 5)]]",
        "DIGESTS [7]",
    ):
        assert line in output, output
    assert device.config == b"program"
    assert device.runtime.packets_out == [(b"out", {"egress_port": 3})]


# After the exchange: two packets of the job, and the sums in the slot's first copy.
SESSION = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
from set_up_job import *
counter = counter_entry["SwitchIngress.packets_received"]
counter.index = {JOB}
print("RECEIVED", [c.packet_count for c in counter.read()])

import p4runtime_sh.shell as sh
from p4.v1 import p4runtime_pb2
wanted = p4runtime_pb2.Entity()
wanted.register_entry.register_id = {{r.preamble.name: r.preamble.id for r in sh.context.p4info.registers}}["SwitchIngress.sum_5"]
cells = [e.register_entry for reply in sh.client.read_one(wanted) for e in reply.entities]
print("CELLS", len(cells), [int.from_bytes(c.data.bitstring, "big") for c in cells if c.index.index == {2 * POOL_BASE}])

def entries(table): return list(table_entry[table].read())

def counts(): return [len(entries("SwitchIngress." + table)) for table in ("own_address", "job_table", "worker_port")]

entry = table_entry["SwitchIngress.own_address"](action="SwitchIngress.is_ours")
entry.match["meta.target_addr"] = "10.1.1.1"
entry.action["mac"] = "00:00:00:00:00:05"
entry.insert()
entry.action["mac"] = "00:00:00:00:00:06"
entry.modify()
print("MACS", [e.action["mac"].value for e in entries("SwitchIngress.own_address")], "COUNTS", counts())

entry.delete()
print("DELETED", counts())

remove_job({JOB})
print("REMOVED", counts(), [g.group_id for g in multicast_group_entry(0).read()], "API", APIVersion())

"""


def test_a_job_set_up_by_hand_reduces(shell_python: str, tmp_path: Path, switch: Switch) -> None:
    with serve(switch.device) as server:
        output = run(
            shell_python,
            tmp_path,
            *(
                str(SCRIPT),
                "--grpc-addr",
                server.address,
                "--job",
                str(JOB),
                "--config",
                f"{P4INFO},{PROGRAM}",
            ),
            *("--switch", f"{switch.address}={SWITCH_MAC}", "--worker", switch.workers[0]),
            *("--worker", switch.workers[1]),
            *("--window", "32", "--pool-base", str(POOL_BASE), "--epoch", str(EPOCH)),
        )
        assert "SwitchIngress.packets_received" in output

        header = Header(SUM, size=size_code(4 * ELEMENTS), job_number=JOB, e0=-3, e1=-128)
        datagrams = [
            build_header(header._replace(e0=e0))
            + struct.pack(f">{ELEMENTS}i", *range(first, first + ELEMENTS))
            for e0, first in ((-3, 0), (7, 1000))
        ]
        for result in switch.exchange(datagrams):
            assert parse_header(result).e0 == 7
            sums = struct.unpack(f">{ELEMENTS}i", result[HEADER_BYTES:])
            assert sums == tuple(1000 + 2 * number for number in range(ELEMENTS))

        output = run(
            shell_python,
            tmp_path,
            *("-m", "p4runtime_sh", "--grpc-addr", server.address, "--election-id", "1,0"),
            typed=SESSION,
        )
    for line in (
        "RECEIVED [2]",
        f"CELLS 2048 {[1000 + 2 * 5]}",
        r"MACS [b'\x02SML\x00\x01', b'\x06'] COUNTS [2, 2, 2]",
        "DELETED [1, 2, 2]",
        "REMOVED [1, 0, 0] [] API 1.4.1",
    ):
        assert line in output, output
