"""Training through the P4 pipeline ends with the same parameters, bit by bit, as through the native one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from free_port import free_port
from preloaded import Template

pytest.importorskip("torch", reason="torch is in the extra `examples`")
pytest.importorskip("sklearn", reason="scikit-learn is in the extra `examples`")
pytest.importorskip(
    "google.rpc.status_pb2", reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'"
)

DIGITS = Path(__file__).parents[2] / "examples" / "digits.py"


MODEL = ("--model", "logistic", "--epochs", "1", "--json")


def over_the_program(folder: Path, config: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The example's outcome, and the summary of the run."""
    outcome, summary = folder / "program.json", folder / "summary.json"
    run = [
        sys.executable,
        "-m",
        "switchml.cli",
        "run",
        "-n",
        "2",
        "--pipeline",
        str(config),
        "--json",
        str(summary),
    ]
    done = subprocess.run(
        [*run, "--", str(DIGITS), *MODEL, str(outcome)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return json.loads(outcome.read_text())[0], json.loads(summary.read_text())


def over_the_native_pipeline(folder: Path, template: Template, payload: int) -> dict[str, Any]:
    outcome = folder / "native.json"
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    job["SWITCHML_PAYLOAD"] = str(payload)
    words = [str(DIGITS), *MODEL, str(outcome)]
    ranks = [template.start(words, os.environ | job | {"RANK": str(rank)}) for rank in range(2)]
    said = [rank.communicate(timeout=200) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    found: dict[str, Any] = json.loads(outcome.read_text())[0]
    return found


@pytest.mark.timeout(500)
@pytest.mark.usefixtures("preloaded_programs")
def test_both_pipelines_give_the_same_parameters(
    small_program_files: tuple[Path, Path], template: Template, tmp_path: Path
) -> None:
    config, _ = small_program_files
    p4, summary = over_the_program(tmp_path, config)
    # Packets of the same size: a scale is shared by the elements of a packet.
    native = over_the_native_pipeline(tmp_path, template, 256)
    assert p4["digest"] == native["digest"]
    assert p4["accuracy"] == native["accuracy"] > 0.5
    assert summary["pipeline"] == str(config)
    assert summary["traffic"]["counters"]["chunks_completed"] > 0
