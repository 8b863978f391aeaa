"""Why a program is refused, and why a packet is."""

from __future__ import annotations

from switchml.errors import SwitchMLError


class UnsupportedProgramError(SwitchMLError):
    """The program uses something this target has not got; the message names it."""


class PipelineError(SwitchMLError):
    """A packet made the program do something that has no result, as a division by zero; the packet is lost. BMv2 ends
    there."""


class P4AssertionError(PipelineError):
    """An assert or assume of the program does not hold."""
