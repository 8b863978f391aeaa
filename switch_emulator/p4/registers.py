"""Register arrays: lists of integers, or columns of an array where many registers of one shape are used together."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray
from typing_extensions import override


class Cells(Protocol):
    """A register array as the control plane sees it."""

    def read(self) -> list[int]:
        """All cells."""

    def get(self, index: int) -> int:
        """One cell."""

    def set(self, index: int, value: int) -> None:
        """Write one cell."""

    def fill(self, value: int) -> None:
        """Write all cells."""


class ListCells(Cells):
    """Cells of an array that stands alone."""

    def __init__(self, cells: list[int]) -> None:
        self._cells = cells

    @override
    def read(self) -> list[int]:
        return list(self._cells)

    @override
    def get(self, index: int) -> int:
        return self._cells[index]

    @override
    def set(self, index: int, value: int) -> None:
        self._cells[index] = value

    @override
    def fill(self, value: int) -> None:
        self._cells[:] = [value] * len(self._cells)


class ColumnCells(Cells):
    """Cells of an array that is a column of a bank."""

    def __init__(self, bank: NDArray[Any], column: int) -> None:
        self._cells = bank[:, column]

    @override
    def read(self) -> list[int]:
        cells: list[int] = self._cells.tolist()
        return cells

    @override
    def get(self, index: int) -> int:
        return int(self._cells[index])

    @override
    def set(self, index: int, value: int) -> None:
        self._cells[index] = value

    @override
    def fill(self, value: int) -> None:
        self._cells[:] = value
