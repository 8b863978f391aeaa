"""The conformance scripts on every target: plain slot machine, compiled pipeline, P4 pipeline, BMv2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conformance_scripts import ELEMENTS, FOLDER, FORWARDING, SCRIPTS, made
from conformance_targets import MACHINES, PROGRAMS

from switchml.stf.bmv2_cli import Bmv2Error
from switchml.stf.command import described
from switchml.stf.emulator import EmulatorSwitch
from switchml.stf.language import parse_file
from switchml.stf.names import load_names
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
def test_script(name: str, target: str) -> None:
    kind = MACHINES[target]
    if name in FORWARDING and not kind.forwards:
        pytest.skip("the aggregation pipeline alone forwards nothing")
    machine = kind.make(ELEMENTS)
    try:
        switch = EmulatorSwitch(machine.runtime, machine.process)
        report = run_script(
            parse_file(_script(name)), load_names(PROGRAMS[ELEMENTS]), switch, str(_script(name))
        )
    finally:
        machine.close()
    assert report.passed, "\n" + "\n".join(described(_script(name), report))


@pytest.fixture
def bmv2() -> Callable[[], None]:
    from switchml.stf.bmv2 import find_bmv2

    try:
        find_bmv2()
    except Bmv2Error as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("bmv2")
@pytest.mark.parametrize("name", SCRIPTS)
def test_script_on_bmv2(name: str) -> None:
    from switchml.stf.session import run_files

    report = run_files(PROGRAMS[ELEMENTS], _script(name), "bmv2")
    assert report.passed, "\n" + "\n".join(described(_script(name), report))
