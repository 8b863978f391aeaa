"""The hook in DDP over gloo, with a real switch on loopback."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from free_port import free_port
from preloaded import Template

from switchml.control import embedded

PROGRAM = Path(__file__).parent / "programs" / "hooked.py"
WORLD = 2


# float32: block floating point. The others: the gradient's noise, which feedback makes up for.
BOUND = {"float32": 1e-5, "int16": 1e-3, "int8": 0.15}


@pytest.fixture(scope="module")
def reports(template: Template) -> dict[str, list[dict[str, Any]]]:
    """By wire, what each rank reports."""
    # One switch for all: rank 0 would start one for each state.
    with embedded.start() as switch:
        return _run(template, SWITCHML_SWITCH=switch.address, SWITCHML_TOKEN=switch.token)


def _run(template: Template, **environment: str) -> dict[str, list[dict[str, Any]]]:
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(WORLD),
        "SWITCHML_PAYLOAD": "1024",
    }
    shared |= environment
    ranks = [template.start([str(PROGRAM), *BOUND], shared | {"RANK": str(rank)}) for rank in range(WORLD)]
    try:
        found = []
        for rank in ranks:
            said, complaints = rank.communicate(timeout=200)
            assert rank.returncode == 0, complaints
            found.append(json.loads(said.strip().splitlines()[-1]))
        return {wire: [report[wire] for report in found] for wire in BOUND}
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
                rank.communicate()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wire", BOUND)
def test_training_goes_as_over_gloo(reports: dict[str, list[dict[str, Any]]], wire: str) -> None:
    for report in reports[wire]:
        assert report["backend"] == "gloo"
        assert report["distance"] <= BOUND[wire]
        assert report["digest"] != report["plain_digest"]


@pytest.mark.timeout(300)
def test_parameters_are_bitwise_equal_over_ranks_and_runs(reports: dict[str, list[dict[str, Any]]]) -> None:
    for first, second in reports.values():
        assert first["digest"] == first["second_digest"] == second["digest"]
        assert first["wrapped_digest"] == second["wrapped_digest"] != first["digest"]


@pytest.mark.timeout(300)
def test_bytes_fall_with_the_wire(reports: dict[str, list[dict[str, Any]]]) -> None:
    """Headers, exponents, small buckets that go exactly and the last packet of each included."""
    whole, half, quarter = (reports[wire][0]["sent"] for wire in BOUND)
    assert half <= 0.58 * whole
    assert quarter <= 0.35 * whole
