"""The programmable switch in software: ports, aggregation pipeline, control service."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from switchml.switch_emulator.emulator import Emulator as Emulator

__all__ = ["Emulator"]


def __getattr__(name: str) -> object:
    if name == "Emulator":
        from switchml.switch_emulator.emulator import Emulator

        return Emulator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
