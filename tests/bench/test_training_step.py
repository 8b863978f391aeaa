"""`switchml bench ddp` and what else is done with torch.distributed: real steps and calls over both backends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from switchml.bench.cli import bench_app
from switchml.bench.systems.ddp import WIDTH, layers_of, size_of
from switchml.errors import UsageError

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("preloaded_ranks")]


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


def _results(tmp_path: Path, *arguments: str) -> tuple[str, list[dict[str, Any]]]:
    record = tmp_path / "found.json"
    done = CliRunner().invoke(
        bench_app, [*arguments, "--workers", "2", "--rounds", "1", "--json", str(record)]
    )
    assert done.exit_code == 0, done.output
    return done.output, json.loads(record.read_text())["results"]


def test_steps_of_a_sharded_training(tmp_path: Path) -> None:
    output, results = _results(tmp_path, "fsdp", "--parameters", "4M")
    assert "FSDP2, 1 layers, 4,196,352 parameters" in output
    assert [one["system"] for one in results] == ["step over switchml", "step over gloo"]
    assert all(one["rounds"][0] > 0 for one in results)


def test_gradients_of_an_embedding(tmp_path: Path) -> None:
    arguments = [
        "embedding",
        "--rows",
        "3000",
        "--columns",
        "16",
        "--density",
        "0.01,1",
        "--min-time",
        "0.01",
    ]
    output, results = _results(tmp_path, *arguments)
    assert "dense over switchml / this" in output
    assert [(one["system"], one["rows"]) for one in results] == [
        (f"{what} over {backend}", rows)
        for rows in (30, 3000)
        for backend in ("switchml", "gloo")
        for what in ("sparse", "dense")
    ]
    for one in results:
        assert set(one["against"]) == {other["system"] for other in results} - {one["system"]}


def test_gathers_and_scatters(tmp_path: Path) -> None:
    output, results = _results(tmp_path, "sharding", "--sizes", "64K,1M", "--min-time", "0.01")
    assert "gloo / this" in output
    assert [(one["system"], one["size"]) for one in results] == [
        (f"{call} over {backend}", size)
        for size in (1 << 16, 1 << 20)
        for backend in ("switchml", "gloo")
        for call in ("all-gather", "reduce-scatter", "both")
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fsdp", "--baseline", "nccl"], "choose gloo or none"),
        (["sharding", "--transport", "all"], "choose one of"),
        (["embedding", "--density", "0.1,2"], "at most 1"),
        (["embedding", "--density", "few"], "shares of a whole"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        CliRunner().invoke(bench_app, arguments, catch_exceptions=False)
