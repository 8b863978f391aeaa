"""What the generated source calls."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from switchml.errors import P4AssertionError, PipelineError
from switchml.p4runtime.entries import Match
from switchml.switch_emulator.p4.packet import ParserError, Slots
from switchml.switch_emulator.p4.runs import RUN_TYPES

logger = logging.getLogger("switchml.p4")

# Statements in loops of actions, and parser states, that one frame may run with all its copies: a loop may have no end.
# A second's work; the longest loop of p4c's own tests takes a hundred.
MOST_WORK = 1 << 21


class StackOutOfBoundsError(Exception):
    """Turned into the program's own error code by the parser."""


def last_index(following: int) -> int:
    """The index of the last element of a stack with `following` elements in use."""
    if following == 0:
        raise StackOutOfBoundsError
    return following - 1


def fail(code: int) -> None:
    """End parsing with an error of the program."""
    raise ParserError(code)


def signed_field(value: int, width: int) -> int:
    """What BMv2 keeps in a signed field: numbers that fit its bits stay, even those above the signed maximum."""
    mask = (1 << width) - 1
    if -(1 << (width - 1)) <= value <= mask:
        return value
    value &= mask
    return value - mask - 1 if value >> (width - 1) else value


def same_header(f: Slots, left: int, right: int, valid: int, runs: Sequence[tuple[int, int]]) -> bool:
    """Both headers valid and alike.

    Args:
        f: the packet's slots.
        left: first slot of the one.
        right: first slot of the other.
        valid: slots before the validity.
        runs: (slot, width) of runs among them.
    """
    if not (f[left + valid] and f[right + valid]):
        return False
    ours, theirs = f[left : left + valid], f[right : right + valid]
    for slot, width in runs:
        kind = RUN_TYPES[width]
        if kind.data(ours[slot]) != kind.data(theirs[slot]):
            return False
        ours[slot] = theirs[slot] = 0
    return ours == theirs


def push_front(
    f: Slots, fresh: Slots, first: int, stride: int, size: int, following: int, count: int
) -> None:
    """Make room for `count` invalid elements at the front of a stack; what does not fit falls off its end."""
    count = max(0, min(count, size))
    end, moved = first + stride * size, stride * count
    f[first + moved : end] = f[first : end - moved]
    f[first : first + moved] = fresh[first : first + moved]
    f[following] = min(size, f[following] + count)


def pop_front(f: Slots, fresh: Slots, first: int, stride: int, size: int, following: int, count: int) -> None:
    """Take `count` elements from the front of a stack; the others move up."""
    count = max(0, min(count, size))
    end, moved = first + stride * size, stride * count
    f[first : end - moved] = f[first + moved : end]
    f[end - moved : end] = fresh[end - moved : end]
    f[following] = max(0, f[following] - count)


def format_message(text: str, values: Sequence[int]) -> str:
    """log_msg: every {} replaced by the next value; \\{ and \\} are literal."""
    rest = iter(values)
    message = re.sub(r"(?<!\\)\{[^}]*\}", lambda match: str(next(rest, match.group())), text)
    return message.replace("\\{", "{").replace("\\}", "}")


def log_message(text: str, values: Sequence[int]) -> str:
    """Log a message of the program; what it says."""
    message = format_message(text, values)
    logger.info("%s", message)
    return message


def check(holds: bool, what: str) -> None:
    """Raise P4AssertionError unless it holds."""
    if not holds:
        raise P4AssertionError(f"{what} does not hold")


def endless() -> None:
    """Raise PipelineError: an action or the parser has run too long."""
    raise PipelineError(f"a loop went on after {MOST_WORK} steps of an action or the parser: has it an end?")


def show_array(array: NDArray[Any]) -> str:
    """The first elements of a run."""
    return f" = {', '.join(f'{x:#x}' for x in array[:4].tolist())}{', ...' if len(array) > 4 else ''}"


def show_key(names: Sequence[str], key: Sequence[int]) -> str:
    """A table's key, for a trace."""
    return f" ({', '.join(f'{name} = {value:#x}' for name, value in zip(names, key, strict=True))})"


def show_header(f: Slots, base: int, fields: Sequence[tuple[str, int, int]]) -> str:
    """A header's fields, for a trace.

    Args:
        f: the packet's slots.
        base: the header's first slot.
        fields: name, offset, and for a run the width of its elements.
    """
    shown = []
    for name, offset, width in fields:
        value = f[base + offset]
        shown.append(
            f"{name}{show_array(RUN_TYPES[width].array(value))}" if width else f"{name} = {value:#x}"
        )
    return ", ".join(shown)


def describe(key: Mapping[str, Match], priority: int) -> str:
    """The key of the entry that was hit; "" when it says no more than the packet's."""
    if all(match.kind.value == "exact" for match in key.values()):
        return ""
    fields = []
    for name, match in key.items():
        extra = {
            "lpm": f"/{match.extra}",
            "ternary": f" &&& {match.extra:#x}",
            "range": f"..{match.extra:#x}",
        }
        fields.append(f"{name} = {match.value:#x}{extra.get(match.kind.value, '')}")
    return " entry " + ", ".join(fields) + (f", priority {priority}" if priority else "")
