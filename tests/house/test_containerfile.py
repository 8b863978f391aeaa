"""Containerfile, as far as can be told without a container engine: its parts are there, its shell is shell."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from switchml.protocol.messages import UDP_PORT_FIRST

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXT = re.sub(r"^#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.M).replace("\\\n", " ")
INSTRUCTIONS = [
    (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in TEXT.splitlines()) if word
]
ARGUMENTS = dict(rest.split("=", 1) for word, rest in INSTRUCTIONS if word == "ARG")


def of(word: str) -> list[str]:
    return [rest for each, rest in INSTRUCTIONS if each == word]


def ignored(path: str) -> bool:
    """Whether the build does not see a file of the repository."""
    for pattern in (ROOT / ".containerignore").read_text().splitlines():
        if pattern.startswith("#"):
            continue
        anywhere = pattern.startswith("**/")
        expression = re.escape(pattern.removeprefix("**/")).replace(r"\*", "[^/]*")
        if re.match(rf"{'(.*/)?' if anywhere else ''}{expression}(/|$)", path):
            return True
    return False


def test_it_is_made_of_instructions() -> None:
    known = {"ARG", "CMD", "COPY", "EXPOSE", "FROM", "RUN", "USER", "WORKDIR"}
    assert {word for word, _ in INSTRUCTIONS} == known


def test_images_are_named_in_full_and_python_is_the_one_that_is_tested() -> None:
    assert all(
        re.match(r"docker\.io/library/python:\$\{PYTHON\}-\w+-\w+( AS \w+)?$", image) for image in of("FROM")
    )
    assert len(of("FROM")) == 2
    assert f">={ARGUMENTS['PYTHON']}" == PROJECT["requires-python"]


def test_what_is_copied_is_there_and_the_package_is_not_left_out() -> None:
    sources = [copied.split()[0] for copied in of("COPY")]
    sources += re.findall(r"type=bind,source=([\w.]+)", " ".join(of("RUN")))
    assert sources == [".", "constraints.txt"]
    assert not ignored("constraints.txt")
    needed = [
        os.path.relpath(os.path.join(folder, name), ROOT)
        for top in (
            "switchml",
            "worker",
            "switch_emulator",
            "torch_backend",
            "p4/build",
            "examples",
            "scripts/mininet",
        )
        for folder, _, names in os.walk(ROOT / top)
        for name in names
        if "__pycache__" not in folder
    ]
    assert "worker/window.py" in needed
    assert [path for path in (*needed, "pyproject.toml", "README.md", "LICENSE") if ignored(path)] == []
    assert all(
        ignored(path)
        for path in (".venv/bin/python", ".git/config", "worker/__pycache__/window.cpython-311.pyc")
    )
    assert os.readlink(ROOT / ".dockerignore") == ".containerignore"


@pytest.mark.parametrize("number", [0, 1])
def test_a_step_is_shell_and_installs_what_is_pinned(number: int) -> None:
    step = re.sub(r"--mount=\S+\s+", "", of("RUN")[number])
    subprocess.run(["sh", "-n", "-c", step], check=True)
    if "pip install" in step:
        assert "--constraint /constraints.txt" in step
        assert "--only-binary :all:" in step
        assert '"$1[$EXTRAS]"' in step


def test_it_runs_as_nobody_in_particular_with_what_there_is() -> None:
    (user,) = of("USER")
    assert int(user) > 0
    assert f"--uid {user} " in of("RUN")[1]
    assert set(ARGUMENTS["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    assert of("EXPOSE") == [f"50551/tcp {UDP_PORT_FIRST}/udp"]
    assert of("CMD") == ['["switchml", "--help"]']
