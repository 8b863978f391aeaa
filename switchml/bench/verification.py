"""Data whose reduction is known without communicating.

Every rank's tensor repeats a table of `PERIOD` elements made from its rank alone, so any rank can compute the
reduction of all tables. The period is a prime: two packets of a tensor carry the same elements only when they are
`PERIOD` packets apart, so an element that lands in the wrong place shows.

Two tables for floating-point sums: `exact` holds small integers, whose sums every system under test represents
exactly; `rounded` holds full mantissas, whose sums are compared within a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.errors import UsageError

PERIOD = 65521
_ROWS = 16  # rows of PERIOD elements compared at a time
_SEED = 20210412

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ElementType:
    """One element type: how numpy stores it and what its floating-point format holds."""

    name: str
    storage: npt.DTypeLike
    floating: bool
    precision: int = 0  # bits of the significand, hidden one included
    start: int = 0  # binary exponent that timed data is scaled by
    ceiling: int = 0  # largest binary exponent that timed data may reach

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return np.dtype(self.storage).itemsize

    @property
    def epsilon(self) -> float:
        """Spacing of numbers at 1; 0 for integers."""
        return 2.0 ** (1 - self.precision) if self.floating else 0.0


ELEMENT_TYPES = {
    kind.name: kind
    for kind in (
        ElementType("float32", np.float32, True, 24, -60, 120),
        ElementType("float64", np.float64, True, 53, -500, 900),
        ElementType("float16", np.float16, True, 11, -14, 15),
        ElementType("bfloat16", np.uint16, True, 8, -60, 120),
        ElementType("int8", np.int8, False),
        ElementType("uint8", np.uint8, False),
        ElementType("int16", np.int16, False),
        ElementType("int32", np.int32, False),
        ElementType("int64", np.int64, False),
    )
}

_FOLDS: dict[str, Callable[[Array, Array], Array]] = {
    "sum": np.add,
    "avg": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}
OPERATIONS = tuple(_FOLDS)
_BITWISE = ("band", "bor", "bxor")


def element_type(name: str) -> ElementType:
    """The element type of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return ELEMENT_TYPES[name]
    except KeyError:
        raise UsageError(f"dtype {name!r}: choose one of {', '.join(ELEMENT_TYPES)}") from None


def check_operation(kind: ElementType, op: str) -> None:
    """Whether a reduction has a meaning for an element type.

    Raises:
        UsageError: it has none, or is unknown.
    """
    if op not in _FOLDS:
        raise UsageError(f"op {op!r}: choose one of {', '.join(OPERATIONS)}")
    if kind.floating and op in _BITWISE:
        raise UsageError(f"op {op!r} is for integers; {kind.name} is a floating-point type")
    if not kind.floating and op == "avg":
        raise UsageError(f"op 'avg' is for floating-point types; {kind.name} is an integer type")


def to_float64(kind: ElementType, stored: Array) -> npt.NDArray[np.float64]:
    """Values of stored floating-point elements."""
    if kind.name == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def from_float64(kind: ElementType, values: npt.NDArray[np.float64]) -> Array:
    """Stored elements nearest to the values (ties to even)."""
    if kind.name != "bfloat16":
        return values.astype(kind.storage)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def table(kind: ElementType, op: str, rank: int, world_size: int, *, rounded: bool = False) -> Array:
    """The `PERIOD` stored elements that rank's tensor repeats."""
    random = np.random.default_rng([_SEED, rank])
    if kind.floating:
        if rounded:
            return from_float64(kind, random.standard_normal(PERIOD))
        if op == "prod":
            return from_float64(kind, random.choice([-1.0, 1.0], PERIOD))
        largest = max(1, min(1023, (2**kind.precision - 1) // world_size))
        return from_float64(
            kind, random.integers(-largest, largest, PERIOD, endpoint=True).astype(np.float64)
        )
    limits = np.iinfo(np.dtype(kind.storage))
    if op == "prod":
        return random.choice([1, 2] if limits.min == 0 else [-1, 1], PERIOD).astype(kind.storage)
    if op == "sum":  # within the type, so that nobody's overflow is under test
        return random.integers(limits.min // world_size, limits.max // world_size, PERIOD).astype(
            kind.storage
        )
    return random.integers(limits.min, limits.max, PERIOD, dtype=kind.storage, endpoint=True)


@dataclass(frozen=True)
class Expected:
    """The reduction of all ranks' tables, and by how much an element may differ.

    Attributes:
        kind: the element type.
        values: `PERIOD` reduced elements: float64 for floating-point types, stored elements for integers.
        magnitude: sum of the absolute values, which rounding errors are proportional to.
    """

    kind: ElementType
    values: Array
    magnitude: npt.NDArray[np.float64]

    @classmethod
    def of(cls, kind: ElementType, op: str, world_size: int, *, rounded: bool = False) -> Expected:
        """Computed from all ranks' tables, in float64 or in the integer type."""
        fold = _FOLDS[op]
        total: Array | None = None
        magnitude = np.zeros(PERIOD)
        for rank in range(world_size):
            part = table(kind, op, rank, world_size, rounded=rounded)
            part = to_float64(kind, part) if kind.floating else part
            magnitude += np.abs(part.astype(np.float64))
            with np.errstate(over="ignore"):  # products of integers wrap, as every system's do
                total = part if total is None else fold(total, part)
        assert total is not None
        if op == "avg":
            total, magnitude = total / world_size, magnitude / world_size
        return cls(kind, total, magnitude)

    def tolerance(
        self, world_size: int, *, rounded: bool, op: str, block_bound: float
    ) -> npt.NDArray[np.float64]:
        """Largest error allowed to each element of the table.

        Exact data may not differ at all, but for the division of an average. Sums of rounded data may lose half a unit of the
        last place at each of the n additions, whatever their order.

        Args:
            world_size: n, the number of ranks.
            rounded: whether the tables hold full mantissas.
            op: name of the reduction.
            block_bound: what block floating point may add, as the worker reports it; 0 for the other systems.

        Returns:
            `PERIOD` bounds.
        """
        if not self.kind.floating or (not rounded and op != "avg"):
            return np.zeros(PERIOD)
        if op == "avg" and not rounded:
            return np.abs(self.values) * self.kind.epsilon
        return self.magnitude * self.kind.epsilon * world_size + block_bound


@dataclass(frozen=True)
class Verdict:
    """How a reduced tensor compares: elements out of bounds, elements compared, largest absolute error."""

    wrong: int
    checked: int
    worst: float

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(self.wrong + other.wrong, self.checked + other.checked, max(self.worst, other.worst))


def fill(buffer: Array, stored: Array) -> None:
    """Repeat the table over the buffer (one-dimensional), at the speed of a copy."""
    rows = buffer.size // PERIOD
    if rows:
        buffer[: rows * PERIOD].reshape(rows, PERIOD)[...] = stored
    buffer[rows * PERIOD :] = stored[: buffer.size - rows * PERIOD]


def verify(buffer: Array, expected: Expected, tolerance: npt.NDArray[np.float64]) -> Verdict:
    """Compare a reduced buffer with the expected table, a few rows at a time. NaN counts as wrong."""
    verdict = Verdict(0, 0, 0.0)
    step = _ROWS * PERIOD
    for begin in range(0, buffer.size, step):
        part = buffer[begin : begin + step]
        if part.size % PERIOD == 0:
            verdict += _compare(part.reshape(-1, PERIOD), expected, tolerance)
            continue
        whole = part.size - part.size % PERIOD
        if whole:
            verdict += _compare(part[:whole].reshape(-1, PERIOD), expected, tolerance)
        verdict += _compare(part[whole:], expected, tolerance)
    return verdict


def _compare(part: Array, expected: Expected, tolerance: npt.NDArray[np.float64]) -> Verdict:
    columns = part.shape[-1]
    target = expected.values[:columns]
    if not expected.kind.floating:
        wrong = int(np.count_nonzero(part != target))
        worst = 0.0
        if wrong:
            worst = float(np.max(np.abs(part.astype(np.float64) - target.astype(np.float64))))
        return Verdict(wrong, part.size, worst)
    error = np.abs(to_float64(expected.kind, part) - target)
    wrong = part.size - int(np.count_nonzero(error <= tolerance[:columns]))
    return Verdict(wrong, part.size, float(np.max(error, initial=0.0)))


def timed_table(kind: ElementType, op: str, rank: int, world_size: int) -> Array:
    """Data for timing: the exact table, scaled down so that `batch_limit` reductions in place stay finite."""
    stored = table(kind, op, rank, world_size)
    if not kind.floating or op != "sum":
        return stored
    return from_float64(kind, to_float64(kind, stored) * 2.0**kind.start)


def batch_limit(kind: ElementType, op: str, world_size: int) -> int:
    """How many times in a row timed data may be reduced in place.

    A sum grows n-fold each time, and infinities would be another workload.
    """
    if op != "sum" or not kind.floating or world_size == 1:
        return 1_000_000
    first = 10 + math.log2(world_size) + kind.start
    return max(1, 1 + int((kind.ceiling - first) / math.log2(world_size)))
