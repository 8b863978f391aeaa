"""First-fit allocation of ranges of the slot pool."""

from __future__ import annotations

from bisect import insort


class RangeAllocator:
    """Hands out disjoint ranges of `range(size)`, always the lowest that is free. Touching free ranges are one range."""

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"a pool cannot have {size} slots")
        self.size = size
        self._taken: list[tuple[int, int]] = []  # (base, length), by base

    def allocate(self, length: int) -> int | None:
        """The base of a free range of `length`, now taken; None when no free range is that long."""
        if length < 1:
            raise ValueError(f"a range needs at least one slot, not {length}")
        for base, free in self._gaps():
            if free >= length:
                insort(self._taken, (base, length))
                return base
        return None

    def release(self, base: int) -> None:
        """Free the range that starts at `base`.

        Raises:
            KeyError: none does.
        """
        for index, (start, _) in enumerate(self._taken):
            if start == base:
                del self._taken[index]
                return
        raise KeyError(base)

    def largest(self) -> int:
        """Length of the longest free range."""
        return max(free for _, free in self._gaps())

    def free(self) -> int:
        """Slots in no range."""
        return self.size - sum(length for _, length in self._taken)

    def _gaps(self) -> list[tuple[int, int]]:
        gaps, end = [], 0
        for base, length in self._taken:
            gaps.append((end, base - end))
            end = base + length
        gaps.append((end, self.size - end))
        return gaps
