"""Why a program is refused."""

from __future__ import annotations

from switchml.errors import SwitchMLError


class UnsupportedProgramError(SwitchMLError):
    """The program uses something this target has not got; the message names it."""
