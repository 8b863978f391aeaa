"""Values as Python source, with the bounds of what they can be. Arithmetic is exact, as in BMv2; a value is cut to its
width when it is stored, unless its bounds say that it fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from switchml.switch_emulator.p4.program_model import FieldType

Bound = int | None

# A shift by more than any field is wide gives what a shift by this does.
LONGEST_SHIFT = 1 << 14


@dataclass(frozen=True)
class Code:
    """Source of a value.

    Attributes:
        low: what it can be, None = without limit.
        high: what it can be, None = without limit.
        truth: it is a bool.
    """

    text: str
    low: Bound = None
    high: Bound = None
    truth: bool = False

    def fits(self, width: int) -> bool:
        """Whether it is surely an unsigned number of `width` bits."""
        return self.low is not None and self.high is not None and self.low >= 0 and self.high < 1 << width


def field_bounds(field: FieldType) -> tuple[int, int]:
    """What a field can hold. A signed one can hold an unsigned number of its width as well: BMv2 keeps a value up to
    2^width - 1 as it is, until the field is read from a packet again.
    """
    high = (1 << field.width) - 1
    return (-(1 << (field.width - 1)) if field.signed else 0), high


def stored(code: Code, field: FieldType, *, variable_width: str = "") -> str:
    """Source of `code` cut to what the field can hold."""
    if variable_width:
        return f"{code.text} & ((1 << {variable_width}) - 1)"
    mask = (1 << field.width) - 1
    if not field.signed:
        if code.fits(field.width):
            return code.text
        if field.saturating:
            return f"min(max({code.text}, 0), {hex(mask)})"
        return f"{code.text} & {hex(mask)}"
    low, high = -(1 << (field.width - 1)), (1 << (field.width - 1)) - 1
    if field.saturating:
        return f"min(max({code.text}, {low}), {high})"
    if code.low is not None and code.high is not None and code.low >= low and code.high <= mask:
        return code.text
    return f"signed_field({code.text}, {field.width})"


def least(a: Bound, b: Bound) -> Bound:
    """The smaller bound, if both are known."""
    return None if a is None or b is None else min(a, b)


def most(a: Bound, b: Bound) -> Bound:
    """The larger bound, if both are known."""
    return None if a is None or b is None else max(a, b)


def _ones(*highs: int) -> int:
    return (1 << max(high.bit_length() for high in highs)) - 1


def is_ones(number: int) -> bool:
    """All ones in binary, without leading zeros."""
    return number > 0 and number & (number + 1) == 0


def arithmetic(op: str, a: Code, b: Code = Code("", 0, 0)) -> Code:
    """Source of `a op b`, with its bounds; ~ takes `a` alone."""
    if op == "~":
        known = a.low is not None and a.high is not None
        return Code(f"(~{a.text})", -1 - a.high if known else None, -1 - a.low if known else None)  # type: ignore[operator]
    python_op = "//" if op == "/" else op
    text = f"({a.text} {python_op} {b.text})"
    if op == "<<" and (b.high is None or b.high > LONGEST_SHIFT):
        text = f"({a.text} << min({b.text}, {LONGEST_SHIFT}))"
    if op == "&":
        for value, mask in ((a, b), (b, a)):
            if (
                mask.low is not None
                and mask.low == mask.high
                and is_ones(mask.low)
                and value.fits(mask.low.bit_length())
            ):
                return value
        highs = [
            code.high for code in (a, b) if code.low is not None and code.low >= 0 and code.high is not None
        ]
        return Code(text, 0, min(highs)) if highs else Code(text)
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Code(text)
    bounds = _BOUNDS[op](a.low, a.high, b.low, b.high)
    return Code(text) if bounds is None else Code(text, *bounds)


def _add(a: int, b: int, c: int, d: int) -> tuple[int, int]:
    return a + c, b + d


def _subtract(a: int, b: int, c: int, d: int) -> tuple[int, int]:
    return a - d, b - c


def _multiply(a: int, b: int, c: int, d: int) -> tuple[int, int]:
    corners = (a * c, a * d, b * c, b * d)
    return min(corners), max(corners)


def _or(a: int, b: int, c: int, d: int) -> tuple[int, int] | None:
    return (0, _ones(b, d)) if a >= 0 and c >= 0 else None


def _left(a: int, b: int, c: int, d: int) -> tuple[int, int] | None:
    return (0, b << d) if a >= 0 and 0 <= d <= 4096 else None


def _right(a: int, b: int, c: int, d: int) -> tuple[int, int] | None:
    return (0, b >> c) if a >= 0 and 0 <= c <= 4096 else None


def _divide(a: int, b: int, c: int, d: int) -> tuple[int, int] | None:
    return (0, b) if a >= 0 and c >= 0 else None


def _modulo(a: int, b: int, c: int, d: int) -> tuple[int, int] | None:
    return (0, min(b, d)) if a >= 0 and c >= 0 else None


_BOUNDS: dict[str, Callable[..., tuple[int, int] | None]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "|": _or,
    "^": _or,
    "<<": _left,
    ">>": _right,
    "/": _divide,
    "%": _modulo,
}
