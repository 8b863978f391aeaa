"""`switchml bench ddp`: a real training step over both backends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from switchml.bench.cli import bench_app
from switchml.bench.systems.ddp import WIDTH, layers_of, size_of

pytestmark = pytest.mark.timeout(180)


def test_model_comes_near_the_parameters_asked_for() -> None:
    assert layers_of(1) == 1
    assert abs(size_of(25_000_000) / 4 / 25_000_000 - 1) < 0.05
    assert size_of(25_000_000) == 4 * layers_of(25_000_000) * WIDTH * (WIDTH + 1)


def test_steps_over_both_backends_and_the_bare_allreduce(tmp_path: Path) -> None:
    record = tmp_path / "ddp.json"
    arguments = ["ddp", "--parameters", "4M", "--batch", "2", "--rounds", "2", "--steps", "1"]
    done = CliRunner().invoke(bench_app, [*arguments, "--json", str(record)])
    assert done.exit_code == 0, done.output
    results = json.loads(record.read_text())["results"]
    assert [one["system"] for one in results] == ["step over switchml", "step over gloo", "auto"]
    for one in results:
        assert len(one["rounds"]) == 2
        assert min(one["rounds"]) > 0
        assert set(one["against"]) == {other["system"] for other in results} - {one["system"]}
