"""Statements made ready for a target: names resolved, constants turned into matches and arguments of the right width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from switchml.errors import SwitchMLError
from switchml.p4runtime.entries import ActionCall, Match, MatchKind, MeterRates
from switchml.stf.language import Call, integer
from switchml.stf.program_names import DeclaredTable
from switchml.stf.values import match_of


class BindingError(SwitchMLError):
    """A statement that does not fit the program."""


class EntryKey(NamedTuple):
    """What identifies an entry."""

    table: DeclaredTable
    key: Mapping[str, Match]
    priority: int


def bind_key(table: DeclaredTable, written: Iterable[tuple[str, str]], priority: int | None) -> EntryKey:
    """The key of an entry. Fields that are not written are 0 where they are matched as a whole, anything otherwise (as in
    p4c's runner). A table with priorities gets the script's plus one, because 0 is none; larger wins.

    Raises:
        BindingError, UnknownNameError.
    """
    given: dict[str, Match | None] = {}
    for name, text in written:
        field = table.field(name)
        if field.name in given:
            raise BindingError(f"key field {field.name} is given twice")
        try:
            given[field.name] = match_of(text, field.kind, field.width)
        except ValueError as error:
            raise BindingError(f"key field {field.name}: {error}") from error
    key = {}
    for field in table.key:
        match = given.get(field.name)
        if match is not None:
            key[field.name] = match
        elif field.kind is MatchKind.EXACT:
            key[field.name] = Match(MatchKind.EXACT, 0)
    return EntryKey(table, key, (priority or 0) + 1 if table.prioritised else 0)


def bind_call(table: DeclaredTable, call: Call) -> ActionCall:
    """The action with its arguments in order.

    Raises:
        BindingError: arguments missing, unknown, given twice or too large.
        UnknownNameError: the table has no such action.
    """
    action = table.action(call.name)
    known = action.names
    given: dict[str, int] = {}
    for position, (name, text) in enumerate(call.arguments):
        if not name and position >= len(known):
            raise BindingError(
                f"action {action.name} takes {len(known)} arguments, not {len(call.arguments)}"
            )
        name = name or known[position]
        if name not in known or name in given:
            problem = (
                "is given twice" if name in given else f"is none of {', '.join(known) or 'no arguments'}"
            )
            raise BindingError(f"action {action.name}: argument {name!r} {problem}")
        if "*" in text or not text.isalnum():
            raise BindingError(f"action {action.name}: argument {name!r} is one number, not {text!r}")
        given[name] = integer(text)
    for parameter in action.parameters:
        name, width = parameter.name, parameter.width
        if name not in given:
            raise BindingError(f"action {action.name}: argument {name!r} is missing")
        if given[name] >> width:
            raise BindingError(f"action {action.name}: {name} = {given[name]} does not fit {width} bits")
    return action.call(given)


def bind_rates(words: Iterable[str]) -> MeterRates:
    """Rates as RATE:BURST, units a microsecond, the committed first; one alone is both.

    Raises:
        BindingError: the second is lower than the first.
    """
    rates = []
    for word in words:
        rate, _, burst = word.partition(":")
        rates.append((round(float(rate) * 1e6), integer(burst)))
    (cir, cburst), (pir, pburst) = rates[0], rates[-1]
    if pir < cir:
        raise BindingError("the peak rate is below the committed rate")
    return MeterRates(cir, cburst, pir, pburst)
