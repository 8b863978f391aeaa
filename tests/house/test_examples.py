"""`switchml examples`: every example is listed with what it says of itself, and found."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from switchml.cli import app
from switchml.shipped.cli import first_sentence, shipped

ROOT = Path(__file__).parents[2]
SOURCES = {"examples": ROOT / "examples", "mininet": ROOT / "scripts" / "mininet"}


def call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["examples", *words])
    return done.exit_code, done.output


def test_all_of_the_repository_are_there_as_they_are() -> None:
    ours = {path.name: path.read_bytes() for _, path in shipped()}
    theirs = {
        path.name: path.read_bytes()
        for folder in SOURCES.values()
        for path in folder.iterdir()
        if path.suffix in (".py", ".json")
    }
    assert ours == theirs
    assert "digits.py" in ours


def test_each_is_listed_with_what_it_is() -> None:
    code, told = call()
    assert code == 0
    words = told.split()
    assert {"digits", "characters", "mininet/experiment", "grafana_dashboard"} <= set(words)
    assert all(first_sentence(path) for _, path in shipped())


@pytest.mark.parametrize("name", ["digits", "mininet/experiment"])
def test_one_is_found_by_its_name(name: str) -> None:
    code, told = call(name)
    assert code == 0
    assert Path(told.strip()).is_file()


def test_a_name_that_is_none() -> None:
    assert call("letters")[0] == 1
