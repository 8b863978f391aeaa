"""The conformance scripts on every target: plain slot machine, compiled pipeline, P4 pipeline, BMv2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conformance_scripts import FOLDER, FORWARDING, LARGE, SCRIPTS, elements_of, made
from conformance_targets import MACHINES, PROGRAMS, Machine

from switchml.stf.cli import described
from switchml.stf.emulator_target import EmulatorSwitch
from switchml.stf.language import Expect, NoPacket, Packet, parse_file
from switchml.stf.program_names import load_names
from switchml.stf.runner import run_script


def test_the_scripts_are_what_the_generator_makes() -> None:
    assert {path.stem for path in FOLDER.glob("*.stf")} == set(SCRIPTS)
    for name in SCRIPTS:
        assert (FOLDER / f"{name}.stf").read_text() == made(name), (
            f"{name}.stf is not current: python tests/conformance/conformance_scripts.py"
        )


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_asks_nothing_of_the_control_plane_between_its_packets(name: str) -> None:
    """BMv2 reads the ports' files one after the other: see `Bmv2Switch`."""
    statements = parse_file(_script(name))
    first, *_, last = (i for i, each in enumerate(statements) if isinstance(each, Packet))
    assert {type(each) for each in statements[first:last]} <= {Packet, Expect, NoPacket}


def _script(name: str) -> Path:
    return FOLDER / f"{name}.stf"


@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str, target: str, machines: Callable[[str, int], Machine]) -> None:
    if name in FORWARDING and not MACHINES[target].forwards:
        pytest.skip("the aggregation pipeline alone forwards nothing")
    elements = elements_of(name)
    machine = machines(target, elements)
    report = run_script(
        parse_file(_script(name)),
        load_names(PROGRAMS[elements]),
        EmulatorSwitch(machine.runtime, machine.process),
        str(_script(name)),
    )
    assert report.passed, "\n" + "\n".join(described(_script(name), report))


@pytest.mark.usefixtures("bmv2")
@pytest.mark.parametrize("name", SCRIPTS)
def test_script_on_bmv2(name: str) -> None:
    from switchml.stf.script_files import run_files

    if name == f"asks_{LARGE}":
        pytest.skip(
            "BMv2 leaves a packet 512 bytes to grow: a bare header cannot become 1 KiB (p4/README.md)"
        )
    report = run_files(PROGRAMS[elements_of(name)], _script(name), "bmv2")
    assert report.passed, "\n" + "\n".join(described(_script(name), report))
