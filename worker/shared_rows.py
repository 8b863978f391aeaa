"""Words of which each comes from one rank, through memory that the ranks share: copied in by that rank, and out by those who want
them. Window.py's ROWS; where the rows lie: aggregation/shared_slots.py.

In a round every rank gives the next of its words, as many as a row has. The round comes with the chunk at its position, which is
complete once all ranks have brought it; so the same lock, bell, deadline and order serve as for sums.
"""

from __future__ import annotations

import numpy as np

from switchml.aggregation.shared_slots import SharedSlots, place_row, row_index, row_place
from switchml.protocol.jit import compiled
from switchml.worker.chunks import floats_at, skipped_before, words_at
from switchml.worker.window import RING, TransferRecord, Window, relative


@compiled
def give_row(window: Window, slot: int, slots: SharedSlots) -> int:
    """Copy this rank's words of the slot's round to where the others find them; returns how many bytes."""
    entry = window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    first, last = int(transfer["first"]), int(transfer["last"])
    begin = min(first + slots.row * relative(window, slot), last)
    length = min(slots.row, last - begin)
    index = row_index(slots, int(entry["position"]), int(window.stream[0]["rank"]))
    place_row(slots, index, begin, length)
    given, row = words_at(transfer["source"], begin - first, length), slots.rows[index * slots.row :]
    for i in range(length):
        row[i] = given[i]
    return 4 * length


@compiled
def take_rows(window: Window, slot: int, slots: SharedSlots) -> int:
    """Copy what this rank wants of a complete round to where it belongs, or add it up; returns how many bytes came."""
    entry, stream = window.slots[slot], window.stream[0]
    transfer, position = window.transfers[entry["transfer"] % RING], int(entry["position"])
    if transfer["divisor"] != 0:
        _add_rows(transfer, position, slots)
        return 4 * slots.workers * int(transfer["part"])
    taken, part = 0, int(transfer["part"])
    wanted, end = 0, int(transfer["count"])
    if part != 0 and transfer["others"] == 0:
        wanted = int(stream["rank"]) * part - int(transfer["origin"])
        end = min(end, wanted + part)
    skipped = skipped_before(window, transfer)
    # Where the word before the first would lie: the same if this rank's words are where they belong already.
    own = transfer["source"] - 4 * transfer["first"] == transfer["destination"] - 4 * skipped
    for worker in range(int(stream["workers"])):
        if own and worker == stream["rank"]:
            continue
        index = row_index(slots, position, worker)
        begin, length = row_place(slots, index)
        first, last = max(0, begin, wanted), min(begin + length, end)
        if first >= last:
            continue
        out = words_at(transfer["destination"], first - skipped, last - first)
        at = index * slots.row + first - begin
        row = slots.rows[at : at + last - first]
        for i in range(last - first):
            out[i] = row[i]
        taken += 4 * (last - first)
    return taken


@compiled
def _add_rows(transfer: TransferRecord, position: int, slots: SharedSlots) -> None:
    """As kernels.add_rows, of rows of one length that take one round."""
    start, count, by = int(transfer["origin"]), int(transfer["part"]), np.float32(transfer["divisor"])
    total = floats_at(transfer["destination"], 0, count)
    for worker in range(slots.workers):
        first = row_index(slots, position, worker) * slots.row + start
        row = slots.rows[first : first + count].view(np.float32)
        if worker == 0:
            for i in range(count):
                total[i] = row[i]
        else:
            for i in range(count):
                total[i] += row[i]
    if transfer["divisor"] != 1:
        for i in range(count):
            total[i] /= by
