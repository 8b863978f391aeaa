"""Random traces through all targets: every frame that leaves, every register of the jobs' slots, every counter."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import pytest
from conformance_scripts import LARGE, NO_JOB, SMALL
from conformance_targets import PROGRAMS, Machine
from hypothesis import HealthCheck, given, settings
from traces import Event, Trace, narrow_traces, traces

from switchml.protocol.messages import PROBE
from switchml.stf.bmv2 import Bmv2Switch
from switchml.stf.emulator_target import EmulatorSwitch
from switchml.stf.language import parse
from switchml.stf.program_names import load_names
from switchml.stf.runner import run_script

Machines = Callable[[str, int], Machine]
_ROWS = "SwitchIngress.elements_added"  # a register with a cell a job, not a copy
_EXPLORE = os.environ.get("HYPOTHESIS_PROFILE") == "explore"
# The fixture's machines are renewed for every example.
_SETTINGS = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@dataclass
class Outcome:
    """left: per packet, what left because of it, by port. cells: by register and cell. counts: by counter and row, in packets."""

    left: list[list[tuple[int, bytes]]]
    cells: dict[tuple[str, int], int]
    counts: dict[tuple[str, int], int]


def _cells(trace: Trace) -> list[int]:
    return list(chain(*(job.copies for job in trace.jobs)))


def _rows(trace: Trace) -> list[int]:
    return [*(job.number for job in trace.jobs), NO_JOB]


def _flat(read: dict[str, list[int]], cells: Sequence[int]) -> dict[tuple[str, int], int]:
    return {
        (name, cell): value
        for name, values in read.items()
        for cell, value in zip(cells, values, strict=True)
    }


def play(trace: Trace, machine: Machine, *, sums: bool = True) -> Outcome:
    """sums: compare registers of sums, too: where a narrow lane's sum is kept is each target's own affair."""
    names = load_names(PROGRAMS[trace.elements])
    setup = EmulatorSwitch(machine.runtime, machine.process)
    run_script(parse(trace.script().text("")), names, setup)
    left = [sorted(machine.process(port, frame)) for port, frame in trace.frames()]
    copies, rows = _cells(trace), _rows(trace)
    slot_registers = [
        name
        for name in names.registers
        if name != _ROWS and (sums or not name.startswith(("SwitchIngress.sum_", "SwitchIngress.lanes_")))
    ]
    return Outcome(
        left,
        _flat(machine.read_cells(slot_registers, copies), copies)
        | _flat(machine.read_cells([_ROWS], rows), rows),
        {
            (name, row): machine.runtime.read_counter(name, row)[0].packets
            for name, counter in names.counters.items()
            if not counter.table
            for row in rows
        },
    )


def differences(one: Outcome, other: Outcome) -> list[str]:
    """What is not the same, in words."""
    found = [
        f"packet {number}: {_shown(a)} / {_shown(b)}"
        for number, (a, b) in enumerate(zip(one.left, other.left, strict=True), 1)
        if a != b
    ]
    for what, a, b in (("register", one.cells, other.cells), ("counter", one.counts, other.counts)):
        found += [
            f"{what} {at[0]}[{at[1]}]: {a.get(at)} / {b.get(at)}"
            for at in sorted(a.keys() | b.keys())
            if a.get(at) != b.get(at)
        ]
    return found


def _shown(frames: Sequence[tuple[int, bytes]]) -> str:
    return ", ".join(f"port {port} {frame.hex()}" for port, frame in frames) or "nothing"


def _agree(trace: Trace, machines: Machines, *, sums: bool = True) -> None:
    reference = play(trace, machines("plain", trace.elements), sums=sums)
    for target in ("compiled", "p4"):
        found = differences(reference, play(trace, machines(target, trace.elements), sums=sums))
        assert not found, f"plain slot machine / {target}:\n" + "\n".join(found)


@pytest.mark.timeout(7200 if _EXPLORE else 600)
@settings(max_examples=2000 if _EXPLORE else 60, **_SETTINGS)
@given(traces(SMALL, 40))
def test_slot_machine_pipeline_and_p4_program_agree(machines: Machines, trace: Trace) -> None:
    _agree(trace, machines)


@pytest.mark.timeout(600)
@settings(max_examples=6, **_SETTINGS)
@given(traces(LARGE, 30))
def test_they_agree_on_large_packets(machines: Machines, trace: Trace) -> None:
    _agree(trace, machines)


@pytest.mark.timeout(7200 if _EXPLORE else 600)
@settings(max_examples=2000 if _EXPLORE else 40, **_SETTINGS)
@given(narrow_traces(40))
def test_they_agree_on_narrow_lanes(machines: Machines, trace: Trace) -> None:
    _agree(trace, machines, sums=False)


def play_on_bmv2(
    trace: Trace, awaited: Mapping[int, Sequence[bytes]]
) -> tuple[dict[int, list[bytes]], Outcome]:
    """What left by port, and an Outcome without frames: BMv2 does not say which packet brought a frame about.

    awaited: what may be expected to leave; the registers are read once as much has come.
    """
    names = load_names(PROGRAMS[trace.elements])
    lines = [trace.script().text("")]
    lines += [f"packet {port} {frame.hex()}" for port, frame in trace.frames() if frame]
    lines += [f"expect {port}" for port, frames in awaited.items() for _ in frames]
    last = max(job.first_port + job.workers for job in trace.jobs)
    lines += [f"no_packet {port}" for port in range(1, last)]
    script = parse("\n".join(lines))
    target = Bmv2Switch(PROGRAMS[trace.elements], script)
    try:
        run_script(script, names, target)
        left = {port: list(frames) for port, frames in target.finish().items()}
        cells = {}
        for name in names.registers:
            values = target.read_register(name, None)
            wanted = _rows(trace) if name == _ROWS else _cells(trace)
            cells |= {(name, cell): values[cell] for cell in wanted}
        counts = {
            (name, row): target.read_counter(counter, row).packets
            for name, counter in names.counters.items()
            if not counter.table
            for row in _rows(trace)
        }
    finally:
        target.close()
    return left, Outcome([], cells, counts)


@pytest.mark.usefixtures("bmv2")
@pytest.mark.timeout(600)
@settings(max_examples=8, **_SETTINGS)
@given(traces(SMALL, 40, whole_switch=True))
def test_p4_program_runs_alike_on_bmv2_and_in_the_emulator(machines: Machines, trace: Trace) -> None:
    # The last packet has an answer in any case, which tells that BMv2 has done with all of them.
    trace = replace(trace, events=(*trace.events, Event(0, 0, 0, kind=PROBE)))
    ours = play(trace, machines("p4", trace.elements))
    by_port: dict[int, list[bytes]] = {}
    for port, frame in chain(*ours.left):
        by_port.setdefault(port, []).append(frame)
    left, theirs = play_on_bmv2(trace, by_port)
    assert left == by_port
    ours.left = []
    found = differences(ours, theirs)
    assert not found, "emulator / BMv2:\n" + "\n".join(found)
