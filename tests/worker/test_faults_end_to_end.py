"""Lost, doubled and reordered packets change nothing but the time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from switchml.switch_emulator import Emulator
from switchml.switch_emulator.faults import new_faults
from switchml.worker import Worker


def _everything(worker: Worker) -> list[bytes]:
    """A few of each collective, in flight together."""
    rng = np.random.default_rng(worker.rank)
    works = []
    for _ in range(3):
        works.append(worker.allreduce((rng.standard_normal(30_000) * 100).astype(np.float32)))
        works.append(worker.allreduce(rng.integers(-1000, 1000, 5_000, np.int32)))
        works.append(worker.allreduce(rng.standard_normal(100), "max"))
        works.append(worker.broadcast(rng.integers(0, 256, 3_001, np.uint8), root=1))
        works.append(worker.allgather(rng.standard_normal(500)))
        odd = rng.standard_normal(10_000).astype(np.float32)
        odd[rng.integers(0, 10_000)] = np.inf
        works.append(worker.allreduce(odd))
        works.append(worker.barrier())
    return [work.wait().tobytes() for work in works]


@pytest.fixture
def undisturbed(worlds: Any) -> list[bytes]:
    world = worlds(2)
    results: list[list[bytes]] = world.run(_everything)
    assert results[0] == results[1]
    return results[0]


@pytest.mark.parametrize(
    "options",
    [{"transport": "shm"}, {"transport": "udp"}, {"transport": "udp", "multicast": False, "window": 16}],
    ids=["shm", "udp", "small window"],
)
def test_faults_change_no_bit(worlds: Any, undisturbed: list[bytes], options: dict[str, Any]) -> None:
    with Emulator(faults=new_faults(loss=0.05, duplicate=0.05, reorder=0.05, seed=7)) as bad:
        world = worlds(2, switch=bad.control_address, **options)
        assert world.run(_everything) == [undisturbed, undisturbed]
        told = bad.counters()
        sent_again = sum(worker.counters()["retransmissions"] for worker in world.workers)
        world.close()
    assert min(told["fault_lost"], told["fault_duplicated"], told["fault_reordered"]) > 0
    assert min(told["dropped_duplicate"] + told["dropped_stale"], told["results_retransmitted"]) > 0
    assert sent_again > 0


def test_a_mixed_world_with_faults(worlds: Any, undisturbed: list[bytes]) -> None:
    with Emulator(faults=new_faults(loss=0.05, duplicate=0.05, reorder=0.05, seed=8)) as bad:
        world = worlds(2, switch=bad.control_address, each={0: {"transport": "shm"}, 1: {"transport": "udp"}})
        assert world.run(_everything) == [undisturbed, undisturbed]
        world.close()
