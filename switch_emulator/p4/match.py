"""Match structures: from a packet's key to the entry that wins.

Keys are tuples of unsigned integers, one a field. Structures hold entries of any type; `find` is what the generated
source calls for every packet.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from typing_extensions import override

E = TypeVar("E")

Key = tuple[int, ...]

# Results of slow look-ups that are remembered until the table changes.
_REMEMBERED = 4096


@dataclass(frozen=True)
class FieldMatch:
    """What one field of an entry takes: value & mask for all kinds but range; there mask = -1 and the bounds count."""

    value: int
    mask: int
    low: int = 0
    high: int = 0

    @property
    def is_range(self) -> bool:
        """Whether the bounds count."""
        return self.mask < 0

    def takes(self, value: int) -> bool:
        """Whether a key's value matches."""
        return self.low <= value <= self.high if self.is_range else value & self.mask == self.value


Condition = tuple[FieldMatch, ...]


class MatchStructure(Protocol[E]):
    """Entries of a table, found by key."""

    def find(self, key: Key) -> E | None:
        """The entry that matches, None for a miss."""

    def add(self, condition: Condition, rank: tuple[int, ...], entry: E) -> None:
        """Put an entry in.

        Args:
            condition: what its fields take.
            rank: the smallest wins where several entries match.
            entry: what is found by them.
        """

    def remove(self, condition: Condition, rank: tuple[int, ...]) -> None:
        """Takes an entry away; it must be there."""

    def clear(self) -> None:
        """Takes all away."""


class ExactMatch(Generic[E]):
    """A dictionary by key."""

    def __init__(self) -> None:
        self._entries: dict[Key, E] = {}
        self.find = self._entries.get

    def add(self, condition: Condition, rank: tuple[int, ...], entry: E) -> None:
        """The rank says nothing: no two entries match."""
        self._entries[tuple(field.value for field in condition)] = entry

    def remove(self, condition: Condition, rank: tuple[int, ...]) -> None:
        """Take an entry away."""
        del self._entries[tuple(field.value for field in condition)]

    def clear(self) -> None:
        """Take all away."""
        self._entries.clear()


class LpmMatch(MatchStructure[E]):
    """One dictionary a prefix length, tried from the longest on.

    Args:
        lpm: position of the field with prefixes.
    """

    def __init__(self, lpm: int) -> None:
        self._lpm = lpm
        self._by_mask: dict[int, dict[Key, E]] = {}
        self._order: list[tuple[int, dict[Key, E]]] = []

    @override
    def find(self, key: Key) -> E | None:
        lpm = self._lpm
        before, value, after = key[:lpm], key[lpm], key[lpm + 1 :]
        for mask, entries in self._order:
            entry = entries.get((*before, value & mask, *after))
            if entry is not None:
                return entry
        return None

    @override
    def add(self, condition: Condition, rank: tuple[int, ...], entry: E) -> None:
        mask = condition[self._lpm].mask
        self._by_mask.setdefault(mask, {})[tuple(field.value for field in condition)] = entry
        self._sort()

    @override
    def remove(self, condition: Condition, rank: tuple[int, ...]) -> None:
        mask = condition[self._lpm].mask
        entries = self._by_mask[mask]
        del entries[tuple(field.value for field in condition)]
        if not entries:
            del self._by_mask[mask]
        self._sort()

    @override
    def clear(self) -> None:
        self._by_mask.clear()
        self._sort()

    def _sort(self) -> None:
        self._order = sorted(self._by_mask.items(), reverse=True)


class OrderedMatch(MatchStructure[E]):
    """Ternary and range: entries in the order of their ranks, the first that takes every field. Keys seen before are
    answered from memory.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[tuple[int, ...], Condition, E]] = []
        self._remembered: dict[Key, E | None] = {}

    @override
    def find(self, key: Key) -> E | None:
        try:
            return self._remembered[key]
        except KeyError:
            pass
        found = None
        for _, condition, entry in self._entries:
            if all(field.takes(value) for field, value in zip(condition, key, strict=True)):
                found = entry
                break
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = found
        return found

    @override
    def add(self, condition: Condition, rank: tuple[int, ...], entry: E) -> None:
        insort(self._entries, (rank, condition, entry), key=lambda item: item[0])
        self._remembered.clear()

    @override
    def remove(self, condition: Condition, rank: tuple[int, ...]) -> None:
        self._entries = [item for item in self._entries if item[:2] != (rank, condition)]
        self._remembered.clear()

    @override
    def clear(self) -> None:
        self._entries.clear()
        self._remembered.clear()


class ValueSet:
    """A parser's value set. widths: of the fields a member has, as long as nobody said otherwise one field."""

    def __init__(self) -> None:
        self._members: list[Condition] = []

    def replace(self, members: Sequence[Condition]) -> None:
        """Set the members anew."""
        self._members = list(members)

    def __iter__(self) -> Iterator[Condition]:
        return iter(self._members)

    def contains(self, key: Key, masks: Key | None = None) -> bool:
        """Whether a member of the set matches.

        Args:
            key: one value a field.
            masks: of the transition; they apply to key and members alike.
        """
        for member in self._members:
            if len(member) != len(key):
                continue
            if masks is None:
                if all(field.takes(value) for field, value in zip(member, key, strict=True)):
                    return True
            elif all(
                FieldMatch(field.value & mask, field.mask & mask).takes(value)
                for field, value, mask in zip(member, key, masks, strict=True)
            ):
                return True
        return False
