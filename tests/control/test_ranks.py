from __future__ import annotations

import pytest

from switchml.control.ranks import name_ranks


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([], "no rank"),
        ([3], "rank 3"),
        ([1, 0], "ranks 0-1"),
        ([9, 2, 3, 4, 0], "ranks 0, 2-4, 9"),
        ([5, 5], "rank 5"),
    ],
)
def test_runs_are_joined(ranks: list[int], text: str) -> None:
    assert name_ranks(ranks) == text
