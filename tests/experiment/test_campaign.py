"""What is measured, kept, gone on with and added; with a runner that measures nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from switchml.bench.findings import Finding
from switchml.bench.settings import Point
from switchml.errors import BenchError, UsageError
from switchml.experiment.campaign import Phase, Run, Store, carry_out, found_at, missing, wanted


class Killed(BaseException):
    """As by a signal."""


class Fake:
    """Finds each point's product; ours and a baseline that knows nothing of `wire`."""

    def __init__(self, *, dies_at: int = -1, fails: str = "") -> None:
        self.measured: list[str] = []
        self._dies_at, self._fails = dies_at, fails

    def runs(self, point: Point) -> list[Run]:
        plain = {**point, "wire": 1}
        return [Run({**point, "system": "ours"}), Run({**plain, "system": "base"})]

    def check(self, points: Sequence[Point]) -> None:
        pass

    def words(self, run: Run) -> str:
        return "/".join(str(value) for value in run.settings.values())

    def seconds(self, run: Run) -> float:
        return float(run.settings["size"])

    def batches(self, runs: Sequence[Run]) -> Iterable[Sequence[Run]]:
        return [[run for run in runs if run.settings["system"] == name] for name in ("ours", "base")]

    def measure(self, batch: Sequence[Run], phase: Phase) -> Iterator[tuple[Run, list[Finding]]]:
        for run in batch:
            phase(self.words(run))
            if len(self.measured) == self._dies_at:
                raise Killed
            if self.words(run) == self._fails:
                raise BenchError("rank 1 went away")
            self.measured.append(self.words(run))
            settings = run.settings
            yield run, [Finding(settings["system"], False, {"time": [settings["size"] * settings["wire"]]})]


class Notes:
    """What a watcher was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.left: list[float] = []

    def phase(self, text: str) -> None:
        pass

    def done(self, words: str, findings: Sequence[Finding], left: float) -> None:
        self.lines.append(words)
        self.left.append(left)

    def failed(self, words: str, error: BenchError) -> None:
        self.lines.append(f"{words}: {error}")


def points(sizes: Iterable[int], wires: Iterable[int]) -> list[dict[str, Any]]:
    return [{"size": size, "wire": wire} for size in sizes for wire in wires]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs", {"cores": 2})


def go_on(at: list[dict[str, Any]], runner: Fake, store: Store) -> tuple[int, Notes]:
    notes = Notes()
    return carry_out(missing(wanted(at, runner), store), runner, store, notes), notes


def test_what_points_have_in_common_is_measured_once(store: Store) -> None:
    runner = Fake()
    assert go_on(points([3], [1, 2]), runner, store)[0] == 0
    assert runner.measured == ["3/1/ours", "3/2/ours", "3/1/base"]
    found = found_at(points([3], [1, 2]), runner, store)
    assert [[one.samples["time"] for one in findings] for _, findings in found] == [[[3], [3]], [[6], [3]]]


def test_a_killed_campaign_goes_on_where_it_was(store: Store) -> None:
    at = points([1, 2], [1, 2])
    with pytest.raises(Killed):
        go_on(at, Fake(dies_at=3), store)
    assert len(found_at(at, Fake(), store)) == 0  # no baseline yet
    runner = Fake()
    _, notes = go_on(at, runner, store)
    assert runner.measured == ["2/2/ours", "1/1/base", "2/1/base"]
    assert notes.lines == runner.measured
    assert notes.left[-1] == pytest.approx(0)
    assert all(before >= 0 for before in notes.left)
    assert len(found_at(at, runner, store)) == 4
    assert go_on(at, Fake(), store)[1].lines == []


def test_more_values_add_what_is_missing(store: Store) -> None:
    go_on(points([1], [1, 2]), Fake(), store)
    runner = Fake()
    go_on(points([1, 5], [1, 2]), runner, store)
    assert runner.measured == ["5/1/ours", "5/2/ours", "5/1/base"]
    fewer = found_at(points([5], [2]), runner, store)
    assert [one.samples["time"] for one in fewer[0][1]] == [[10], [5]]


def test_a_failure_is_told_and_tried_again_and_the_others_are_measured(store: Store) -> None:
    at = points([1, 2], [1])
    failed, notes = go_on(at, Fake(fails="1/1/base"), store)
    assert failed == 2
    assert notes.lines == ["1/1/ours", "2/1/ours", "1/1/base; 2/1/base: rank 1 went away"]
    runner = Fake()
    assert go_on(at, runner, store)[0] == 0
    assert runner.measured == ["1/1/base", "2/1/base"]


def test_a_file_has_settings_machine_and_every_sample(store: Store, tmp_path: Path) -> None:
    go_on(points([7], [1]), Fake(), store)
    names = sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "runs").iterdir())
    assert names == ["7_1_base", "7_1_ours"]
    (path,) = (tmp_path / "runs").glob("7_1_ours-*.json")
    document = json.loads(path.read_text())
    assert document["run"] == {"size": 7, "wire": 1, "system": "ours"}
    assert document["machine"] == {"cores": 2}
    assert document["findings"][0]["samples"] == {"time": [7]}
    path.write_text("{}")
    with pytest.raises(UsageError, match="remove it"):
        missing([Run(document["run"])], store)


def test_half_a_file_does_not_count(store: Store, tmp_path: Path) -> None:
    at = points([7], [1])
    go_on(at, Fake(), store)
    for path in (tmp_path / "runs").iterdir():
        path.rename(path.with_suffix(".part"))
    assert len(missing(wanted(at, Fake()), store)) == 2
