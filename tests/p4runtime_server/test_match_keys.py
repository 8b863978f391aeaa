"""Keys: any that a client may send comes back as it was sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from switchml.p4runtime.codec import as_ternary, canonical_key, key_messages, parse_key
from switchml.p4runtime.entries import Match, MatchKind
from switchml.p4runtime.schema import FieldInfo
from switchml.p4runtime.stubs import p4runtime_pb2 as pb

widths = st.integers(1, 130)


@st.composite
def fields_and_keys(draw: st.DrawFn) -> tuple[dict[int, FieldInfo], dict[str, Match]]:
    fields = {}
    key = {}
    for number in range(1, draw(st.integers(1, 6)) + 1):
        width, kind = draw(widths), draw(st.sampled_from(list(MatchKind)))
        fields[number] = FieldInfo(number, f"f{number}", width, kind)
        if kind is MatchKind.EXACT or draw(st.booleans()):
            key[f"f{number}"] = draw(matches(kind, width))
    return fields, key


@st.composite
def matches(draw: st.DrawFn, kind: MatchKind, width: int) -> Match:
    """Any match, also one that spells out what does not count."""
    value, other = (draw(st.integers(0, (1 << width) - 1)) for _ in range(2))
    if kind is MatchKind.LPM:
        return Match(kind, value, draw(st.integers(0, width)))
    if kind is MatchKind.TERNARY:
        return Match(kind, value, other)
    if kind is MatchKind.RANGE:
        return Match(kind, min(value, other), max(value, other))
    return Match(kind, value)


@given(fields_and_keys())
def test_keys_come_back_in_canonical_form(case: tuple[dict[int, FieldInfo], dict[str, Match]]) -> None:
    fields, key = case
    messages = [pb.FieldMatch.FromString(m.SerializeToString()) for m in key_messages(fields, key)]
    parsed = parse_key(fields, messages, "t")
    assert parsed == canonical_key(fields, key)
    assert canonical_key(fields, parsed) == parsed
    assert key_messages(fields, parsed) == messages


@given(st.data(), widths)
def test_a_prefix_as_a_mask(data: st.DataObject, width: int) -> None:
    length = data.draw(st.integers(0, width))
    value, sample = (data.draw(st.integers(0, (1 << width) - 1)) for _ in range(2))
    value &= -1 << (width - length)
    ternary = as_ternary(Match(MatchKind.LPM, value, length), width)
    assert ternary.kind is MatchKind.TERNARY
    same_prefix = sample >> (width - length) == value >> (width - length)
    assert (sample & ternary.extra == ternary.value) == same_prefix
