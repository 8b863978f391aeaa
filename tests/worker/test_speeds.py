"""Shares by speed."""

from __future__ import annotations

import pytest

from switchml.worker.speeds import shares_by_speed


@pytest.mark.parametrize(
    ("seconds", "shares"),
    [
        ([0.1, 0.1], (1, 1)),
        ([0.1, 0.14, 0.12], (1, 1, 1)),
        ([0.1, 0.2], (16, 8)),
        ([0.3, 0.1, 0.11], (5, 16, 15)),
        ([0.001, 9.0], (16, 1)),
    ],
)
def test_in_proportion_but_for_what_clocks_make_of_it(seconds: list[float], shares: tuple[int, ...]) -> None:
    assert shares_by_speed(seconds) == shares
