"""Seeded faults around any ports: loss, duplication, reordering.

The fault injector of the native pipeline (switch_emulator/faults.py) for frames, those that come in and those that go out. One
to be reordered is held back until some later ones have passed, or nothing moves. The same seed and the same order of frames
give the same faults.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from typing_extensions import override

from switchml.errors import UsageError
from switchml.switch_emulator.ports.interface import Frame, Ports, WrappedPorts

_LATEST = 32
_HELD = 64
_QUIET = 0.001  # seconds without a frame after which nothing moves


class FaultRates(NamedTuple):
    """Probabilities, 0 to 1, each of its own; and the seed of the choices."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    seed: int = 0

    @property
    def active(self) -> bool:
        """Whether any fault can happen."""
        return self.loss > 0 or self.duplicate > 0 or self.reorder > 0


@dataclass
class _Held:
    frame: Frame
    going_out: bool
    countdown: int


class FaultyPorts(WrappedPorts):
    """Raises UsageError for a probability outside 0 to 1."""

    def __init__(self, inner: Ports, rates: FaultRates) -> None:
        super().__init__(inner)
        for name in ("loss", "duplicate", "reorder"):
            if not 0.0 <= getattr(rates, name) <= 1.0:
                raise UsageError(f"{name} = {getattr(rates, name)} is no probability")
        self._rates = rates
        self._random = random.Random(rates.seed)
        self._held: list[_Held] = []
        self._lost = self._doubled = self._reordered = 0

    @override
    def receive(self, deadline: float) -> list[Frame]:
        if self._held:
            deadline = min(deadline, time.monotonic() + _QUIET)
        come = super().receive(deadline)
        frames: list[Frame] = []
        for frame in come:
            frames.extend([frame] * self._copies(frame, going_out=False))
            frames.extend(self._released())
        if not come:
            for held in self._held:
                held.countdown = 0
            frames.extend(self._released())
        return frames

    @override
    def send(self, port: int, data: bytes) -> None:
        frame = Frame(port, data, 0)
        for _ in range(self._copies(frame, going_out=True)):
            super().send(port, data)

    @override
    def counters(self) -> Mapping[str, int]:
        return {
            **super().counters(),
            "fault_lost": self._lost,
            "fault_duplicated": self._doubled,
            "fault_reordered": self._reordered,
        }

    @property
    @override
    def exhausted(self) -> bool:
        return super().exhausted and not self._held

    @property
    @override
    def longest_wait(self) -> float:
        return _QUIET if self._held else super().longest_wait

    def _copies(self, frame: Frame, *, going_out: bool) -> int:
        """How many copies of the frame go on now."""
        for held in self._held:
            held.countdown -= 1
        draw, rates = self._random.random, self._rates
        if draw() < rates.loss:
            self._lost += 1
            return 0
        if draw() < rates.duplicate:
            self._doubled += 1
            return 2
        if draw() < rates.reorder and len(self._held) < _HELD:
            self._reordered += 1
            self._held.append(_Held(frame, going_out, 1 + int(draw() * _LATEST)))
            return 0
        return 1

    def _released(self) -> list[Frame]:
        """Frames to come in whose time is up; those to go out go."""
        due = [held for held in self._held if held.countdown <= 0]
        if not due:
            return []
        self._held = [held for held in self._held if held.countdown > 0]
        for held in due:
            if held.going_out:
                super().send(held.frame.port, held.frame.data)
        return [held.frame for held in due if not held.going_out]
