"""`switchml doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from switchml.control import embedded
from switchml.torch_backend.routing import ROUTES


def doctor(*arguments: str, **environment: str) -> tuple[int, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SWITCHML_SWITCH")}
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "switchml.cli", "doctor", "--json", *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def named(report: Any, section: str) -> dict[str, Any]:
    return {one["name"]: one for one in report["findings"] if one["section"] == section}


def test_a_healthy_machine_and_a_secret_that_stays_one() -> None:
    with embedded.start() as switch:
        status, report = doctor(SWITCHML_SWITCH=switch.address, SWITCHML_TOKEN=switch.token)
        assert switch.token not in json.dumps(report)
        assert named(report, "switch")[switch.address]["ok"]
    assert (status, report["healthy"]) == (0, True)
    assert named(report, "torch")["backend"]["ok"]
    assert [one["ok"] for one in named(report, "transports").values()] == [True] * 3
    assert [len(row["collectives"]) for row in report["routing"]] == [len(route.methods) for route in ROUTES]


def test_a_switch_that_does_not_answer() -> None:
    status, report = doctor("--switch", "127.0.0.1:9", "--timeout", "1")
    assert (status, report["healthy"]) == (1, False)
    assert "127.0.0.1:9" in named(report, "switch")["127.0.0.1:9"]["text"]
    assert not named(report, "transports")


def test_without_autoload_it_says_so() -> None:
    _, report = doctor("--switch", "127.0.0.1:9", "--timeout", "1", TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert "imports switchml.torch_backend" in named(report, "torch")["backend"]["text"]
