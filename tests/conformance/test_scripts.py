"""The conformance scripts on every target: plain slot machine, compiled pipeline, P4 pipeline, BMv2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conformance_scripts import FOLDER, FORWARDING, SCRIPTS, elements_of, made
from conformance_targets import MACHINES, PROGRAMS, Machine

from switchml.stf.cli import described
from switchml.stf.declarations import load_names
from switchml.stf.emulator_target import EmulatorSwitch
from switchml.stf.language import parse_file
from switchml.stf.runner import run_script


def test_the_scripts_are_what_the_generator_makes() -> None:
    assert {path.stem for path in FOLDER.glob("*.stf")} == set(SCRIPTS)
    for name in SCRIPTS:
        assert (FOLDER / f"{name}.stf").read_text() == made(name), (
            f"{name}.stf is not current: python tests/conformance/conformance_scripts.py"
        )


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

    report = run_files(PROGRAMS[elements_of(name)], _script(name), "bmv2")
    assert report.passed, "\n" + "\n".join(described(_script(name), report))
