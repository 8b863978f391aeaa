"""Switches behind P4Runtime, native and P4; `switchml controller` as a process; the files of the P4 program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BUILD = Path(os.environ.get("SWITCHML_P4_BUILD", Path(__file__).parents[2] / "p4" / "build"))


def files_of(elements: int) -> tuple[Path, Path]:
    """JSON and P4Info of the program with that many elements a packet."""
    config = BUILD / f"switchml_{elements}.json"
    described = config.with_suffix(".p4info.txtpb")
    if not config.is_file() or not described.is_file():
        pytest.skip(f"{config} and {described.name} are missing: make -C p4")
    return config, described


@dataclass
class NativeSwitch:
    """The native pipeline on loopback, its P4Runtime device and server."""

    native: Any
    device: Any
    server: Any

    @property
    def runtime(self) -> Any:
        return self.device.runtime

    @property
    def address(self) -> str:
        return str(self.server.address)

    @property
    def udp_port(self) -> int:
        return int(self.native.describe().udp_port)


@pytest.fixture
def program_files() -> tuple[Path, Path]:
    return files_of(256)


@pytest.fixture
def small_program_files() -> tuple[Path, Path]:
    """With 64 elements a packet: four times as many packets, but there in a quarter of the time."""
    return files_of(64)


@contextmanager
def _controller(switch: Any, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`switchml controller` of that switch, and where workers join. It is asked to end, if it has not."""
    command = [
        *(sys.executable, "-m", "switchml.cli", "controller", "--announce", "-", "--listen", "127.0.0.1:0"),
        *(
            "--target",
            f"p4runtime://{switch.address}",
            "--data-address",
            f"127.0.0.1:{switch.udp_port}",
            *options,
        ),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(f"the controller has ended: {process.communicate(timeout=10)[1]}")
        yield process, json.loads(line)["control"]
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def controller() -> Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]:
    return _controller


@dataclass
class P4Switch:
    """The P4 program with 64 elements a packet, on a UDP port of loopback."""

    emulator: Any
    udp_port: int

    @property
    def address(self) -> str:
        return str(self.emulator.p4runtime_address)

    @property
    def runtime(self) -> Any:
        return self.emulator.device.runtime


@pytest.fixture(scope="module")
def p4_switch() -> Iterator[P4Switch]:
    pytest.importorskip(
        "google.rpc.status_pb2",
        reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'",
    )
    from switchml.errors import PortInUseError
    from switchml.switch_emulator.p4_emulator import P4Emulator, read_program
    from switchml.switch_emulator.ports.udp import UdpPorts

    for port in range(0xBEE1, 0xBEF0):
        try:
            ports = UdpPorts("127.0.0.1", port)
            break
        except PortInUseError:
            continue
    else:
        pytest.fail("UDP ports 48865-48879 are all taken")
    with P4Emulator(ports, read_program(files_of(64)[0]), p4runtime=("127.0.0.1", 0)) as emulator:
        emulator.start()
        yield P4Switch(emulator, port)


@pytest.fixture
def switch() -> Iterator[NativeSwitch]:
    pytest.importorskip(
        "google.rpc.status_pb2",
        reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'",
    )
    from switchml.errors import PortInUseError
    from switchml.switch_emulator.native_runtime import NativeDevice
    from switchml.switch_emulator.native_target import EmulatorTarget
    from switchml.switch_emulator.p4runtime.p4runtime_server import serve

    native = None
    for port in range(0xBEE1, 0xBEF0):  # the ports that the P4 program serves
        try:
            native = EmulatorTarget("127.0.0.1", port)
            break
        except PortInUseError:
            continue
    if native is None:
        pytest.fail("UDP ports 48865-48879 are all taken")
    try:
        device = NativeDevice(native)
        with serve(device) as server:
            yield NativeSwitch(native, device, server)
    finally:
        native.close()
