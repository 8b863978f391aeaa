"""Seeded faults between a switch's ports and its pipeline: loss, duplication, reordering.

Each packet that comes in, and each copy of a result that goes out, draws its fate. A packet to be reordered is held back until
some later packets have passed, or nothing moves. The same seed and the same order of packets give the same fates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.link.handle import part
from switchml.link.memory import copy_bytes
from switchml.protocol.jit import compiled, inlined

Bytes = npt.NDArray[np.uint8]

_MODULUS = (1 << 31) - 1
_HELD = 64
HELD_BYTES = 16384 + 64
_LATEST = 32

PASS, LOSE, DOUBLE, HOLD = 0, 1, 2, 3
INGRESS, EGRESS = 0, 1

FAULTS_DTYPE = np.dtype(
    [
        ("active", np.int64),
        ("random", np.int64),
        ("loss", np.float64),
        ("duplicate", np.float64),
        ("reorder", np.float64),
        ("held", np.int64),
    ],
    align=True,
)
HELD_DTYPE = np.dtype(
    [
        ("used", np.int64),
        ("direction", np.int64),
        ("sender", np.int64),
        ("length", np.int64),
        ("countdown", np.int64),
    ],
    align=True,
)


class Faults(NamedTuple):
    """settings: FAULTS_DTYPE, one entry. held: HELD_DTYPE. memory: uint8, HELD_BYTES for each packet held back."""

    settings: npt.NDArray[Any]
    held: npt.NDArray[Any]
    memory: npt.NDArray[np.uint8]


FAULTS_PARTS = 3


@inlined
def faults_at(handle: int, first: int) -> Faults:
    """The Faults whose arrays begin at entry `first` of a table of addresses (link/handle.py)."""
    return Faults(
        part(handle, first, FAULTS_DTYPE),
        part(handle, first + 1, HELD_DTYPE),
        part(handle, first + 2, np.uint8),
    )


def new_faults(*, loss: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0, seed: int = 0) -> Faults:
    """Probabilities from 0 to 1, each of its own.

    Raises:
        ValueError: a probability outside 0 to 1.
    """
    settings = np.zeros(1, FAULTS_DTYPE)
    for name, value in {"loss": loss, "duplicate": duplicate, "reorder": reorder}.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} = {value} is no probability")
        settings[0][name] = value
    settings[0]["active"] = loss > 0 or duplicate > 0 or reorder > 0
    settings[0]["random"] = seed % (_MODULUS - 1) + 1
    size = _HELD if settings[0]["active"] else 1
    return Faults(settings, np.zeros(size, HELD_DTYPE), np.zeros(size * HELD_BYTES, np.uint8))


@compiled
def _draw(faults: Faults) -> float:
    settings = faults.settings[0]
    settings["random"] = (int(settings["random"]) * 48271) % _MODULUS
    return float(settings["random"]) / _MODULUS


@compiled
def fate(faults: Faults) -> int:
    """PASS, LOSE, DOUBLE or HOLD for the next packet."""
    settings = faults.settings[0]
    if _draw(faults) < settings["loss"]:
        return LOSE
    if _draw(faults) < settings["duplicate"]:
        return DOUBLE
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
    faults.held[index]["used"] = 0
    faults.settings[0]["held"] -= 1
