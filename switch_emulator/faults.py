"""Seeded faults between a switch's ports and its pipeline: loss, duplication, reordering.

What happens to each packet that comes in, and to each copy of a result that goes out, is drawn. One to be reordered is held back
until some later packets have passed, or nothing moves. The same seed and the same order of packets give the same faults.
"""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from switchml.link.memory import copy_bytes
from switchml.link.records import Float64, Int64, Records, new_records
from switchml.protocol.jit import compiled

Bytes = npt.NDArray[np.uint8]

_MODULUS = (1 << 31) - 1
_HELD = 64
HELD_BYTES = 16384 + 64
_LATEST = 32

PASS, DROP, DUPLICATE, HOLD = 0, 1, 2, 3
INGRESS, EGRESS = 0, 1


class FaultSettings(TypedDict):
    """Probabilities, and where the random numbers are."""

    active: Int64
    random: Int64
    loss: Float64
    duplicate: Float64
    reorder: Float64
    held: Int64


class HeldPacket(TypedDict):
    """A packet held back."""

    used: Int64
    direction: Int64
    sender: Int64
    length: Int64
    countdown: Int64


class Faults(NamedTuple):
    """State of the fault injector.

    Attributes:
        settings: one entry.
        held: room for packets held back.
        memory: HELD_BYTES for each of them.
    """

    settings: Records[FaultSettings]
    held: Records[HeldPacket]
    memory: npt.NDArray[np.uint8]


def new_faults(*, loss: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0, seed: int = 0) -> Faults:
    """Probabilities from 0 to 1, each of its own.

    Raises:
        ValueError: a probability outside 0 to 1.
    """
    for name, value in {"loss": loss, "duplicate": duplicate, "reorder": reorder}.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} = {value} is no probability")
    settings = new_records(FaultSettings, 1)
    settings[0]["loss"], settings[0]["duplicate"], settings[0]["reorder"] = loss, duplicate, reorder
    settings[0]["active"] = loss > 0 or duplicate > 0 or reorder > 0
    settings[0]["random"] = seed % (_MODULUS - 1) + 1
    size = _HELD if settings[0]["active"] else 1
    return Faults(settings, new_records(HeldPacket, size), np.zeros(size * HELD_BYTES, np.uint8))


@compiled
def _draw(faults: Faults) -> float:
    settings = faults.settings[0]
    settings["random"] = (int(settings["random"]) * 48271) % _MODULUS
    return float(settings["random"]) / _MODULUS


@compiled
def next_action(faults: Faults) -> int:
    """PASS, DROP, DUPLICATE or HOLD for the next packet."""
    settings = faults.settings[0]
    if _draw(faults) < settings["loss"]:
        return DROP
    if _draw(faults) < settings["duplicate"]:
        return DUPLICATE
    if _draw(faults) < settings["reorder"] and settings["held"] < faults.held.size:
        return HOLD
    return PASS


@compiled
def hold(faults: Faults, direction: int, sender: int, memory: Bytes, at: int, length: int) -> None:
    """Keep a copy of the packet back."""
    for index in range(faults.held.size):
        entry = faults.held[index]
        if entry["used"] == 0:
            entry["used"] = 1
            entry["direction"] = direction
            entry["sender"] = sender
            entry["length"] = length
            entry["countdown"] = 1 + int(_draw(faults) * _LATEST)
            copy_bytes(
                memory[at : at + length], faults.memory[index * HELD_BYTES : index * HELD_BYTES + length]
            )
            faults.settings[0]["held"] += 1
            return


@compiled
def pass_one(faults: Faults) -> None:
    """A packet went past those held back."""
    for index in range(faults.held.size):
        faults.held[index]["countdown"] -= 1


@compiled
def next_release(faults: Faults, everything: bool) -> int:
    """A held packet whose time has come (or any, when nothing moves), or -1. The caller uses it and calls `forget`."""
    if faults.settings[0]["held"] == 0:
        return -1
    for index in range(faults.held.size):
        if faults.held[index]["used"] == 1 and (everything or faults.held[index]["countdown"] <= 0):
            return index
    return -1


@compiled
def forget(faults: Faults, index: int) -> None:
    """Free the place of a packet that was held back."""
    faults.held[index]["used"] = 0
    faults.settings[0]["held"] -= 1
