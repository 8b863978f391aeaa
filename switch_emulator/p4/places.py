"""Where in a program something is wrong, and how much of everything a program may have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from switchml.errors import MalformedProgramError, UnsupportedProgramError
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4.source_writer import one_line

# Far above what p4c makes of programs that people write; a program from a stranger must not take gigabytes or minutes.
MOST_JSON_BYTES = 16 << 20
MOST_BITS = 1 << 14  # of a field, a parameter, a register's cell
MOST_NODES = 4096  # of a pipeline
MOST_INPUTS = 1024  # of a calculation
MOST_STATE_BYTES = 1 << 29  # of all registers, counters and meters together

# Of a message.
_LONGEST = 1000

# What code that takes a well-formed program for granted raises for another.
_MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeRequestError,
    TypeError,
    ValueError,
)


@contextmanager
def at(place: str, *, outermost: bool = False) -> Iterator[None]:
    """What goes wrong inside names the place.

    Args:
        place: as "table ingress.t", "actions[3]".
        outermost: says nothing that is new to an error that names a place already.

    Raises:
        UnsupportedProgramError: as raised inside, the place before its message.
        MalformedProgramError: for whatever else was raised inside.
    """
    try:
        yield
    except UnsupportedProgramError as error:
        if outermost:
            raise
        raise type(error)(one_line(f"{one_line(place)}: {error}", _LONGEST)) from error
    except _MALFORMED as error:
        raise MalformedProgramError(f"{one_line(place)}: {_meaning(error)}") from error


def _meaning(error: BaseException) -> str:
    match error:
        case KeyError():
            return one_line(f"there is no {error.args[0] if error.args else 'such name'!r}")
        case IndexError():
            return "an index or a list that is too short"
        case RecursionError() | MemoryError():
            return "it is nested too deeply, or too large"
        case AssertionError() | AttributeError() | TypeError():
            return one_line(f"something of another type than expected ({error})")
    return one_line(str(error))


def listed(
    parent: Mapping[str, Any], key: str, *, needed: bool = False
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a list in the JSON, each with its place.

    Raises:
        MalformedProgramError: it is no list of objects.
    """
    items = parent[key] if needed else parent.get(key)
    if items is None and not needed:
        return
    if not isinstance(items, list):
        raise MalformedProgramError(f"{key}: a list is wanted, not {_shown(items)}")
    for number, item in enumerate(items):
        place = f"{key}[{number}]"
        if not isinstance(item, dict):
            raise MalformedProgramError(f"{place}: an object is wanted, not {_shown(item)}")
        name = item.get("name")
        yield f"{place} {name}" if isinstance(name, str) else place, item


def text(item: Mapping[str, Any], key: str) -> str:
    """A text of the JSON.

    Raises:
        MalformedProgramError: it is none.
    """
    value = item[key]
    if not isinstance(value, str):
        raise MalformedProgramError(f"{key}: a text is wanted, not {_shown(value)}")
    return value


def number(value: Any, what: str, low: int, high: int) -> int:
    """A whole number within bounds.

    Raises:
        MalformedProgramError: it is none, or too small.
        UnsupportedProgramError: it is too large for this target.
    """
    if isinstance(value, float | bool | None) and value not in (0, 1):
        raise MalformedProgramError(f"{what}: a whole number is wanted, not {_shown(value)}")
    found = int(value)
    if found < low:
        raise MalformedProgramError(f"{what}: {_shown(found)}, at least {low} is wanted")
    if found > high:
        raise UnsupportedProgramError(f"{what}: {_shown(found)}, this target takes at most {high}")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return f"a number of {value.bit_length()} bits"
    shown = one_line(repr(value)) if not isinstance(value, dict | list) else f"a {type(value).__name__}"
    return shown if len(shown) <= 40 else shown[:37] + "..."
