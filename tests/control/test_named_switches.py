"""How the switches of a job are written."""

from __future__ import annotations

import pytest

from switchml.control.named_switches import NamedSwitch, checked, parse_switches
from switchml.errors import UsageError


@pytest.mark.parametrize(
    ("text", "switches"),
    [
        ("a:1", [("a:1", None)]),
        ("a", [("a", None)]),
        ("a:1,b:2", [("a:1", None), ("b:2", None)]),
        (" a:1*3 , [::1]:2*1000,c", [("a:1", 3), ("[::1]:2", 1000), ("c", None)]),
        ("a:1*1,a:2*1", [("a:1", 1), ("a:2", 1)]),
    ],
)
def test_addresses_and_shares(text: str, switches: list[tuple[str, int | None]]) -> None:
    assert [(each.address, each.share) for each in parse_switches(text)] == switches


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no address of a switch"),
        ("a:1,", "no address of a switch"),
        ("a:1*0", "1 to 1000"),
        ("a:1*1001", "1 to 1000"),
        ("a:1*", "1 to 1000"),
        ("a:1*0.5", "1 to 1000"),
        ("a:1,a:1*2", "named twice"),
        ("a,a:50551", "named twice"),
    ],
)
def test_what_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_switches(text)


def test_no_switch_is_refused_and_tokens_are_not_shown() -> None:
    with pytest.raises(UsageError, match="no switch"):
        checked([])
    assert "secret" not in repr(checked([NamedSwitch("a:1", token="secret")]))
