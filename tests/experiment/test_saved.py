"""Experiments as files: what they may say, and what is said of what they may not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from switchml.cli import app
from switchml.errors import UsageError
from switchml.experiment.campaign import wanted
from switchml.experiment.runners import runner_of
from switchml.experiment.saved import Experiment, figures, find, load

PLAIN = """\
x = "workers"
[settings]
workers = [2, 4]
sizes = "64K,1M"
wire = ["float32", "int8"]
[small]
workers = 2
"""


def read(folder: Path, text: str, *changes: str, small: bool = False) -> Experiment:
    path = folder / "mine.toml"
    path.write_text(text)
    return load(path, changes, small=small)


def test_every_combination_is_a_point(tmp_path: Path) -> None:
    one = read(tmp_path, PLAIN)
    assert one.varied == ["workers", "sizes", "wire"]
    assert len(list(one.points())) == 8
    assert (one.name, one.y, one.options["baseline"]) == ("mine", ("time", "speedup"), ["gloo"])


def test_the_command_line_counts_for_more_than_small_and_that_for_more_than_the_rest(tmp_path: Path) -> None:
    assert read(tmp_path, PLAIN, small=True).values["workers"] == [2]
    one = read(tmp_path, PLAIN, "workers=3,5", "min-time=0.5", "baseline=none", "check=no", small=True)
    assert one.values["workers"] == [3, 5]
    assert (one.options["min_time"], one.options["baseline"], one.options["check"]) == (0.5, [], False)
    assert one.y == ("time",)  # nothing is left to be faster than


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        (PLAIN, ["wokers=2"], "setting 'wokers' is unknown: did you mean workers"),
        (PLAIN, ["workers"], "write NAME=VALUE"),
        (PLAIN, ["rounds=2,3"], "rounds: '2,3' is not a number"),
        (PLAIN, ["check=maybe"], "neither true nor false"),
        (PLAIN, ["sizes=huge"], "sizes: 'huge' is not a size"),
        (PLAIN, ["model=conv"], "setting 'model' is unknown"),
        ('colums = "rate"\n' + PLAIN, [], "key 'colums' is unknown: did you mean columns"),
        ('columns = "workers"\n' + PLAIN, [], "x and columns are both 'workers'"),
        ('measure = "alreduce"\n' + PLAIN, [], "did you mean allreduce"),
        ('y = ["time", "tmie"]\n' + PLAIN, [], "y 'tmie' is unknown"),
        ('program = "digits"\n' + PLAIN, [], "belong to measure"),
        ("[settings]\nworkers = 2\n", [], "x '' is unknown: choose from workers"),
        ('x = "workers"\nsettings = 3\n', [], "settings is a table"),
        ("x = \n", [], "line 1"),
        ('measure = "program"\nx = "wire"\ny = "accuracy"\n', [], "program is missing"),
        ('measure = "program"\nx = "wire"\nprogram = "digits"\n', [], "y is missing"),
        ('measure = "program"\nx = "wire"\ny = "a"\nprogram = "digit"\n', [], "did you mean digits"),
        ('measure = "program"\nx = "wire"\ny = "a"\nprogram = "digits"\n[arguments]\nrounds = 2\n', [], "has the name of"),
        (
            'measure = "program"\nx = "wire"\ny = "a"\nprogram = "digits"\n[quantities.a]\nunit = "s"\n',
            [],
            "and no unit",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_words(
    tmp_path: Path, text: str, changes: list[str], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        read(tmp_path, text, *changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["wire=float32,int4"], "2 workers, size 64K, wire int4: wire 'int4': choose one of"),
        (["variants=rdma"], "variant rdma: choose from auto"),
        (["variants=shm", "rate=1gbit"], "shm works on one host only"),
        (["beside=tcp"], "needs links to share"),
        (["dtype=float31"], "float31"),
        (["rounds=0"], "at least one round"),
    ],
)
def test_combinations_that_cannot_be_are_refused_before_anything_runs(
    tmp_path: Path, changes: list[str], words: str
) -> None:
    one = read(tmp_path, PLAIN, "baseline=none", *changes)
    with pytest.raises(UsageError, match=words):
        runner_of(one).check(list(one.points()))


def test_links_take_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, bool] = {}

    def why(**wanted: bool) -> str:
        asked.update(wanted)
        return "they need root"

    monkeypatch.setattr("switchml.experiment.runners.why_unavailable", why)
    one = read(tmp_path, PLAIN, "baseline=none", "variants=udp", "delay=none,5ms")
    with pytest.raises(UsageError, match="delay need network namespaces: they need root"):
        runner_of(one).check(list(one.points()))
    assert asked == {"rate": False, "loss": False, "delay": True}


@pytest.mark.parametrize("name", figures())
@pytest.mark.parametrize("small", [False, True])
def test_figures_that_come_with_it_can_be_carried_out(
    name: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("switchml.experiment.runners.why_unavailable", lambda **_: None)
    one = load(find(name), ["baseline=gloo"], small=small)
    points = list(one.points())
    runner = runner_of(one)
    runner.check(points)
    seconds = sum(map(runner.seconds, wanted(points, runner)))
    assert 0 < seconds < (130 if small else 3600)
    assert one.x in one.varied or small
    drawn: Any = (
        one.quantities if one.program is not None else ("time", "algbw", "speedup", "of_limit", "sent_again")
    )
    assert set(one.y) <= set(drawn)


def test_a_file_is_found_by_its_path_only() -> None:
    with pytest.raises(UsageError, match="did you mean workers"):
        find("worker")
    with pytest.raises(UsageError, match="no such file"):
        find("/nowhere/mine.toml")


def test_the_command_lists_figures_and_prints_them() -> None:
    listed = CliRunner().invoke(app, ["experiment"]).output
    assert all(name in listed for name in figures())
    printed = CliRunner().invoke(app, ["experiment", "loss", "--toml"]).output
    assert printed == find("loss").read_text()


PAGE = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()


def test_the_page_names_every_figure() -> None:
    assert re.findall(r"^\| `([\w-]+)` \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)[: len(figures())] == [
        "workers", "sizes", "one-host", "loss", "delay", "rate", "window", "wire", "accuracy"
    ]  # fmt: skip
    assert len(figures()) == 9


def test_experiments_of_the_page_can_be_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("switchml.experiment.runners.why_unavailable", lambda **_: None)
    told = re.findall(r"<!-- (\w+\.toml) -->\n```toml\n(.*?)```", PAGE, re.DOTALL)
    numbers = {}
    for name, text in told:
        for small in (False, True):
            one = read(tmp_path, text, small=small)
            points = list(one.points())
            runner = runner_of(one)
            runner.check(points)
            numbers[name, small] = len(wanted(points, runner))
    assert numbers == {
        ("queues.toml", False): 16,
        ("queues.toml", True): 8,
        ("training.toml", False): 6,
        ("training.toml", True): 6,
    }
