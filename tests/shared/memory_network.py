"""The ranks of a VirtualNetwork with the switch in memory in its place: turns of all, in an order that the seed gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from virtual_network import VirtualNetwork

from switchml.aggregation.shared_slots import (
    SharedLayout,
    SharedSlots,
    shared_slots,
    try_lock,
    unlock,
)
from switchml.link.records import table_of
from switchml.protocol.counters import WORKER_COUNTERS
from switchml.protocol.messages import wire_lanes
from switchml.worker.in_memory import MemoryEngine, new_exponents, turn
from switchml.worker.window import RING, ROWS, lay


@dataclass(eq=False)
class MemoryNetwork(VirtualNetwork):
    """Conditions mean nothing here: nothing is lost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for rank in self._ranks:
            stream = rank.window.stream[0]
            stream["described"] = stream["packed"] = 0
        # Rows of a few words, so that a gather takes several rounds.
        row = 8 + self.seed % 61
        layout = SharedLayout(self.workers, self.window, self._elements * wire_lanes(self.wire), row)
        for rank in self._ranks:
            for index, task in enumerate(self.tasks):
                if task.firsts:
                    most = max(source.size for source in task.sources)
                    entry = rank.window.transfers[index % RING]
                    entry["kind"], entry["chunks"] = ROWS, -(-most // row) - 1
        self.slots: SharedSlots = shared_slots(np.zeros(layout.total_bytes, np.uint8), layout)
        self.engines = [
            MemoryEngine(
                window=rank.window,
                slots=self.slots,
                counters=np.zeros(len(WORKER_COUNTERS), np.int64),
                descriptor=rank.descriptor,
                lanes=np.zeros(self.payload, np.uint8),
                exponents=new_exponents(),
                reserved=np.zeros(2, np.int64),
                flag=np.zeros(1, np.int64),
                scratch=np.zeros(4, np.int64),
            )
            for rank in self._ranks
        ]
        self._tables = [table_of(engine) for engine in self.engines]

    def turn(self, rank: int) -> int:
        """One rank's turn."""
        window = self.engines[rank].window
        window.transfers["released"] = 1
        lay(window)
        done = turn(self._tables[rank].ctypes.data, 0)
        window.transfers["released"] = 1
        return done

    def run(self) -> None:
        idle = 0
        while not all(engine.window.stream[0]["finished"] == len(self.tasks) for engine in self.engines):
            rank = self._random.randrange(self.workers)
            held = self._random.randrange(self.window) if self._random.random() < 0.3 else -1
            # Another rank is at some slot, and this one has to leave it out.
            owned = held >= 0 and try_lock(self.slots, held, self.workers)
            idle = 0 if self.turn(rank) else idle + 1
            if owned:
                unlock(self.slots, held)
            assert idle < 1000 * self.workers, f"seed {self.seed}: no progress"
