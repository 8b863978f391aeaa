"""A switch that takes BMv2 JSON as its forwarding pipeline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from switchml.errors import SwitchMLError
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4.loader import load_program
from switchml.switch_emulator.p4.switch import P4Switch
from switchml.switch_emulator.runtime import Device


class P4Device(Device):
    """options: those of P4Switch (seed, clock, cpu_port, drop_port, trace). on_commit: called with every new switch,
    for ports that have to be told; a switch is never changed while it works on a packet."""

    def __init__(
        self, device_id: int = 0, *, on_commit: Callable[[P4Switch], None] | None = None, **options: Any
    ) -> None:
        self.device_id = device_id
        self._options = options
        self._on_commit = on_commit
        self._lock = threading.Lock()
        self._p4info = b""
        self._config = b""
        self._switch: P4Switch | None = None

    @property
    def p4info(self) -> bytes:
        return self._p4info

    @property
    def config(self) -> bytes:
        return self._config

    @property
    def runtime(self) -> P4Switch:
        if self._switch is None:
            raise RuntimeRequestError(
                "FAILED_PRECONDITION", "no forwarding pipeline: SetForwardingPipelineConfig"
            )
        return self._switch

    def verify(self, p4info: bytes, config: bytes) -> None:
        self._build(p4info, config)

    def commit(self, p4info: bytes, config: bytes) -> None:
        self.install(p4info, config, self._build(p4info, config))

    def stage(self, p4info: bytes, config: bytes) -> P4Switch:
        """A pipeline that can be programmed and is not in force until `install`."""
        return self._build(p4info, config)

    def install(self, p4info: bytes, config: bytes, runtime: P4Switch) -> None:
        """Put what `stage` made of the same program in force, with the state it has got since."""
        with self._lock:
            self._p4info, self._config, self._switch = p4info, config, runtime
        if self._on_commit is not None:
            self._on_commit(runtime)

    def process(self, port: int, frame: bytes) -> list[tuple[int, bytes]]:
        """As P4Switch.process; nothing leaves while there is no pipeline."""
        switch = self._switch
        return [] if switch is None else switch.process(port, frame)

    def _build(self, p4info: bytes, config: bytes) -> P4Switch:
        try:
            return P4Switch(load_program(config), p4info=p4info, **self._options)
        except RuntimeRequestError:
            raise
        except SwitchMLError as error:
            raise RuntimeRequestError("INVALID_ARGUMENT", str(error)) from error
