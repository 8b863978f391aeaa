"""`switchml experiment` as users type it, on loopback: files, table, what is added and what is not measured again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from switchml.cli import app
from switchml.experiment.cli import show_duration

MINE = """\
title = "Mine"
x = "sizes"
columns = "window"
y = ["time", "sent_again"]
[settings]
sizes = ["4K", "64K"]
window = 16
variants = "udp"
baseline = "none"
rounds = 2
warmup = 1
min_time = 0.01
"""

TRAINING = """\
measure = "program"
program = "training.py"
x = "wire"
y = ["right", "seconds"]
[settings]
wire = ["float32", "int8"]
rounds = 2
seed = 5
[arguments]
epochs = 3
[quantities.right]
label = "right answers (%)"
factor = 100
"""

PROGRAM = """\
import argparse, json, os
parser = argparse.ArgumentParser()
for name in ("--backend", "--seed", "--json", "--epochs"):
    parser.add_argument(name)
told = parser.parse_args()
lanes = {"float32": 1, "int8": 4}[os.environ["SWITCHML_WIRE"]]
if os.environ["RANK"] == "0":
    print("not to be seen")
    with open(told.json, "w") as file:
        found = {"right": 0.1 * int(told.seed), "seconds": int(told.epochs) / lanes, "backend": told.backend}
        json.dump([found], file)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str, code: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(app, ["experiment", *words])
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr


def test_a_figure_from_nothing_and_then_with_one_more_value(here: Path) -> None:
    (here / "mine.toml").write_text(MINE)
    told, _ = call("mine.toml", "--dry-run")
    assert "2 runs to do" in told
    assert not (here / "mine").exists()
    told, progress = call("mine.toml")
    assert "2 of 2" in progress
    assert "written: mine/results.json, mine/mine.svg, mine/mine.png" in told
    drawn = (here / "mine" / "mine.svg").read_text()
    for words in (
        "Mine",
        "window 16",
        "size of the tensor (B)",
        "packets sent again (%)",
        "2 workers, float32",
    ):
        assert words in drawn
    assert (here / "mine" / "mine.png").read_bytes().startswith(b"\x89PNG")

    told, progress = call("mine.toml", "window=16,32", "--json")
    assert "2 runs" in progress
    assert "2 are there" in progress
    document = json.loads(told)
    assert document == json.loads((here / "mine" / "results.json").read_text())
    assert len(document["points"]) == 4
    assert {"switchml", "versions", "processor"} <= document["machine"].keys()
    for point in document["points"]:
        (one,) = point["findings"]
        assert len(one["samples"]["time"]) == 2
        assert one["detail"]["verdict"]["wrong"] == 0
        assert one["detail"]["size"] == point["settings"]["sizes"]
        assert one["detail"]["facts"]["window"] == point["settings"]["window"]
    assert "0 runs to do" in call("mine.toml", "--dry-run")[0]


def test_a_program_is_run_with_each_seed_and_beside_gloo_once(here: Path) -> None:
    (here / "trained.toml").write_text(TRAINING)
    (here / "training.py").write_text(PROGRAM)
    told, progress = call("trained.toml", "--output", "out", "--json")
    assert "3 of 3" in progress  # two wires of ours, and gloo
    assert "not to be seen" not in told + progress
    points = json.loads(told)["points"]
    assert [
        [
            (one["system"], one["samples"]["seconds"], one["detail"]["told"][0]["backend"])
            for one in point["findings"]
        ]
        for point in points
    ] == [
        [("switchml", [3.0, 3.0], "switchml"), ("gloo", [3.0, 3.0], "gloo")],
        [("switchml", [0.75, 0.75], "switchml"), ("gloo", [3.0, 3.0], "gloo")],
    ]
    assert points[0]["findings"][0]["samples"]["right"] == pytest.approx([0.5, 0.6])
    assert "right answers (%)" in (here / "out" / "trained.svg").read_text()

    (here / "training.py").write_text(
        PROGRAM.replace("right", "left")
    )  # another program: all is measured anew
    assert "3 runs to do" in call("trained.toml", "--output", "out", "--dry-run")[0]
    _, said = call("trained.toml", "--output", "out", code=1)
    assert "its JSON has not right among left" in said


def test_the_folder_must_be_one_that_can_be_made() -> None:
    assert (
        "does not exist" in call("sizes", "rate=none", "--output", "no/such/folder", "--dry-run", code=1)[1]
    )


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (80, "80 s"), (100, "2 min"), (5000, "83 min"), (7200, "2.0 h")]
)
def test_durations(seconds: float, words: str) -> None:
    assert show_duration(seconds) == words
