"""What slots wait for, read from the slot machine's state; and what the pipeline counts by range."""

from __future__ import annotations

import numpy as np
import pytest

from switchml.aggregation.slot_machine import MAX_WORKERS, SlotCopy, admit
from switchml.control.target import RANGES
from switchml.link.records import Records, new_records
from switchml.protocol.messages import SUM
from switchml.switch_emulator.native_target import slot_map

WINDOW = 4
NOTHING = np.zeros((RANGES, 2), np.int64)


def bring(records: Records[SlotCopy], copies: int, position: int, *ranks: int, workers: int) -> None:
    """Packets of one chunk. `copies`: of a slot."""
    # `admit` finds the slot's other copy beside the first.
    index = copies * (position % WINDOW) + position // WINDOW % 2
    for rank in ranks:
        admit(records, index, rank, workers, WINDOW, position, SUM, 0, 0)


@pytest.mark.parametrize("copies", [2, 4])
def test_a_slot_waits_for_those_who_have_not_brought_its_chunk(copies: int) -> None:
    records = new_records(SlotCopy, copies * WINDOW)
    bring(records, copies, 0, 0, 1, 2, workers=3)  # complete
    bring(records, copies, 1, 0, 2, workers=3)
    bring(records, copies, 2, 2, workers=3)
    found = slot_map(records, WINDOW, 3, NOTHING)
    assert found.missing == (0, 1, 2, 0)
    assert found.first == (-1, 1, 0, -1)
    assert found.late == (1, 2, 0)
    bring(records, copies, 4, 1, workers=3)  # the other copy of slot 0
    assert slot_map(records, WINDOW, 3, NOTHING).missing == (2, 1, 2, 0)


def test_the_last_of_the_most_workers() -> None:
    records = new_records(SlotCopy, 2 * WINDOW)
    bring(records, 2, 3, *range(MAX_WORKERS - 1), workers=MAX_WORKERS)
    found = slot_map(records, WINDOW, MAX_WORKERS, NOTHING)
    assert found.first == (-1, -1, -1, MAX_WORKERS - 1)
    assert sum(found.late) == found.late[MAX_WORKERS - 1] == 1


def test_nonsense_in_a_jobs_own_memory_stays_numbers() -> None:
    records = new_records(SlotCopy, 4 * WINDOW)
    records.view(np.uint8)[:] = 0xFF
    found = slot_map(records, WINDOW, 2, NOTHING)
    assert found.missing == (0, 0, 0, 0)
