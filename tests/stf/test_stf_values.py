"""Constants as matches of each kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.p4runtime.entries import Match, MatchKind
from switchml.stf.values import match_of

EXACT, LPM, TERNARY = MatchKind.EXACT, MatchKind.LPM, MatchKind.TERNARY
RANGE, OPTIONAL = MatchKind.RANGE, MatchKind.OPTIONAL

GOOD = [
    ("0x1F", EXACT, 8, (31, 0)),
    ("0b101", EXACT, 8, (5, 0)),
    ("0o17", EXACT, 8, (15, 0)),
    ("010", EXACT, 8, (10, 0)),
    ("7", OPTIONAL, 8, (7, 0)),
    ("*", OPTIONAL, 8, None),
    ("0x0a010065", LPM, 32, (0x0A010065, 32)),
    ("0x0a010000/16", LPM, 32, (0x0A010000, 16)),
    ("0x0a01ffff/16", LPM, 32, (0x0A010000, 16)),
    ("0x0a01****", LPM, 32, (0x0A010000, 16)),
    ("0x0a01*", LPM, 32, (0x0A010000, 16)),
    ("5", LPM, 32, (5, 32)),
    ("*", LPM, 32, None),
    ("0/0", LPM, 32, None),
    ("0x25**", TERNARY, 16, (0x2500, 0xFF00)),
    ("0x****0101", TERNARY, 32, (0x0101, 0xFFFF)),
    ("0x2525", TERNARY, 16, (0x2525, 0xFFFF)),
    ("0x5", TERNARY, 16, (5, 0xFFFF)),
    ("0b1*0", TERNARY, 8, (4, 5)),
    ("0xff&&&0x0f", TERNARY, 8, (15, 15)),
    ("0xa0/4", TERNARY, 8, (0xA0, 0xF0)),
    ("1", TERNARY, 1, (1, 1)),
    ("*", TERNARY, 8, None),
    ("0x**", TERNARY, 8, None),
    ("5..9", RANGE, 8, (5, 9)),
    ("5->0x9", RANGE, 8, (5, 9)),
    ("5", RANGE, 8, (5, 5)),
    ("*", RANGE, 8, (0, 255)),
]


@pytest.mark.parametrize(("text", "kind", "width", "wanted"), GOOD)
def test_match(text: str, kind: MatchKind, width: int, wanted: tuple[int, int] | None) -> None:
    assert match_of(text, kind, width) == (None if wanted is None else Match(kind, *wanted))


BAD = [
    ("0x100", EXACT, 8, "does not fit 8 bits"),
    ("0x1*", EXACT, 8, "no single value"),
    ("1&&&1", EXACT, 8, "no single value"),
    ("*", EXACT, 8, "no single value"),
    ("1/33", LPM, 32, "longer than the field's 32 bits"),
    ("0x*1", LPM, 8, "no prefix"),
    ("1&&&1", LPM, 8, "no prefix"),
    ("0x1FF", LPM, 8, "does not fit"),
    ("0x100&&&0x1ff", TERNARY, 8, "does not fit"),
    ("9..5", RANGE, 8, "is empty"),
    ("0..256", RANGE, 8, "does not fit"),
]


@pytest.mark.parametrize(("text", "kind", "width", "why"), BAD)
def test_refused(text: str, kind: MatchKind, width: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        match_of(text, kind, width)


@given(st.integers(1, 16), st.data())
def test_a_ternary_constant_matches_what_its_digits_match(digits: int, data: st.DataObject) -> None:
    pattern = data.draw(st.text("0123456789abcdef*", min_size=digits, max_size=digits))
    value = data.draw(st.integers(0, 16**digits - 1))
    match = match_of(f"0x{pattern}", TERNARY, 4 * digits)
    matches = match is None or value & match.extra == match.value
    written = f"{value:0{digits}x}"
    assert matches == all(want in ("*", have) for want, have in zip(pattern, written, strict=True))
