"""The comparison of estimators: all systems end with the same models, in a table and in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is in the extra `learn`")
pytest.importorskip("mlxtend", reason="mlxtend is in the extra `workloads`")

ESTIMATORS = Path(__file__).parents[2] / "examples" / "estimators.py"
DASK = os.environ.get("SWITCHML_DASK_PYTHON", "")


def compared(folder: Path, *words: str) -> dict[str, list[dict[str, float]]]:
    """What the systems ended with, over 1 MB of images and three iterations."""
    out = folder / "found.json"
    few = ["--workers", "2", "--megabytes", "1", "--iterations", "3", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, ESTIMATORS, *few, "--data", folder / "images", "--json", out, *words],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, float]]] = json.loads(out.read_text())["systems"]
    assert all(system in done.stdout for system in found)
    return found


def same_models(one: dict[str, float], other: dict[str, float]) -> None:
    for result in ("loss", "inertia"):
        assert one[result] == pytest.approx(other[result], rel=1e-5)


def test_two_workers_end_as_scikit_learn_does(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert list(found) == ["switchml.learn", "scikit-learn"]
    same_models(found["switchml.learn"][0], found["scikit-learn"][0])
    assert 0 < found["scikit-learn"][0]["loss"] < 0.6931, "better than guessing"


@pytest.mark.skipif(not DASK, reason="SWITCHML_DASK_PYTHON names no interpreter that has dask-ml")
def test_dask_ml_ends_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path, "--dask-python", DASK)
    same_models(found["switchml.learn"][0], found["dask-ml"][0])
