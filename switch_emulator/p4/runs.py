"""Runs: many equal fields side by side in a header, kept as one value.

A run is bytes as on the wire until somebody needs its elements, then a numpy array (whole-array operations) or a list
(one by one). Values are never changed in place: copies of a packet share them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RunValue = bytes | list[int] | NDArray[Any]

WIDTHS = (8, 16, 32, 64)
# Shorter runs stay single fields: a numpy operation costs as much as a dozen plain ones.
SHORTEST = 16


class RunType:
    """Runs of unsigned fields of `width` bits."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.native = np.dtype(f"u{width // 8}")
        self.wire = self.native.newbyteorder(">")
        # The value written last, and its bytes: copies of a packet leave one after the other.
        self._last: tuple[RunValue, bytes] = (b"", b"")

    def array(self, value: RunValue) -> NDArray[Any]:
        """As an array in the machine's byte order; not to be written to."""
        if type(value) is np.ndarray:
            return value
        if type(value) is bytes:
            return np.frombuffer(value, self.wire).astype(self.native)
        return np.array(value, self.native)

    def items(self, value: RunValue) -> list[int]:
        """A list of one's own."""
        if type(value) is bytes:
            value = np.frombuffer(value, self.wire)
        if type(value) is np.ndarray:
            items: list[int] = value.tolist()
            return items
        return list(value)

    def item(self, value: RunValue, position: int) -> int:
        """One element."""
        if type(value) is bytes:
            size = self.width // 8
            return int.from_bytes(value[position * size : (position + 1) * size], "big")
        return int(value[position])

    def replace(self, value: RunValue, position: int, item: int) -> RunValue:
        """The run with another element at `position`."""
        items = self.items(value)
        items[position] = item
        return items

    def data(self, value: RunValue) -> bytes:
        """As on the wire."""
        if type(value) is bytes:
            return value
        last = self._last
        if last[0] is value:
            return last[1]
        data = self.array(value).astype(self.wire).tobytes()
        self._last = (value, data)
        return data


RUN_TYPES = {width: RunType(width) for width in WIDTHS}
