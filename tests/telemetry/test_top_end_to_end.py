"""`switchml top` at a real switch, with a job in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from typer.testing import CliRunner

from switchml.cli import app
from switchml.switch_emulator import Emulator
from switchml.telemetry.publisher import Publisher
from switchml.worker import Worker

ELEMENTS = 50_000


@pytest.fixture
def switch() -> Iterator[str]:
    """Control address of a switch with a job "two ranks", which has made one sum."""
    with Emulator() as emulator:
        address = emulator.control_address

        def join(rank: int) -> Worker:
            worker = Worker.join(address, job="two ranks", rank=rank, world_size=2, join_timeout=60.0)
            worker.allreduce(np.ones(ELEMENTS, np.int32)).wait()
            return worker

        with Publisher(emulator.controller, switch=address), ThreadPoolExecutor(2) as pool:
            workers = list(pool.map(join, range(2)))
            yield address
            for worker in workers:
                worker.leave()


def test_one_picture_as_json_and_as_text(switch: str) -> None:
    done = CliRunner().invoke(app, ["top", "--once", "--json", "--switch", switch])
    assert done.exit_code == 0, done.output
    (told,) = json.loads(done.output)
    (job,) = told["jobs"]
    assert told["switch"] == switch
    assert (job["name"], job["state"]) == ("two ranks", "running")
    assert [(member["rank"], member["transport"]) for member in job["members"]] == [
        (0, "memory"),
        (1, "memory"),
    ]
    assert job["counters"]["elements_added"] >= 2 * ELEMENTS
    assert told["counters"]["elements_added"] == job["counters"]["elements_added"]

    drawn = CliRunner().invoke(app, ["top", "--once", "--switch", switch])
    assert drawn.exit_code == 0, drawn.output
    assert f"switch {switch}" in drawn.output
    assert "job two ranks #1   running   2 of 2 ranks" in drawn.output


def test_a_switch_that_publishes_nothing_says_so() -> None:
    with Emulator() as emulator:
        done = CliRunner().invoke(app, ["top", "--once", "--switch", emulator.control_address])
    assert done.exit_code == 1
    assert "publishes nothing" in done.output
