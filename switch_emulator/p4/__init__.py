"""A P4 target: loads the JSON that p4c emits for BMv2 and behaves as BMv2's simple_switch (v1model)."""

from __future__ import annotations

from switchml.errors import PipelineError, UnsupportedProgramError
from switchml.switch_emulator.p4.device import P4Device
from switchml.switch_emulator.p4.egress_queues import QueueLimits
from switchml.switch_emulator.p4.loader import load_program
from switchml.switch_emulator.p4.program_model import Program
from switchml.switch_emulator.p4.switch import P4Switch

__all__ = [
    "P4Device",
    "P4Switch",
    "PipelineError",
    "Program",
    "QueueLimits",
    "UnsupportedProgramError",
    "load_program",
]
