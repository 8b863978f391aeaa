"""The window as scripts: which positions a slot goes through, and what waits for what."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from switchml.protocol.numerics import EXACT_EXPONENT, MIN_EXPONENT
from switchml.protocol.slots import TSI_MASK, slot_of, version_of
from switchml.worker.window import (
    BLOCKED,
    BLOCKS,
    DONE,
    DUPLICATE,
    FOREIGN,
    IDLE,
    LAID,
    READY,
    RESEND,
    RING,
    ROWS,
    SENT,
    STALE,
    TIMED_OUT,
    WORDS,
    Window,
    advance,
    exponents_at,
    finish,
    is_side_by_side,
    lay,
    learn_exponent,
    mark_sent,
    match,
    may_leave,
    new_window,
    next_ready,
    overdue_transfer,
    relative,
    resend,
    transfer_end,
)

LENGTH = 100


class Script:
    """Drives a window by positions; nothing is ever lost. in_memory: exponents come one by one."""

    def __init__(
        self,
        width: int,
        *transfers: tuple[int, int],
        in_memory: bool = False,
        workers: int = 2,
        elements: int = 4,
    ) -> None:
        self.width = width
        self.window = new_window(
            rank=0, workers=workers, window=width, elements=elements, in_memory=in_memory
        )
        for transfer in transfers:
            self.queue(*transfer)

    def queue(self, kind: int, chunks: int, deadline: int = 1 << 62) -> None:
        stream = self.window.stream[0]
        entry = self.window.transfers[stream["queued"] % RING]
        values = {"kind": kind, "chunks": chunks, "count": 4 * chunks, "deadline": deadline, "status": 0}
        for name, value in values.items():
            entry[name] = value
        stream["queued"] += 1

    def send(self) -> list[int]:
        """Send all that may be sent; their positions, in order."""
        lay(self.window)
        sent = []
        while (slot := next_ready(self.window)) >= 0:
            sent.append(int(self.window.slots[slot]["position"]))
            assert slot == sent[-1] % self.width
            assert not mark_sent(self.window, slot, 0, LENGTH)
        return sent

    def answer(self, *positions: int, exponent: int = 0) -> None:
        for position in positions:
            tsi = position & TSI_MASK
            slot = match(self.window, tsi, slot_of(tsi, self.width), version_of(tsi, self.width))
            assert slot == position % self.width, f"position {position} is not awaited"
            index = int(self.window.slots[slot]["transfer"])
            transfer, place = self.window.transfers[index % RING], relative(self.window, slot)
            if is_side_by_side(self.window, transfer, place):
                for chunk in range(*exponents_at(self.window, transfer, place)):
                    learn_exponent(self.window, index, chunk, exponent)
            advance(self.window, slot, exponent)

    def status(self) -> list[int]:
        return [int(entry["status"]) for entry in self.window.transfers[: self.window.stream[0]["queued"]]]

    def states(self) -> list[int]:
        return [int(state) for state in self.window.slots["state"]]


def test_words_are_a_descriptor_and_the_chunks() -> None:
    script = Script(4, (WORDS, 6))
    assert script.send() == [0, 1, 2, 3]
    script.answer(1)
    assert script.send() == [5]
    script.answer(0)
    assert script.send() == [4]
    script.answer(5, 3, 2, 4)
    assert script.send() == [6]
    assert script.status() == [LAID]
    script.answer(6)
    assert script.send() == []
    assert script.status() == [DONE]
    assert script.states() == [IDLE] * 4


def test_blocks_send_the_first_window_s_exponents_ahead() -> None:
    script = Script(2, (BLOCKS, 3), in_memory=True)
    # 0 descriptor; 1, 2 exponents; 3, 4, 5 chunks: 3 also carries the exponent of chunk 2.
    entry = script.window.transfers[0]
    assert script.send() == [0, 1]
    assert (int(entry["prologue"]), int(entry["left"]), transfer_end(script.window, 0)) == (2, 6, 6)
    script.answer(1, exponent=5)
    assert script.send() == [3]
    assert script.window.slots[1]["exponent"] == 5
    script.answer(3, exponent=-7)
    assert script.send() == [5]
    assert script.window.slots[1]["exponent"] == -7
    script.answer(0)
    assert script.send() == [2]
    script.answer(2, exponent=9)
    assert script.send() == [4]
    assert script.window.slots[0]["exponent"] == 9
    script.answer(4, 5)
    assert script.status() == [DONE]
    assert int(entry["highest"]) == 9


def test_with_fewer_chunks_than_slots_a_chunk_waits_for_its_exponent() -> None:
    script = Script(8, (BLOCKS, 2), in_memory=True)
    # 0 descriptor; 1, 2 exponents of chunks 0, 1; 3, 4 the chunks, which wait in slots of their own.
    assert script.send() == [0, 1, 2]
    assert script.states() == [SENT, SENT, SENT, BLOCKED, BLOCKED, IDLE, IDLE, IDLE]
    script.answer(2, exponent=3)
    assert script.states()[3:5] == [BLOCKED, READY]
    assert script.send() == [4]
    assert script.window.slots[4]["exponent"] == 3
    script.answer(1, exponent=-4)
    assert script.send() == [3]
    assert script.window.slots[3]["exponent"] == -4
    script.answer(0, 3, 4)
    assert script.status() == [DONE]


def _brought(script: Script, *places: int) -> list[tuple[bool, tuple[int, int]]]:
    """By places of the first transfer: whether exponents are among the elements, and those of which chunks come."""
    lay(script.window)
    transfer = script.window.transfers[0]
    return [
        (bool(is_side_by_side(script.window, transfer, place)), exponents_at(script.window, transfer, place))
        for place in places
    ]


def test_a_descriptor_has_room_for_the_exponents_of_a_small_tensor() -> None:
    script = Script(16, (BLOCKS, 10), elements=32)
    # 0 descriptor of 8 words, and 24 words for two ranks; 1 the last exponent, which leaves later; 2 to 11 chunks.
    assert _brought(script, 0, 1, 2, 11) == [
        (True, (0, 9)),
        (False, (9, 10)),
        (False, (0, 0)),
        (False, (0, 0)),
    ]
    assert script.send() == [0, 1]
    assert script.states()[2:12] == [BLOCKED] * 10
    script.answer(0, exponent=4)
    assert script.send() == list(range(2, 11))
    assert set(script.window.slots["exponent"][2:11]) == {4}
    script.answer(1, exponent=5)
    assert script.send() == [11]
    assert script.window.slots[11]["exponent"] == 5
    script.answer(*range(2, 12))
    assert script.status() == [DONE]


def test_what_a_descriptor_has_no_room_for_follows_side_by_side() -> None:
    script = Script(128, (BLOCKS, 200), elements=32)
    # 0 descriptor with 48 of 128 exponents a rank; 1, 2 the others, 64 to a packet; 3 the chunks, with exponents from 128 on.
    assert _brought(script, 0, 1, 2) == [(True, (0, 48)), (True, (48, 112)), (True, (112, 128))]
    assert _brought(script, 3, 74, 75) == [(False, (128, 129)), (False, (199, 200)), (False, (0, 0))]
    assert script.send() == [0, 1, 2]
    script.answer(1, exponent=3)
    assert script.send() == [3 + chunk for chunk in range(48, 112)], "and 112 is in the next window's place"
    script.answer(0, exponent=2)
    assert script.send() == list(range(3, 51))
    script.answer(2, exponent=1)
    assert script.send() == list(range(115, 131))


@pytest.mark.parametrize(
    ("workers", "elements", "prologue"),
    [(2, 256, 16), (4, 256, 2), (8, 256, 4), (16, 256, 8), (32, 256, 16), (64, 256, 512), (256, 256, 509)],
)
def test_exponents_go_in_headers_where_side_by_side_saves_little(
    workers: int, elements: int, prologue: int
) -> None:
    script = Script(512, (BLOCKS, 1024), workers=workers, elements=elements)
    lay(script.window)
    assert script.window.transfers[0]["prologue"] == prologue
    covered = [
        chunk for place in range(1 + prologue + 1024) for chunk in range(*_brought(script, place)[0][1])
    ]
    assert covered == list(range(1024)), "each once, in order"


def test_a_descriptor_alone() -> None:
    script = Script(4, (WORDS, 0), (BLOCKS, 0), (WORDS, 0))
    assert script.send() == [0, 1, 2]
    script.answer(1)
    assert script.status() == [LAID, DONE, LAID]
    script.answer(0, 2)
    assert script.status() == [DONE] * 3


def test_rows_go_a_round_at_a_time_and_nothing_is_laid_behind_them() -> None:
    script = Script(4, (WORDS, 1), (ROWS, 2), (WORDS, 0), (ROWS, 0))
    # 0 1 | 2 3 4 | 5 | 6
    assert script.send() == [0, 1]
    script.answer(1)
    assert script.send() == []
    assert script.states() == [SENT, IDLE, BLOCKED, BLOCKED]
    script.answer(0)
    for position in (2, 3, 4):
        assert script.send() == [position]
        assert script.window.stream[0]["laid"] == 2
        script.answer(position)
    assert script.send() == [5]
    assert script.window.stream[0]["laid"] == 4
    script.answer(5)
    assert script.send() == [6]
    script.answer(6)
    assert script.status() == [DONE] * 4


def test_transfers_follow_back_to_back() -> None:
    script = Script(2, (WORDS, 2), (WORDS, 1), (WORDS, 0))
    # 0 1 2 | 3 4 | 5
    assert script.send() == [0, 1]
    script.answer(1)
    assert script.send() == [3], "slot 1 is in the next transfer while slot 0 is still in the first"
    assert relative(script.window, 1) == 0
    script.answer(3)
    assert script.send() == [5]
    script.answer(5)
    assert script.status() == [LAID, LAID, DONE]
    script.answer(0)
    assert script.send() == [2]
    script.answer(2)
    assert script.send() == [4]
    script.answer(4)
    assert script.status() == [DONE] * 3


def test_what_follows_blocks_is_laid_once_all_exponents_are_known() -> None:
    script = Script(4, (BLOCKS, 2), (WORDS, 1), in_memory=True)
    assert script.send() == [0, 1, 2]
    assert script.status() == [LAID, 0]
    script.answer(1)
    assert script.send() == [3], "slot 1 has nothing to do before that"
    script.answer(2)
    assert script.send() == [5, 6]
    assert script.status() == [LAID, LAID]


def test_flagged_blocks_hold_up_what_follows_until_their_exchange_is_arranged() -> None:
    script = Script(4, (BLOCKS, 2), (WORDS, 1), in_memory=True)
    script.send()
    script.answer(1, exponent=EXACT_EXPONENT)
    script.answer(2, exponent=3)
    entry = script.window.transfers[0]
    assert (int(entry["flagged"]), int(entry["unknown"]), int(entry["highest"])) == (1, 0, 3)
    assert script.send() == [3]
    assert script.window.slots[3]["exponent"] == EXACT_EXPONENT
    script.answer(0, 3)
    assert script.send() == [4]
    assert script.status() == [LAID, 0]
    entry["released"] = 1
    assert script.send() == [5, 6]


def test_small_exponents_are_raised() -> None:
    script = Script(2, (BLOCKS, 1))
    script.send()
    script.answer(1, exponent=-128)
    assert script.window.transfers[0]["highest"] == MIN_EXPONENT
    script.answer(0)
    assert script.send() == [2]
    assert script.window.slots[0]["exponent"] == MIN_EXPONENT


def test_a_transfer_queued_later_goes_on_where_the_stream_ends() -> None:
    script = Script(4, (WORDS, 1))
    assert script.send() == [0, 1]
    script.answer(0, 1)
    script.queue(WORDS, 4)
    assert script.send() == [2, 3, 4, 5]


@pytest.mark.parametrize("width", [1, 2, 16])
@pytest.mark.parametrize("kind", [BLOCKS, WORDS])
def test_every_position_is_sent_once_and_in_order_of_its_slot(width: int, kind: int) -> None:
    chunks = [5, 0, 1, 23, 16, 2]
    script = Script(width, *((kind, count) for count in chunks))
    rng = np.random.default_rng(width)
    sent: list[int] = []
    waiting: list[int] = []
    while script.status() != [DONE] * len(chunks):
        new = script.send()
        sent += new
        waiting += new
        assert waiting, "stuck"
        script.answer(waiting.pop(int(rng.integers(len(waiting)))), exponent=int(rng.integers(-90, 90)))
    # Of 16 bytes each of two ranks has 8. They lie side by side where that makes 1 packet of 3, or 2 of 16.
    lead = [min(width, count) if kind == BLOCKS else 0 for count in chunks]
    prologue = [-(-count // 8) if 3 <= count <= 8 or count == 16 else count for count in lead]
    total = sum(chunks) + len(chunks) + sum(prologue)
    assert sorted(sent) == list(range(total))
    for slot in range(width):
        assert [position for position in sent if position % width == slot] == list(range(slot, total, width))


def test_what_could_not_be_sent_stays_first() -> None:
    script = Script(4, (WORDS, 3))
    lay(script.window)
    assert [next_ready(script.window) for _ in range(3)] == [0, 0, 0]
    assert script.send() == [0, 1, 2, 3]


def _lose(script: Script, *positions: int) -> None:
    for position in positions:
        resend(script.window, position % script.width)


def _in_flight(script: Script) -> tuple[int, int]:
    stream = script.window.stream[0]
    return int(stream["in_flight"]), int(stream["bytes_in_flight"])


def _sent(script: Script) -> list[tuple[int, bool]]:
    """Send all; positions, and whether they were sent before."""
    sent = []
    while (slot := next_ready(script.window)) >= 0:
        again = mark_sent(script.window, slot, 0, LENGTH)
        sent.append((int(script.window.slots[slot]["position"]), again))
    return sent


def test_packets_leave_in_order_of_position_whatever_was_lost() -> None:
    script = Script(4, (WORDS, 20))
    script.send()
    script.answer(1, 3)
    _lose(script, 2)
    _lose(script, 0)
    assert _sent(script) == [(0, True), (2, True), (5, False), (7, False)]
    assert script.window.slots["retries"].tolist() == [1, 0, 1, 0]
    assert script.window.slots["order"].tolist() == [4, 6, 5, 7]


def test_what_is_found_lost_is_not_in_flight_until_it_leaves_again() -> None:
    script = Script(4, (WORDS, 20))
    script.send()
    assert _in_flight(script) == (4, 400)
    _lose(script, 0, 2)
    assert _in_flight(script) == (2, 200)
    script.answer(1)
    assert _in_flight(script) == (1, 100)
    script.answer(0)  # Its result comes all the same, and there is nothing to take out of the account.
    assert _in_flight(script) == (1, 100)
    assert _sent(script) == [(2, True), (4, False), (5, False)]
    assert _in_flight(script) == (4, 400)


def test_the_lowest_position_may_always_leave() -> None:
    script = Script(4, (WORDS, 20))
    lay(script.window)
    assert may_leave(script.window, 0, 0), "though there is no room"
    assert not may_leave(script.window, 1, 0)
    for slot in (0, 1):
        mark_sent(script.window, slot, 0, LENGTH)
    assert not may_leave(script.window, 2, 200)
    assert may_leave(script.window, 2, 201), "less than the room is in flight: one more, whatever its length"
    script.send()
    _lose(script, 0, 1)
    assert may_leave(script.window, 0, 0)
    assert may_leave(script.window, 1, 1), "others wait for what is sent again"
    assert not may_leave(script.window, 1, 0), "but not before its time"
    script.answer(1)
    assert script.window.stream[0]["lowest"] == 0
    script.answer(0)
    assert script.window.stream[0]["lowest"] == 2


@pytest.mark.parametrize("width", [1, 2, 16])
@pytest.mark.parametrize("kind", [BLOCKS, WORDS])
@pytest.mark.parametrize("seed", range(4))
def test_the_account_is_right_at_every_step_however_much_is_lost(width: int, kind: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chunks = [int(count) for count in rng.integers(0, 3 * width + 3, 8)]
    script = Script(width, *((kind, count) for count in chunks), in_memory=seed % 2 == 0)
    window: Window = script.window
    stream, slots = window.stream[0], window.slots
    answered: set[int] = set()
    lay(window)
    steps = 0
    while script.status() != [DONE] * len(chunks):
        steps += 1
        assert steps < 100_000, "stuck"
        room = int(rng.integers(0, width * LENGTH + 1))
        last = -1
        while (slot := next_ready(window)) >= 0 and may_leave(window, slot, room):
            position, state = int(slots[slot]["position"]), int(slots[slot]["state"])
            assert position > last, "of what is ready the lowest goes first"
            assert position == min(slots["position"][np.isin(slots["state"], (READY, RESEND))])
            assert mark_sent(window, slot, steps, LENGTH) == (state == RESEND)
            last = position
        for slot in np.flatnonzero(slots["state"] == SENT):
            if rng.random() < 0.3:
                resend(window, int(slot))
        waiting = np.flatnonzero((slots["state"] == SENT) | (slots["state"] == RESEND))
        for slot in rng.permutation(waiting)[: int(rng.integers(0, width + 1))]:
            answered.add(int(slots[slot]["position"]))
            script.answer(int(slots[slot]["position"]), exponent=int(rng.integers(-90, 90)))
        lay(window)
        sent = slots["state"] == SENT
        assert stream["in_flight"] == sent.sum()
        assert stream["bytes_in_flight"] == slots["length"][sent].sum()
        assert stream["lowest"] == next(p for p in range(int(stream["end"]) + 1) if p not in answered)
        assert 0 <= stream["fifo_tail"] - stream["fifo_head"] <= window.fifo.size
    assert _in_flight(script) == (0, 0)


class Result(NamedTuple):
    tsi: int
    slot: int
    version: int


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (Result(4, 0, 1), 0),
        (Result(5, 1, 1), 1),
        (Result(1, 1, 0), DUPLICATE),
        (Result(2, 2, 0), 2),
        (Result(4, 0, 0), FOREIGN),
        (Result(4, 1, 1), FOREIGN),
        (Result(8, 0, 0), FOREIGN),
        (Result(0, 0, 0), DUPLICATE),
        (Result(0xFFFFFFFC, 0, 1), STALE),
        (Result(0x80000000, 0, 0), FOREIGN),
        (Result(4, 4, 1), FOREIGN),
        (Result(4, 0x3FFF, 1), FOREIGN),
    ],
)
def test_which_slot_a_result_belongs_to(result: Result, verdict: int) -> None:
    script = Script(4, (WORDS, 20))
    script.send()
    script.answer(0, 1)
    script.send()
    assert script.window.slots["position"].tolist() == [4, 5, 2, 3]
    assert match(script.window, *result) == verdict


def test_a_result_for_what_was_never_sent_is_none() -> None:
    script = Script(4, (BLOCKS, 1))
    script.send()
    assert script.states() == [SENT, SENT, BLOCKED, IDLE]
    assert match(script.window, 2, 2, 0) == DUPLICATE
    assert match(script.window, 3, 3, 0) == FOREIGN


def test_sequence_numbers_wrap() -> None:
    script = Script(4)
    script.window.stream[0]["end"] = script.window.stream[0]["lowest"] = 2**32 - 2
    script.queue(WORDS, 6)
    assert script.send() == [2**32 - 2, 2**32 - 1, 2**32, 2**32 + 1]
    script.answer(2**32, 2**32 - 2)
    assert script.send() == [2**32 + 2, 2**32 + 4]
    script.answer(2**32 + 1, 2**32 + 2, 2**32 - 1)
    assert match(script.window, 0xFFFFFFFE, 2, 1) == DUPLICATE
    assert script.send() == [2**32 + 3]
    script.answer(2**32 + 3, 2**32 + 4)
    assert script.status() == [DONE]


def test_the_deadline_of_the_oldest_transfer_counts() -> None:
    script = Script(4)
    script.queue(WORDS, 1, deadline=1000)
    script.queue(WORDS, 1, deadline=500)
    script.send()
    assert [overdue_transfer(script.window, now) for now in (499, 500, 999, 1000)] == [-1, -1, -1, 0]
    finish(script.window, 0, TIMED_OUT)
    assert overdue_transfer(script.window, 2000) == -1
    script.window.stream[0]["head"] = 1
    assert overdue_transfer(script.window, 499) == -1
    assert overdue_transfer(script.window, 500) == 1


def test_a_transfer_that_waits_to_be_laid_has_a_deadline_too() -> None:
    script = Script(4, (BLOCKS, 1))
    script.queue(WORDS, 1, deadline=500)
    script.send()
    script.window.stream[0]["head"] = 1
    assert overdue_transfer(script.window, 500) == 1


@pytest.mark.parametrize("width", [0, 3, 1 << 15])
def test_a_window_that_slots_cannot_be_computed_for_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"window of {width} slots"):
        new_window(rank=0, workers=1, window=width, elements=4)


def test_the_ring_of_transfers_is_used_again_and_again() -> None:
    script = Script(4)
    window: Window = script.window
    stream: Any = window.stream[0]
    for index in range(3 * RING):
        script.queue(BLOCKS, 1 + index % 3)
        while sent := script.send():
            script.answer(*sent)
        assert window.transfers[index % RING]["status"] == DONE
        stream["head"] = index + 1
    assert stream["finished"] == 3 * RING
