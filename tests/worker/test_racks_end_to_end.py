"""Racks: leaf switches below a root give the bits of one switch, whatever is lost on any hop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from switchml.control.topology import PlacedSwitch, Topology
from switchml.errors import CollectiveTimeoutError, UsageError
from switchml.switch_emulator import Emulator
from switchml.switch_emulator.faults import new_faults
from switchml.switch_emulator.switch_tree import EmulatedTree
from switchml.worker import Worker
from tests.worker.conftest import World

FREE = ("127.0.0.1", 0)
TWO_RACKS = Topology(
    (
        PlacedSwitch("root", FREE),
        PlacedSwitch("left", FREE, FREE, below="root"),
        PlacedSwitch("right", FREE, FREE, below="root"),
    )
)
THREE_LEVELS = Topology(
    (
        PlacedSwitch("root", FREE),
        PlacedSwitch("middle", FREE, below="root"),
        PlacedSwitch("left", FREE, FREE, below="middle"),
        PlacedSwitch("right", FREE, FREE, below="middle"),
        PlacedSwitch("far", FREE, FREE, below="root"),
    )
)


def _collectives(worker: Worker) -> list[bytes]:
    """A few of each, in flight together."""
    rng = np.random.default_rng(worker.rank)
    works = []
    for root in range(2):
        works.append(worker.allreduce((rng.standard_normal(30_000) * 100).astype(np.float32)))
        works.append(worker.allreduce(rng.integers(-1000, 1000, 5_000, np.int32)))
        works.append(worker.broadcast(rng.integers(0, 256, 30_001, np.uint8), root=root * 3))
        works.append(worker.allgather(rng.standard_normal(3_000)))
        works.append(worker.reduce(rng.standard_normal(9_000).astype(np.float32), root=2 - root))
        works.append(worker.reduce_scatter(rng.standard_normal((4, 10_000)).astype(np.float32)))
        odd = rng.standard_normal(10_000).astype(np.float32)
        odd[rng.integers(0, 10_000)] = np.inf
        works.append(worker.allreduce(odd))
        works.append(worker.barrier())
    return [work.wait().tobytes() for work in works]


@pytest.fixture(scope="module")
def one_level(emulator: Emulator) -> Iterator[list[list[bytes]]]:
    world = World(emulator.control_address, 4, payload=1024, window=64)
    yield world.run(_collectives)
    world.close()


def racks_of(tree: EmulatedTree, leaves: str) -> dict[int, dict[str, Any]]:
    return {
        rank: {"switch": tree.control_addresses[leaf], "transport": "udp"}
        for rank, leaf in enumerate(leaves.split())
    }


@pytest.mark.parametrize(
    ("topology", "leaves", "multicast", "rates"),
    [
        (TWO_RACKS, "left left right right", True, {}),
        (THREE_LEVELS, "left far right right", True, {}),
        (TWO_RACKS, "left right left right", False, {"loss": 0.03, "duplicate": 0.03, "reorder": 0.03}),
    ],
    ids=["no faults", "three levels", "faults on every hop"],
)
def test_racks_give_the_bits_of_one_switch(
    worlds: Any,
    one_level: list[list[bytes]],
    topology: Topology,
    leaves: str,
    multicast: bool,
    rates: dict[str, float],
) -> None:
    with EmulatedTree(topology, faults=lambda number: new_faults(**rates, seed=number)) as tree:
        world = worlds(4, payload=1024, window=64, multicast=multicast, each=racks_of(tree, leaves))
        assert world.run(_collectives) == one_level
        told = {name: target.counters() for name, target in tree.targets.items()}
        world.close()
    chunks = {counters["chunks_completed"] for counters in told.values()}
    assert len(chunks) == 1, "every chunk was complete at each switch"
    for counters in told.values():
        unexpected = ("unknown_sender", "wrong_job", "wrong_size", "bad_header", "ahead", "wrong_slot")
        assert sum(counters[f"dropped_{why}"] for why in unexpected) == 0
    if rates:
        assert min(counters["fault_lost"] for counters in told.values()) > 0


def test_a_job_of_one_rack_is_that_switchs_alone(worlds: Any) -> None:
    with EmulatedTree(TWO_RACKS) as tree:
        world = worlds(2, each=racks_of(tree, "right right"))
        other = worlds(2, each=racks_of(tree, "left right"))
        for each in (world, other):
            sums = each.run(lambda worker: worker.allreduce(np.arange(9_000)).wait().tolist())
            assert sums == [(2 * np.arange(9_000)).tolist()] * 2
        received = {name: target.job_counters(1)["packets_received"] for name, target in tree.targets.items()}
        assert min(received["right"], tree.targets["root"].job_counters(2)["packets_received"]) > 0
        assert (received["root"], received["left"]) == (0, 0)
        world.close()
        other.close()


def test_a_rank_of_another_rack_that_does_not_come_is_named(worlds: Any) -> None:
    with EmulatedTree(TWO_RACKS) as tree:
        world = worlds(4, timeout=1.0, window=16, each=racks_of(tree, "left right left right"))
        told = world.attempt(
            lambda worker: worker.allreduce(np.arange(9_000)).wait() if worker.rank != 3 else None
        )
        for error in told[:3]:
            assert isinstance(error, CollectiveTimeoutError)
            assert "rank 3" in str(error)
        _, maps = tree.controller.observe()
        (slots,) = maps.values()
        assert slots.late == (0, 0, 0, 16), "a whole window"
        assert (slots.missing, slots.first) == ((1,) * 16, (3,) * 16)
        world.close()


def test_a_narrow_wire_is_refused(worlds: Any) -> None:
    with EmulatedTree(TWO_RACKS) as tree, pytest.raises(UsageError, match="this switch knows float32 only"):
        worlds(2, wire="int8", each=racks_of(tree, "left right"))
