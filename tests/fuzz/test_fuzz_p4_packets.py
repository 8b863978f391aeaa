"""Frames of any bytes to the SwitchML P4 program: forwarded, answered or dropped, never an error, never more than a few."""

from __future__ import annotations

import random
import resource
from pathlib import Path

import pytest
from fuzz_budget import guided, inputs

from switchml.stf.emulator_target import Clock, EmulatorSwitch
from switchml.stf.language import Add, Direct, Packet, SetDefault, Statement, parse_file
from switchml.stf.program_names import load_names
from switchml.stf.runner import run_script
from switchml.switch_emulator.p4 import P4Switch, load_program

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "p4/build/switchml_64.json"
SCRIPTS = ROOT / "tests/conformance/scripts"
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PROGRAM.exists(), reason="the compiled program is not there: make -C p4"),
]

_IPV4, _UDP, _OURS = 14, 34, 42
_MOST_COPIES = 16
_LARGEST_ANSWER = 256  # what a header alone can bring: a whole chunk of elements
_MOST_KILOBYTES = 64 << 10


def _script(name: str) -> list[Statement]:
    return list(parse_file(SCRIPTS / name))


def _switch() -> P4Switch:
    """Two jobs, as the conformance suite programs them."""
    made = P4Switch(load_program(PROGRAM.read_bytes()))
    program = [each for each in _script("two_jobs.stf") if isinstance(each, Add | Direct | SetDefault)]
    run_script(program, load_names(PROGRAM), EmulatorSwitch(made, made.process, clock=Clock()))
    return made


def _frames() -> list[tuple[int, bytes]]:
    """The packets of all scripts."""
    found = []
    for path in sorted(SCRIPTS.glob("*.stf")):
        if "256" not in path.name:
            found += [(each.port, each.data) for each in parse_file(path) if isinstance(each, Packet)]
    return found


def _changed(frame: bytes, rng: random.Random) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        # Mostly where an IPv4 checksum does not see it.
        first = rng.choice((0, _IPV4, _UDP, _OURS, _OURS, _OURS))
        at = min(len(data), rng.randrange(first, first + 12))
        match rng.randrange(6):
            case 0 | 1 | 2:
                data[at : at + 1] = rng.randbytes(1)
            case 3:
                data[at : at + 4] = rng.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0")
                )
            case 4:
                del data[at : at + rng.choice((1, 2, 4, 1500))]
            case _:
                data[at:at] = rng.randbytes(rng.choice((1, 4, 300)))
    return bytes(data)


@guided()
def test_frames_of_any_bytes() -> None:
    switch, frames = _switch(), _frames()
    left = 0
    memory = 0
    for rng in inputs(1500, 0.15):
        port, frame = rng.choice(frames)
        if rng.random() < 0.05:
            port, frame = rng.randrange(512), rng.randbytes(rng.randrange(300))
        sent = _changed(frame, rng)
        out = switch.process(port, sent)
        assert len(out) <= _MOST_COPIES, sent.hex()
        assert all(0 <= to < 512 and len(data) <= len(sent) + _LARGEST_ANSWER for to, data in out), sent.hex()
        left += len(out)
        memory = memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert left > 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < _MOST_KILOBYTES
