"""Register arrays: lists of integers, or columns of an array where many registers of one shape are used together."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray


class Cells(Protocol):
    """A register array as the control plane sees it."""

    def read(self) -> list[int]: ...
    def get(self, index: int) -> int: ...
    def set(self, index: int, value: int) -> None: ...
    def fill(self, value: int) -> None: ...


class ListCells:
    def __init__(self, cells: list[int]) -> None:
        self._cells = cells

    def read(self) -> list[int]:
        return list(self._cells)

    def get(self, index: int) -> int:
        return self._cells[index]

    def set(self, index: int, value: int) -> None:
        self._cells[index] = value

    def fill(self, value: int) -> None:
        self._cells[:] = [value] * len(self._cells)


class ColumnCells:
    def __init__(self, bank: NDArray[Any], column: int) -> None:
        self._cells = bank[:, column]

    def read(self) -> list[int]:
        cells: list[int] = self._cells.tolist()
        return cells

    def get(self, index: int) -> int:
        return int(self._cells[index])

    def set(self, index: int, value: int) -> None:
        self._cells[index] = value

    def fill(self, value: int) -> None:
        self._cells[:] = value
