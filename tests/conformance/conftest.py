"""Machines of every kind, made once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from conformance_targets import MACHINES, PROGRAMS, Machine


@pytest.fixture(scope="session")
def _made() -> Iterator[Callable[[str, int], Machine]]:
    made: dict[tuple[str, int], Machine] = {}
    with ExitStack() as opened:
        # Before the first test, so that it is not taken for having left these processes behind.
        for elements in PROGRAMS:
            made["plain", elements] = MACHINES["plain"].make(elements)
            opened.callback(made["plain", elements].close)

        def machine(target: str, elements: int) -> Machine:
            if (target, elements) not in made:
                made[target, elements] = MACHINES[target].make(elements)
                opened.callback(made[target, elements].close)
            return made[target, elements]

        yield machine


@pytest.fixture
def machines(_made: Callable[[str, int], Machine]) -> Callable[[str, int], Machine]:
    """(target, elements) -> a machine as new."""

    def machine(target: str, elements: int) -> Machine:
        found = _made(target, elements)
        found.renew()
        return found

    return machine


@pytest.fixture
def bmv2() -> None:
    """Skips where BMv2 is not installed."""
    from switchml.stf.bmv2 import find_bmv2
    from switchml.stf.bmv2_cli import Bmv2Error

    try:
        find_bmv2()
    except Bmv2Error as error:
        pytest.skip(str(error))
