"""The algorithm of p4/tofino, as a model, searched: packets and results are lost, doubled and reordered, passes are lost.

The model has what docs/protocol.md asks of a worker, and of the program: copies that the other copy's result opens, cells for
each part, an addition that is one pass a part, a result that is gathered from its end over the queue of what goes round. What it
has not: exponents, kinds, questions. It is no check of the P4 source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest

Sum = tuple[tuple[int, int], ...]  # (worker, position) of each packet in it


class Cell(NamedTuple):
    """Of a copy and a part: register `copy`, and one of the sums' registers."""

    stamp: int
    seen: frozenset[int] | None  # None: complete before the job began
    low: Sum
    high: Sum


class Pass(NamedTuple):
    """A packet that goes round."""

    worker: int
    position: int
    part: int
    gathers: str = ""  # "": elements are added; else the half that is next, "low" or "high"
    everyone: bool = False
    gathered: tuple[Sum, ...] = ()


@dataclass(frozen=True)
class State:
    cells: tuple[tuple[tuple[int, int, int], Cell], ...]  # by part, slot, version
    held: tuple[frozenset[int], ...]  # the positions of which each worker has taken the result
    sent: frozenset[tuple[int, int]] = frozenset()  # stays: may come any number of times, at any time
    results: frozenset[tuple[int, int, tuple[Sum, ...]]] = frozenset()  # likewise
    round: tuple[Pass, ...] = ()  # a queue


@dataclass(frozen=True)
class Program:
    workers: int
    window: int
    parts: int

    def start(self) -> State:
        cells = {}
        for part in range(self.parts):
            for slot in range(self.window):
                cells[part, slot, 0] = Cell(slot, frozenset(), (), ())
                cells[part, slot, 1] = Cell(slot - self.window, None, (), ())
        return State(tuple(cells.items()), (frozenset(),) * self.workers)

    def one_pass(self, state: State, packet: Pass) -> State:
        cells = dict(state.cells)
        slot, version = packet.position % self.window, packet.position // self.window % 2
        own, other = (packet.part, slot, version), (packet.part, slot, 1 - version)
        cell = cells[own]
        if packet.gathers:
            if cells[other].stamp == packet.position - self.window:
                opened = packet.position + self.window
                cells[other] = cells[other]._replace(stamp=opened, seen=frozenset())
            gathered = (*packet.gathered, cell.high if packet.gathers == "high" else cell.low)
            return self._gather_on(replace(state, cells=tuple(cells.items())), packet, gathered)
        if cell.stamp != packet.position or cell.seen is None:
            return state
        everyone = frozenset(range(self.workers))
        known = packet.worker in cell.seen
        if not known:
            mine = ((packet.worker, packet.position),)
            low, high = (mine, mine) if not cell.seen else (cell.low + mine, cell.high + mine)
            cell = Cell(cell.stamp, cell.seen | {packet.worker}, tuple(sorted(low)), tuple(sorted(high)))
            cells[own] = cell
        state = replace(state, cells=tuple(cells.items()))
        if packet.part < self.parts - 1:
            return self._once_more(state, packet._replace(part=packet.part + 1))
        if cell.seen != everyone:
            return state
        return self._once_more(
            state, packet._replace(gathers="low", everyone=not known, gathered=(cell.high,))
        )

    def _gather_on(self, state: State, packet: Pass, gathered: tuple[Sum, ...]) -> State:
        if packet.gathers == "high":
            return self._once_more(state, packet._replace(gathers="low", gathered=gathered))
        if packet.part > 0:
            return self._once_more(
                state, packet._replace(part=packet.part - 1, gathers="high", gathered=gathered)
            )
        addressees = range(self.workers) if packet.everyone else [packet.worker]
        results = {(worker, packet.position, gathered) for worker in addressees}
        return replace(state, results=state.results | results)

    def _once_more(self, state: State, packet: Pass) -> State:
        return replace(state, round=(*state.round, packet))

    def following(self, state: State, chunks: int, room: int) -> Iterator[State]:
        for worker, held in enumerate(state.held):
            for position in range(chunks):
                if position < self.window or position - self.window in held:
                    yield replace(state, sent=state.sent | {(worker, position)})
        if len(state.round) < room:
            for worker, position in state.sent:
                yield self.one_pass(state, Pass(worker, position, 0))
        if state.round:
            first, rest = state.round[0], replace(state, round=state.round[1:])
            yield rest  # lost
            yield self.one_pass(rest, first)
        for worker, position, gathered in state.results:
            if position not in state.held[worker]:
                right = tuple((each, position) for each in range(self.workers))
                assert gathered == (right,) * (2 * self.parts), state
                taken = state.held[worker] | {position}
                yield replace(state, held=(*state.held[:worker], taken, *state.held[worker + 1 :]))


@pytest.mark.parametrize(
    ("program", "chunks", "room", "states"),
    [
        (Program(workers=2, window=1, parts=1), 3, 2, 1569),
        (Program(workers=2, window=2, parts=1), 3, 1, 2741),
        (Program(workers=3, window=1, parts=1), 2, 1, 639),
        (Program(workers=2, window=1, parts=2), 2, 2, 4287),
    ],
    ids=str,
)
def test_no_worker_takes_a_wrong_sum_and_all_can_always_come_to_the_end(
    program: Program, chunks: int, room: int, states: int
) -> None:
    start = program.start()
    before: dict[State, list[State]] = defaultdict(list)
    found, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for next_state in program.following(state, chunks, room):
            before[next_state].append(state)
            if next_state not in found:
                found.add(next_state)
                todo.append(next_state)
    assert len(found) == states
    todo = [state for state in found if all(len(held) == chunks for held in state.held)]
    ends = set(todo)
    while todo:
        for state in before[todo.pop()]:
            if state not in ends:
                ends.add(state)
                todo.append(state)
    assert ends == found
