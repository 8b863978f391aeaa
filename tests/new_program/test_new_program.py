"""`switchml p4 new`: what is copied runs as it is, and with the change that its README proposes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from switchml.cli import app

COMPILE = ["p4c-bm2-ss", "--p4runtime-files", "program.p4info.txtpb", "-o", "program.json", "program.p4"]


def call(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, words)))
    return done.exit_code, done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    code, told = call("p4", "new", path)
    assert (code, f"switchml stf {path}/program.json" in told) == (0, True)
    return path


def test_it_runs_as_it_is(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == [
        *("README.md", "program.json", "program.p4", "program.p4info.txtpb", "program.stf")
    ]
    assert call("stf", folder / "program.json", folder / "program.stf")[0] == 0


def test_nothing_is_written_over(folder: Path) -> None:
    (folder / "program.p4").write_text("mine")
    code, told = call("p4", "new", folder)
    assert (code, "not empty" in told) == (1, True)
    assert (folder / "program.p4").read_text() == "mine"


def test_the_change_that_the_readme_proposes(folder: Path) -> None:
    if shutil.which("p4c-bm2-ss") is None:
        pytest.skip("p4c is not installed")
    before = [(folder / name).read_bytes() for name in ("program.json", "program.p4info.txtpb")]
    subprocess.run(COMPILE, cwd=folder, check=True, timeout=120)
    assert [(folder / name).read_bytes() for name in ("program.json", "program.p4info.txtpb")] == before
    source = (folder / "program.p4").read_text()
    declared = "counter(512, CounterType.packets_and_bytes) sent;"
    source = source.replace(declared, f"{declared}\n    counter(1, CounterType.packets) dropped;")
    source = source.replace("mark_to_drop(standard);", "mark_to_drop(standard);\n        dropped.count(0);")
    (folder / "program.p4").write_text(source)
    with (folder / "program.stf").open("a") as script:
        script.write("check_counter SwitchIngress.dropped(0) packets == 1\n")
    assert call("stf", folder / "program.json", folder / "program.stf")[0] == 1, "not compiled yet"
    subprocess.run(COMPILE, cwd=folder, check=True, timeout=120)
    assert call("stf", folder / "program.json", folder / "program.stf")[0] == 0
