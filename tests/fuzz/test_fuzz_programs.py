"""Programs changed at random places load and run, or are refused with the place: no traceback, no gigabytes, no minutes."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import time
from pathlib import Path

import pytest
from everything_program import everything
from fuzz_budget import guided, inputs
from json_mutations import mutated
from program_builder import ProgramBuilder

from switchml.switch_emulator.p4 import P4Switch, PipelineError, UnsupportedProgramError, load_program

ROOT = Path(__file__).parents[2]

# A program takes milliseconds, switchml_64 a fifth of a second. Processor time, so that others' load does not count.
_MOST_SECONDS = 5.0
# The tests themselves take ten seconds of it, on a machine whose load may be ten.
pytestmark = pytest.mark.timeout(600)
_MOST_KILOBYTES = 1 << 20

_FRAMES = (
    b"",
    b"\x01\x02",
    *(bytes([first, second]) + bytes(range(70)) for first in (0, 7) for second in (0, 9)),
    bytes(400),
)


def _small() -> list[str]:
    """A table, a loop in an action, a loop in the parser, and one of everything."""
    table = ProgramBuilder()
    table.simple(("a", 8), ("b", 8))
    send = table.action(
        "send", [table.assign("standard_metadata", "egress_spec", table.param(0))], [("port", 9)]
    )
    entry = {
        "match_key": [{"match_type": "lpm", "key": "0x07", "prefix_length": 8}],
        "action_entry": {"action_id": send, "action_data": ["0x5"]},
        "priority": 1,
    }
    table.table("t", [send], key=[("h", "a", "lpm")], default=send, arguments=[3], entries=[entry])
    loop = ProgramBuilder()
    loop.simple(("n", 8), ("total", 8))
    n, total = loop.field("h", "n"), loop.field("h", "total")
    loop.run(
        [
            loop.call("_jump_if_zero", n, loop.const(4)),
            loop.assign("h", "total", loop.op("+", total, n)),
            loop.assign("h", "n", loop.op("-", n, loop.const(1))),
            loop.call("_jump", loop.const(0)),
        ]
    )
    stack = ProgramBuilder()
    stack.stack("labels", 3, [("more", 8)])
    more = {"type": "stack_field", "value": ["labels", "more"]}
    stack.state(
        "start", [stack.extract("labels", "stack")], [more], cases=[("0x00", None, None)], default="start"
    )
    stack.order += ["labels[0]", "labels[1]", "labels[2]"]
    return [json.dumps(program.build()) for program in (table, loop, stack, everything())]


def _run(data: bytes, tracing: bool) -> None:
    """Raises only what a program may raise."""
    refused = None
    try:
        switch = P4Switch(load_program(data), trace=(lambda line: None) if tracing else None)
    except UnsupportedProgramError as error:
        refused = str(error)
    if refused is not None:
        assert refused.isprintable()
        assert ": " in refused or "no pipelines or parsers" in refused
        assert len(refused) < 2000
        return
    for frame in _FRAMES:
        with contextlib.suppress(PipelineError):
            switch.process(1, frame)


def _try(text: str, rng: random.Random) -> None:
    try:
        data = json.dumps(mutated(text, rng)).encode()
    except RecursionError:
        return  # nested deeper than Python writes
    before = time.process_time()
    _run(data, rng.random() < 0.3)
    taken = time.process_time() - before
    assert taken < _MOST_SECONDS, f"{taken:.1f} s: {data[:2000]!r}"


@guided()
def test_mutations_of_small_programs() -> None:
    texts = _small()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for rng in inputs(1000, 0.12):
        _try(rng.choice(texts), rng)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < _MOST_KILOBYTES


@guided()
def test_mutations_of_our_own_program() -> None:
    text = (ROOT / "p4/build/switchml_64.json").read_text()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for rng in inputs(25, 0.08):
        _try(text, rng)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < _MOST_KILOBYTES
