"""A switch that takes BMv2 JSON as its forwarding pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from switchml.errors import SwitchMLError
from switchml.p4runtime.refusals import RuntimeRequestError, invalid
from switchml.switch_emulator.p4.loader import load_program
from switchml.switch_emulator.p4.switch import P4Switch
from switchml.switch_emulator.runtime import Device


class P4Device(Device[P4Switch]):
    """A switch whose pipelines are BMv2 JSON; one is never changed while it works on a packet.

    Args:
        options: those of P4Switch (seed, clock, cpu_port, drop_port, queues, trace).
        on_commit: called with every new switch, for ports that have to be told.
    """

    def __init__(
        self, device_id: int = 0, *, on_commit: Callable[[P4Switch], None] | None = None, **options: Any
    ) -> None:
        super().__init__(device_id)
        self._options = options
        self._on_commit = on_commit

    @override
    def stage(self, p4info: bytes, config: bytes) -> P4Switch:
        try:
            return P4Switch(load_program(config), p4info=p4info, **self._options)
        except RuntimeRequestError:
            raise
        except SwitchMLError as error:
            raise invalid(str(error)) from error

    @override
    def install(self, p4info: bytes, config: bytes, runtime: P4Switch) -> None:
        super().install(p4info, config, runtime)
        if self._on_commit is not None:
            self._on_commit(runtime)

    def process(self, port: int, frame: bytes) -> list[tuple[int, bytes]]:
        """As P4Switch.process; nothing leaves while there is no pipeline."""
        switch = self._runtime
        return [] if switch is None else switch.process(port, frame)

    def depart(self) -> list[tuple[int, bytes]] | None:
        """As P4Switch.depart."""
        switch = self._runtime
        return None if switch is None else switch.depart()

    def until_departure(self) -> float:
        """As P4Switch.until_departure."""
        switch = self._runtime
        return math.inf if switch is None else switch.until_departure()

    def queue_counters(self) -> dict[str, int]:
        """As P4Switch.queue_counters: since the pipeline was set."""
        switch = self._runtime
        return {} if switch is None else switch.queue_counters()
