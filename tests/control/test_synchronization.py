"""Barriers and broadcasts without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from switchml.control.synchronization import Barriers, Broadcasts


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 10))


def test_a_barrier_opens_for_all_at_once() -> None:
    async def story() -> None:
        barriers = Barriers()
        first, second = barriers.arrive(3), barriers.arrive(3)
        assert first is second
        assert not first.done.done()
        assert barriers.arrive(3).done.done()
        assert first.done.done()
        assert not barriers.arrive(3).done.done()

    run(story())


def test_barriers_of_other_sizes_are_others() -> None:
    async def story() -> None:
        barriers = Barriers()
        assert barriers.arrive(2) is not barriers.arrive(3)
        assert barriers.arrive(1).done.done()

    run(story())


def test_who_gives_up_does_not_count() -> None:
    async def story() -> None:
        barriers = Barriers()
        gone = barriers.arrive(2)
        barriers.depart(gone)
        assert not barriers.arrive(2).done.done()
        last = barriers.arrive(2)
        assert last.done.done()
        barriers.depart(last)
        assert not barriers.arrive(2).done.done()

    run(story())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_broadcast_tells_the_value_of_the_root(order: tuple[int, ...]) -> None:
    async def story() -> None:
        broadcasts = Broadcasts()
        tellings = {rank: broadcasts.arrive(40 + rank, rank, 3, 1) for rank in order}
        assert {rank: telling.value.result() for rank, telling in tellings.items()} == {0: 41, 1: 41, 2: 41}

    run(story())


def test_a_fast_root_is_a_broadcast_ahead() -> None:
    async def story() -> None:
        broadcasts = Broadcasts()
        broadcasts.arrive(7, 0, 2, 0)
        broadcasts.arrive(8, 0, 2, 0)
        assert broadcasts.arrive(0, 1, 2, 0).value.result() == 7
        assert broadcasts.arrive(0, 1, 2, 0).value.result() == 8
        third = broadcasts.arrive(0, 1, 2, 0)
        assert not third.value.done()
        broadcasts.depart(third, 1, 2, 0)
        assert broadcasts.arrive(9, 0, 2, 0).ranks == {0}

    run(story())
