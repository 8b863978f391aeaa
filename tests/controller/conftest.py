"""A native switch behind P4Runtime, and the files of the P4 program."""

from __future__ import annotations

import os
from collections.abc import Iterator
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


@pytest.fixture
def switch() -> Iterator[NativeSwitch]:
    pytest.importorskip("p4", reason="P4Runtime's stubs are missing: pip install 'switchml[p4runtime]'")
    from switchml.errors import PortInUseError
    from switchml.switch_emulator.native_runtime import NativeDevice
    from switchml.switch_emulator.p4runtime.server import serve
    from switchml.switch_emulator.target import EmulatorTarget

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
