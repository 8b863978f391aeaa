"""Switches that end, in whatever way, in the middle of a job that goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from switchml.control import embedded
from switchml.errors import SwitchGoneError
from switchml.switch_emulator import Emulator
from switchml.worker import Worker, failover, seat

RANKS = 3
Worlds = Callable[..., Any]


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    """For switches. Asked for before `worlds`, it ends after them: a switch waits for its jobs."""
    with ExitStack() as stack:
        yield stack


def _values(rank: int, call: int) -> npt.NDArray[Any]:
    return np.random.default_rng([rank, call]).integers(-(2**20), 2**20, 30_000, np.int32)


def _sums_until_it_goes_on(worker: Worker, begun: threading.Event) -> bool:
    """All-reduces, in place, until all ranks have had some after an outage; whether all were right."""
    call, after = 0, 0
    right = True
    while after < 5:
        values = _values(worker.rank, call)
        worker.allreduce(values).wait()
        right = right and np.array_equal(values, sum(_values(rank, call) for rank in range(RANKS)))
        call += 1
        if call == 5:
            begun.set()
        went_on = np.array([len(worker.outages())])
        worker.allreduce(went_on, "min").wait()
        after += int(went_on[0] > 0)
    return right


@pytest.mark.parametrize("transport", ["udp", "shm", "memory"])
def test_a_switch_that_is_killed_and_comes_back(undo: ExitStack, worlds: Worlds, transport: str) -> None:
    switch = undo.enter_context(embedded.start())
    switch.keep_alive()
    world = worlds(
        RANKS, switch=switch.address, token=switch.token, transport=transport, recover=60.0, timeout=90.0
    )
    begun = threading.Event()

    def kill() -> None:
        begun.wait(120)
        os.kill(switch.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert world.run(lambda worker: _sums_until_it_goes_on(worker, begun)) == [True] * RANKS
    killer.join()


def test_a_switch_that_ends_in_order_and_one_that_stands_in_for_it(undo: ExitStack, worlds: Worlds) -> None:
    first, second = (undo.enter_context(Emulator()) for _ in range(2))
    both = f"{first.control_address}/{second.control_address}"
    world = worlds(RANKS, switch=both, transport="udp", recover=60.0, timeout=90.0)
    begun = threading.Event()

    def end() -> None:
        begun.wait(120)
        first.close()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    assert world.run(lambda worker: _sums_until_it_goes_on(worker, begun)) == [True] * RANKS
    ending.join()
    assert second.counters()["elements_added"] > 0


def test_the_agreement_leaves_the_kept_packets_alone(
    undo: ExitStack, worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are what contested chunks are summed from."""
    first, second = (undo.enter_context(Emulator()) for _ in range(2))
    both = f"{first.control_address}/{second.control_address}"
    same: list[bool] = []

    def watched(engine: Any, stream: Any, deadline: int) -> None:
        before = engine.kept.copy()
        failover.settle(engine, stream, deadline)
        same.append(before.any() and np.array_equal(before, engine.kept))

    monkeypatch.setattr(seat, "settle", watched)
    world = worlds(RANKS, switch=both, transport="udp", recover=60.0, timeout=90.0)
    world.run(lambda worker: worker.allreduce(_values(worker.rank, 0)).wait())
    first.close()
    world.run(lambda worker: worker.allreduce(_values(worker.rank, 1)).wait())
    assert same == [True] * RANKS


@pytest.mark.parametrize(("recover", "told"), [(0.0, "ended early"), (0.5, "could not go on within 0.5 s")])
def test_a_switch_that_does_not_come_back(undo: ExitStack, worlds: Worlds, recover: float, told: str) -> None:
    switch = undo.enter_context(Emulator())
    world = worlds(2, switch=switch.control_address, transport="udp", recover=recover)
    work = world.workers[0].barrier()
    switch.close()
    with pytest.raises(SwitchGoneError, match=told):
        work.wait()


def test_a_rank_that_is_gone_as_well_is_named(undo: ExitStack, worlds: Worlds) -> None:
    first = undo.enter_context(Emulator())
    port = int(first.control_address.rpartition(":")[2])
    world = worlds(2, switch=first.control_address, transport="udp", recover=5.0)
    work = world.workers[0].barrier()
    first.close()
    world.workers[1].leave()
    undo.enter_context(Emulator(control_port=port))
    with pytest.raises(SwitchGoneError, match=r"could not go on within 5 s: .*rank 1"):
        work.wait()
