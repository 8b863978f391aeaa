"""docs/tutorial-p4.md: its changes apply to the programs as they are, its commands are there, and what it shows comes."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from free_port import free_port

from switchml.cli import load
from switchml.stf.language import parse_file

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial-p4.md").read_text()
FILES: dict[str, str] = dict(re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', PAGE, re.M | re.S))
CONSOLES: list[str] = re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S)
NEXT = "--- next"


def steps() -> list[tuple[str, list[str]]]:
    """Every command, in order, and the lines that are shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(CONSOLES).splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the tutorial uses of a checkout, and the files that it has the reader save."""
    for used in ("p4", "examples", "tests/conformance/scripts"):
        shutil.copytree(ROOT / used, tmp_path / used)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_changes_apply_and_are_taken_back(folder: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed, by which the tutorial applies its changes")
    changes = [command for command, _ in steps() if command.startswith(("cp -r", "git apply"))]
    for command in changes:
        subprocess.run(shlex.split(command), cwd=folder, check=True)
    assert {name for name in FILES if name.endswith(".diff")} == {each.split()[-1] for each in changes[1:]}
    source, ours = ROOT / "p4" / "include", folder / "mine" / "include"
    changed = {file.name for file in ours.iterdir() if file.read_text() != (source / file.name).read_text()}
    assert changed == {"counters.p4", "ingress.p4"}, "the counter is to stay, and nothing else"


def test_the_commands_are_ones_there_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    indented = re.findall(r"^    (switchml .+)$", PAGE, re.M)
    called = []
    for command in [command for command, _ in steps()] + indented:
        program, *words = shlex.split(re.split(r" [|>&]| 2>", command)[0])
        if program == "switchml":
            name, *rest = words
            load(name).make_context(name, rest)  # raises where an option or an argument is none
            called.append(name)
    assert sorted(set(called)) == ["check", "run", "stf", "switch"]
    assert len(parse_file(folder / "calc.stf")) == 2


@pytest.mark.timeout(900)  # five calls of the compiler, four trainings: minutes beside other work
def test_what_is_shown_comes(folder: Path) -> None:
    if shutil.which("p4c-bm2-ss") is None:
        pytest.skip("p4c is not installed")
    pytest.importorskip("google.rpc.status_pb2", reason="the extra p4runtime is not installed")
    pytest.importorskip("sklearn", reason="the example's digits are scikit-learn's")
    control, p4runtime = free_port(), free_port()
    commands = [command for command, _ in steps()]
    script = "\n".join(line for command in commands for line in (f"echo '{NEXT}'", command))
    script = script.replace("--device-id 1", f"--device-id 1 --control-port {control}")
    script = script.replace("50551", str(control)).replace("9559", str(p4runtime))
    read = folder / "read_counter.py"
    read.write_text(read.read_text().replace("9559", str(p4runtime)))
    there = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    played = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": there},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        told, _ = played.communicate(timeout=850)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(played.pid, signal.SIGKILL)
    parts = told.split(f"{NEXT}\n")[1:]
    assert len(parts) == len(commands), told
    for (command, shown), part in zip(steps(), parts, strict=False):
        # All else has times, ports and what a machine's rounding makes.
        exact = command.startswith("switchml stf")
        came = part.splitlines()
        assert {_plain(line, exact) for line in shown} <= {_plain(line, exact) for line in came}, (
            command,
            part,
        )


def _plain(line: str, exact: bool) -> str:
    return line if exact else re.sub(r"[0-9a-f.]*\d[0-9a-f.]*", "#", line)
