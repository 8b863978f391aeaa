"""Constants of a script as matches of a table."""

from __future__ import annotations

from switchml.p4runtime.entries import Match, MatchKind
from switchml.stf.language import integer

_BITS = {"0x": 4, "0b": 1, "0o": 3}


def value_and_mask(text: str, width: int) -> tuple[int, int]:
    """A constant of which digits may be `*`. Without one, all bits of the field count; with one, those of the digits
    written, as p4c's runner has it: 0x2* on 16 bits says nothing of the upper byte.
    """
    if text == "*":
        return 0, 0
    if "*" not in text:
        return integer(text), (1 << width) - 1
    bits = _BITS[text[:2].lower()]
    value = mask = 0
    for digit in text[2:]:
        value <<= bits
        mask <<= bits
        if digit != "*":
            value |= int(digit, 1 << bits)
            mask |= (1 << bits) - 1
    return value, mask


def _lpm(text: str, width: int) -> tuple[int, int]:
    value, slash, prefix = text.partition("/")
    if slash:
        return integer(value), integer(prefix)
    number, mask = value_and_mask(value, width)
    length = mask.bit_count()
    if "*" in value and value != "*":
        # The digits stand for the field's upper ones: 0x0A* is 0x0A at the front.
        digits = value[2:]
        if "*" in digits.rstrip("*"):
            raise ValueError(f"{text!r} is no prefix")
        number <<= max(0, width - len(digits) * _BITS[value[:2].lower()])
    return number, length


def _ternary(text: str, width: int) -> tuple[int, int]:
    value, separator, mask = text.partition("&&&")
    if separator:
        return integer(value) & integer(mask), integer(mask)
    return value_and_mask(value, width)


def _range(text: str, width: int) -> tuple[int, int]:
    for separator in ("..", "->"):
        low, found, high = text.partition(separator)
        if found:
            return integer(low), integer(high)
    value, mask = value_and_mask(text, width)
    return (value, value) if mask else (0, (1 << width) - 1)


def match_of(text: str, kind: MatchKind, width: int) -> Match | None:
    """The match that `text` says, None for "anything".

    Raises:
        ValueError: it is not of the field's kind, or wider than the field.
    """
    if kind is MatchKind.EXACT or kind is MatchKind.OPTIONAL:
        if text == "*" and kind is MatchKind.OPTIONAL:
            return None
        if not text.replace("x", "").replace("X", "").isalnum():
            raise ValueError(f"{text!r} is no single value, and the field is matched as a whole")
        found = Match(kind, integer(text))
    elif kind is MatchKind.LPM:
        if "&&&" in text or ".." in text or "->" in text:
            raise ValueError(f"{text!r} is no prefix")
        found = Match(kind, *_lpm(text, width))
        if found.extra == 0:
            return None
        if found.extra > width:
            raise ValueError(f"prefix {found.extra} is longer than the field's {width} bits")
        found = Match(kind, found.value >> (width - found.extra) << (width - found.extra), found.extra)
    elif kind is MatchKind.TERNARY:
        if "/" in text:
            value, prefix = _lpm(text, width)
            found = Match(kind, value, ((1 << prefix) - 1) << (width - prefix))
        else:
            found = Match(kind, *_ternary(text, width))
        if found.extra == 0:
            return None
        found = Match(kind, found.value & found.extra, found.extra)
    else:
        found = Match(kind, *_range(text, width))
        if found.value > found.extra:
            raise ValueError(f"{text!r} is empty")
    widest = max(found.value, found.extra if kind is not MatchKind.LPM else 0)
    if widest >> width:
        raise ValueError(f"{text!r} does not fit {width} bits")
    return found
