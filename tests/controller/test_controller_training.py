"""Training through the P4 pipeline ends with the same parameters, bit by bit, as through the native one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is in the extra `examples`")
pytest.importorskip("sklearn", reason="scikit-learn is in the extra `examples`")
pytest.importorskip(
    "google.rpc.status_pb2", reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'"
)

DIGITS = Path(__file__).parents[2] / "examples" / "digits.py"


def trained(
    folder: Path, pipeline: str, *options: str, seed: int = 1
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The example's outcome, and the summary of the run."""
    outcome, summary = folder / f"{Path(pipeline).stem}-{seed}.json", folder / "summary.json"
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "switchml.cli",
                "run",
                "-n",
                "2",
                "--pipeline",
                pipeline,
                "--json",
                str(summary),
            ),
            *(*options, "--", str(DIGITS), "--model", "logistic", "--epochs", "1", "--seed", str(seed)),
            *("--json", str(outcome)),
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(outcome.read_text())[0], json.loads(summary.read_text())


@pytest.mark.timeout(500)
def test_both_pipelines_give_the_same_parameters(
    small_program_files: tuple[Path, Path], tmp_path: Path
) -> None:
    config, _ = small_program_files
    p4, summary = trained(tmp_path, str(config))
    # Packets of the same size: a scale is shared by the elements of a packet.
    native, _ = trained(tmp_path, "native", "--payload", "256")
    assert p4["digest"] == native["digest"]
    assert p4["accuracy"] == native["accuracy"] > 0.5
    assert summary["pipeline"] == str(config)
    assert summary["traffic"]["counters"]["chunks_completed"] > 0
