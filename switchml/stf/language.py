"""The language: one statement a line, `#` begins a comment, keywords in any case.

    packet PORT HEX...                    a frame comes in
    expect PORT [HEX... [$]]              a frame leaves: `*` any digit, `$` nothing follows, no data: any frame
    no_packet [PORT]                      nothing leaves there (without a port: anywhere)
    wait [SECONDS]
    add TABLE [PRIORITY] KEY:MATCH... ACTION(NAME:VALUE, ...) [= HANDLE]
    setdefault TABLE ACTION(...)
    remove all [TABLE]  |  remove HANDLE  |  remove TABLE [PRIORITY] KEY:MATCH...
    check_counter NAME(INDEX or HANDLE) [packets|bytes == != < <= > >= NUMBER]
    check_register NAME(INDEX) CONDITION NUMBER
    mc_mgrp_create, mc_node_create, ...   the runtime CLI's verbs (`DIRECT`), arguments as there; multicast nodes are
                                          numbered from 0 in the order of their creation

MATCH: 0x12, 0b01, 0o7 or decimal; `*` for digits that do not matter; VALUE/PREFIX, VALUE&&&MASK, LOW..HIGH, `*`. In an
action, arguments may stand without names, in order. A larger priority wins. What p4c's runner passes over or does not know:
`check_counter` is checked, `check_register`, `remove` of single entries, ports after `no_packet`, seconds after `wait`,
masks, ranges and unnamed arguments are additions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from switchml.errors import SwitchMLError

_LONGEST_WAIT = 24 * 3600
_MOST_DIGITS = 3000  # of any base; as a decimal number it has fewer than Python's limit of 4300


class StfError(SwitchMLError):
    """A script that cannot be read or that does not fit its program; the message begins with FILE:LINE, or FILE alone."""

    def __init__(self, where: str, line: int, message: str) -> None:
        super().__init__(f"{where}:{line}: {message}" if line else f"{where}: {message}")
        self.line = line


@dataclass(frozen=True)
class Statement:
    """One line of a script; line: its number."""

    line: int


@dataclass(frozen=True)
class Packet(Statement):
    """A frame comes in."""

    port: int
    data: bytes


@dataclass(frozen=True)
class Expect(Statement):
    """A frame leaves.

    Attributes:
        pattern: upper-case hexadecimal digits and `*`; None: any packet.
        exact: nothing may follow.
    """

    port: int
    pattern: str | None
    exact: bool


@dataclass(frozen=True)
class NoPacket(Statement):
    """No frame leaves by this port; None: by any."""

    port: int | None


@dataclass(frozen=True)
class Wait(Statement):
    """Time passes; seconds: how much."""

    seconds: float


@dataclass(frozen=True)
class Call:
    """An action and its arguments as written: (name, value), name "" for one without."""

    name: str
    arguments: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Add(Statement):
    """An entry is added.

    Attributes:
        key: (field, match) as written.
    """

    table: str
    priority: int | None
    key: tuple[tuple[str, str], ...]
    action: Call
    handle: str


@dataclass(frozen=True)
class SetDefault(Statement):
    """A table's default action is set."""

    table: str
    action: Call


@dataclass(frozen=True)
class Remove(Statement):
    """Entries are removed.

    Attributes:
        name: a table, a handle, or "" for all tables.
        everything: all entries of `name`.
    """

    name: str
    everything: bool
    priority: int | None
    key: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Condition:
    """What a counter or register is compared with.

    Attributes:
        quantity: packets, bytes or value.
    """

    quantity: str
    operator: str
    number: int

    def holds(self, value: int) -> bool:
        """Whether `value` meets it."""
        return OPERATORS[self.operator](value, self.number)

    def __str__(self) -> str:
        return f"{self.quantity} {self.operator} {self.number}"


@dataclass(frozen=True)
class CheckCounter(Statement):
    """A counter's cell, or that of the entry with this handle, meets a condition."""

    counter: str
    index: str
    condition: Condition | None


@dataclass(frozen=True)
class CheckRegister(Statement):
    """A register's cell meets a condition."""

    register: str
    index: int
    condition: Condition


@dataclass(frozen=True)
class Direct(Statement):
    """A verb of BMv2's runtime CLI.

    Attributes:
        name: of the counter, register or meter, "" where the verb takes none.
    """

    verb: str
    name: str
    arguments: tuple[str, ...]


OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}

# Verb: whether a name comes first, the fewest and the most arguments after it.
DIRECT = {
    "mc_mgrp_create": (False, 1, 1),
    "mc_mgrp_destroy": (False, 1, 1),
    "mc_node_create": (False, 1, 512),
    "mc_node_update": (False, 2, 512),
    "mc_node_associate": (False, 2, 2),
    "mc_node_dissociate": (False, 2, 2),
    "mc_node_destroy": (False, 1, 1),
    "mirroring_add": (False, 2, 2),
    "mirroring_add_mc": (False, 2, 2),
    "mirroring_delete": (False, 1, 1),
    "mirroring_get": (False, 1, 1),
    "counter_read": (True, 1, 1),
    "counter_write": (True, 3, 3),
    "counter_reset": (True, 0, 0),
    "register_read": (True, 0, 1),
    "register_write": (True, 2, 2),
    "register_reset": (True, 0, 0),
    "meter_get_rates": (True, 1, 1),
    "meter_set_rates": (True, 2, 3),
    "meter_array_set_rates": (True, 1, 2),
}

# Where their rates begin: as RATE:BURST, the rate as wide as a float reads.
_FIRST_RATE = {"meter_set_rates": 1, "meter_array_set_rates": 0}
# ASCII: other scripts have digits, too, and not all of them make a number.
_RATE = re.compile(r"\d{1,100}(\.\d{1,100})?:\d+", re.ASCII)
_CELL = re.compile(r"\d+|0[xX][0-9a-fA-F]+", re.ASCII)
_DIGITS = re.compile(r"\d+", re.ASCII)

_NAME = r'(?:"[^"]+"|[A-Za-z_$.][\w$]*(?:\[\d+\])?(?:\.[\w$]+(?:\[\d+\])?)*)'
_NUMBER = r"(?:0[xX][0-9a-fA-F*]+|0[bB][01*]+|0[oO][0-7*]+|\d+|\*)"
_MATCH = rf"{_NUMBER}(?:/\d+|&&&{_NUMBER}|(?:\.\.|->){_NUMBER})?"
_TOKENS = re.compile(
    rf"\s*(?:(?P<match>(?P<field>{_NAME})\s*:\s*(?P<value>{_MATCH}))(?![\w.(])"
    rf"|(?P<number>{_NUMBER})(?![\w(])"
    rf"|(?P<name>{_NAME})|(?P<operator>==|!=|<=|>=|<|>|=)|(?P<mark>[(),:]))",
    re.ASCII,
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    field: str = ""


def _plain(name: str) -> str:
    """A name without the quotes p4testgen puts around its parts."""
    return name.replace('"', "")


class _Line:
    """The tokens of one line, with what to say when one is missing."""

    def __init__(self, where: str, number: int, text: str) -> None:
        self._where, self.number = where, number
        self._tokens: list[_Token] = []
        self._at = 0
        at = 0
        while at < len(text):
            found = _TOKENS.match(text, at)
            if found is None:
                raise self.error(f"cannot read {text[at:].strip().split()[0]!r}")
            at = found.end()
            kind = str(found.lastgroup)
            if found["match"] is not None:
                self._tokens.append(_Token("match", found["value"], _plain(found["field"])))
            else:
                self._tokens.append(
                    _Token(kind, _plain(found[kind]) if kind == "name" else found[kind].strip())
                )

    def error(self, message: str) -> StfError:
        return StfError(self._where, self.number, message)

    def peek(self, kind: str, text: str = "") -> bool:
        if self._at == len(self._tokens):
            return False
        token = self._tokens[self._at]
        return token.kind == kind and (not text or token.text == text)

    def take(self, kind: str, wanted: str, text: str = "") -> _Token:
        if not self.peek(kind, text):
            shown = (
                repr(self._tokens[self._at].text) if self._at < len(self._tokens) else "the end of the line"
            )
            raise self.error(f"{wanted} expected, not {shown}")
        self._at += 1
        return self._tokens[self._at - 1]

    def number_or(self, default: int | None) -> int | None:
        return self.integer("") if self.peek("number") else default

    def integer(self, wanted: str) -> int:
        text = self.take("number", wanted).text
        if "*" in text:
            raise self.error(f"{wanted or 'a number'} expected, not {text!r}")
        return integer(text)

    def name(self, wanted: str) -> str:
        return self.take("name", wanted).text

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise self.error(f"{self._tokens[self._at].text!r} is one word too many")

    def rest(self) -> list[_Token]:
        rest = self._tokens[self._at :]
        self._at = len(self._tokens)
        return rest

    def key(self) -> tuple[tuple[str, str], ...]:
        fields = []
        while self.peek("match"):
            token = self.take("match", "")
            fields.append((token.field, token.text))
        return tuple(fields)

    def call(self) -> Call:
        name = self.name("an action")
        if self.peek("mark", ":"):
            raise self.error(
                f"what stands after {name!r}: is no match: 0x12, 0x1*, VALUE/PREFIX, VALUE&&&MASK, LOW..HIGH"
            )
        self.take("mark", "'(' after the action", "(")
        arguments: list[tuple[str, str]] = []
        while not self.peek("mark", ")"):
            if arguments:
                self.take("mark", "',' or ')'", ",")
            if self.peek("match"):
                token = self.take("match", "")
                arguments.append((token.field, token.text))
            else:
                arguments.append(("", self.take("number", "an argument").text))
        self.take("mark", "')'", ")")
        return Call(name, tuple(arguments))

    def condition(self, quantity: str) -> Condition:
        operator = self.take("operator", f"one of {' '.join(OPERATORS)}").text
        if operator not in OPERATORS:
            raise self.error(f"one of {' '.join(OPERATORS)} expected, not {operator!r}")
        return Condition(quantity, operator, self.integer("a number"))


def integer(text: str) -> int:
    """The value of a constant without wildcards; one longer than Python reads and writes becomes one that fits nothing either."""
    if len(text) > _MOST_DIGITS:
        return 1 << 4 * _MOST_DIGITS
    return int(text, 0) if text[:1] == "0" and not text.isdigit() else int(text)


def _packet(line: _Line, text: str) -> Packet:
    port, digits = _port_and_digits(line, text)
    if not digits:
        raise line.error("a packet has data")
    if len(digits) % 2:
        raise line.error(f"{len(digits)} hexadecimal digits: one is missing")
    try:
        return Packet(line.number, port, bytes.fromhex(digits))
    except ValueError:
        raise line.error(f"{_foreign(digits, '')!r} is no hexadecimal digit") from None


def _expect(line: _Line, text: str) -> Expect:
    port, digits = _port_and_digits(line, text)
    exact = digits.endswith("$")
    digits = digits.removesuffix("$")
    if foreign := _foreign(digits, "*"):
        raise line.error(f"{foreign!r} is neither a hexadecimal digit nor '*', nor '$' at the end")
    return Expect(line.number, port, digits.upper() if digits or exact else None, exact)


def _foreign(digits: str, also: str) -> str:
    return next((digit for digit in digits if digit not in "0123456789abcdefABCDEF" + also), "")


def _port_and_digits(line: _Line, text: str) -> tuple[int, str]:
    words = text.split()
    if not words or not _DIGITS.fullmatch(words[0]):
        raise line.error(f"a port number expected, not {words[0]!r}" if words else "a port number is missing")
    return integer(words[0]), "".join(words[1:])


def _no_packet(line: _Line) -> NoPacket:
    return NoPacket(line.number, line.number_or(None))


def _wait(line: _Line) -> Wait:
    seconds = line.number_or(1) or 0
    if seconds > _LONGEST_WAIT:
        raise line.error(f"a wait is of {_LONGEST_WAIT} seconds at most")
    return Wait(line.number, float(seconds))


def _add(line: _Line) -> Add:
    table, priority, key, call = line.name("a table"), line.number_or(None), line.key(), line.call()
    handle = ""
    if line.peek("operator", "="):
        line.take("operator", "")
        handle = line.name("a handle")
    return Add(line.number, table, priority, key, call, handle)


def _setdefault(line: _Line) -> SetDefault:
    return SetDefault(line.number, line.name("a table"), line.call())


def _remove(line: _Line) -> Remove:
    name = line.name("'all', a table or a handle")
    if name.lower() == "all":
        return Remove(line.number, line.name("a table") if line.peek("name") else "", True, None, ())
    return Remove(line.number, name, False, line.number_or(None), line.key())


def _index_in_parentheses(line: _Line) -> str:
    line.take("mark", "'(' and an index", "(")
    token = line.take("name" if line.peek("name") else "number", "an index or a handle")
    if "*" in token.text:
        raise line.error(f"an index or a handle expected, not {token.text!r}")
    line.take("mark", "')'", ")")
    return token.text


def _check_counter(line: _Line) -> CheckCounter:
    counter, index = line.name("a counter"), _index_in_parentheses(line)
    condition = None
    if line.peek("name"):
        quantity = line.name("").lower()
        if quantity not in ("packets", "bytes"):
            raise line.error(f"packets or bytes expected, not {quantity!r}")
        condition = line.condition(quantity)
    return CheckCounter(line.number, counter, index, condition)


def _check_register(line: _Line) -> CheckRegister:
    register, index = line.name("a register"), _index_in_parentheses(line)
    if not _DIGITS.fullmatch(index):
        raise line.error(f"an index expected, not {index!r}")
    return CheckRegister(line.number, register, integer(index), line.condition("value"))


def _direct(verb: str, line: _Line, text: str) -> Direct:
    named, fewest, most = DIRECT[verb]
    words = text.split()
    if named and not words:
        raise line.error(f"{verb} needs a name")
    name, arguments = (_plain(words[0]), words[1:]) if named else ("", words)
    if not fewest <= len(arguments) <= most:
        wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise line.error(f"{verb} takes {wanted} argument{'s' * (most != 1)}, not {len(arguments)}")
    first_rate = _FIRST_RATE.get(verb, len(arguments))
    for place, word in enumerate(arguments):
        if not (_RATE if place >= first_rate else _CELL).fullmatch(word):
            raise line.error(f"{verb} does not take {word!r}")
    return Direct(line.number, verb, name, tuple(arguments))


_STATEMENTS: dict[str, Callable[[_Line], Statement]] = {
    "no_packet": _no_packet,
    "wait": _wait,
    "add": _add,
    "setdefault": _setdefault,
    "remove": _remove,
    "check_counter": _check_counter,
    "check_register": _check_register,
}
_DATA: dict[str, Callable[[_Line, str], Statement]] = {"packet": _packet, "expect": _expect}


def _statement(where: str, number: int, text: str) -> Statement:
    keyword, _, rest = text.partition(" ")
    keyword = keyword.lower()
    if keyword in _DATA:
        return _DATA[keyword](_Line(where, number, ""), rest)
    if keyword in DIRECT:
        return _direct(keyword, _Line(where, number, ""), rest)
    if keyword not in _STATEMENTS:
        known = ", ".join(sorted([*_STATEMENTS, *_DATA, *DIRECT]))
        raise StfError(where, number, f"no statement begins with {keyword!r}; there are: {known}")
    line = _Line(where, number, rest.rstrip())
    statement = _STATEMENTS[keyword](line)
    line.end()
    return statement


def parse(text: str, where: str = "script") -> list[Statement]:
    """The statements of a script. `where` stands before the line number in errors.

    Raises:
        StfError: a line is none of the language.
    """
    statements = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = " ".join(raw.partition("#")[0].split())
        if line:
            statements.append(_statement(where, number, line))
    return statements


def parse_file(path: Path) -> list[Statement]:
    """`parse` of a file.

    Raises:
        StfError: it cannot be read, or as `parse`.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StfError(str(path), 0, f"cannot be read: {why}") from error
    return parse(text, str(path))
