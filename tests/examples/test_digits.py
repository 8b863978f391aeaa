"""The example reaches its accuracy, and the same parameters bit by bit, whatever happens to packets."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is in the extra `examples`")
pytest.importorskip("sklearn", reason="scikit-learn is in the extra `examples`")

DIGITS = Path(__file__).parents[2] / "examples" / "digits.py"
SWITCHML = str(Path(sys.executable).with_name("switchml"))


def _train(
    folder: Path, *options: str, backend: str = "switchml", workers: int = 4, **arguments: str
) -> list[dict[str, Any]]:
    """Outcomes of the models, from a run of the example."""
    out = folder / "outcomes.json"
    words = [
        SWITCHML,
        "run",
        "-n",
        str(workers),
        *options,
        "--",
        str(DIGITS),
        "--backend",
        backend,
        "--json",
        str(out),
    ]
    for name, value in arguments.items():
        words += [f"--{name}", value]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    outcomes: list[dict[str, Any]] = json.loads(out.read_text())
    for outcome in outcomes:
        assert outcome["digest"] in done.stdout
        assert outcome["backend"] == backend
        assert outcome["world_size"] == workers
    return outcomes


@pytest.mark.timeout(600)
def test_switchml_and_gloo_reach_the_same_accuracy(tmp_path: Path) -> None:
    ours, theirs = (_train(tmp_path, backend=backend, epochs="10") for backend in ("switchml", "gloo"))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["model"] == other["model"]
        assert abs(mine["accuracy"] - other["accuracy"]) <= 0.01
    accuracy = {outcome["model"]: outcome["accuracy"] for outcome in ours}
    assert accuracy["conv"] >= 0.95
    assert accuracy["logistic"] >= 0.93


FAULTS = ("--loss", "0.01", "--duplicate", "0.01", "--reorder", "0.01", "--seed", "9")
PATHS = {
    "again": (),
    "faults": FAULTS,
    "udp, faults": ("--transport", "udp", *FAULTS),
}


@pytest.fixture(scope="module")
def plain_digests(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of the parameters after a run over shared memory, without faults. One epoch shows it as well as twenty, and three
    workers as well as more: of two alone, sums do not depend on the order.
    """
    return _digests(tmp_path_factory.mktemp("plain"))


def _digests(folder: Path, *options: str) -> list[str]:
    return [outcome["digest"] for outcome in _train(folder, *options, epochs="1", workers=3)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", PATHS)
def test_parameters_are_bitwise_equal_from_run_to_run(
    path: str, plain_digests: list[str], tmp_path: Path
) -> None:
    """Over any path and under faults. That the ranks agree, the example itself checks."""
    assert _digests(tmp_path, *PATHS[path]) == plain_digests


def test_seeds_make_a_difference(tmp_path: Path) -> None:
    """The comparison above could not fail otherwise."""
    first, second = (_train(tmp_path, model="logistic", epochs="1", seed=seed, workers=2) for seed in "12")
    assert first[0]["digest"] != second[0]["digest"]


@pytest.mark.timeout(300)
def test_with_the_hook_gloo_keeps_the_rest(tmp_path: Path) -> None:
    """8-bit gradients: less on the wire, other bits, the accuracy of whole ones. Those of the small model would go exactly."""
    whole, short = (
        _train(tmp_path, backend="gloo", model="conv", epochs="2", workers=2, hook=hook)[0]
        for hook in ("none", "int8")
    )
    assert (whole["hook"], short["hook"]) == ("none", "int8")
    assert whole["hook_bytes"] == 0 < short["hook_bytes"]
    assert whole["digest"] != short["digest"]
    assert abs(whole["accuracy"] - short["accuracy"]) <= 0.03


def test_it_imports_nothing_of_ours_but_for_the_hook() -> None:
    imported = {
        name.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.parse(DIGITS.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert "torch" in imported
    assert not any(name.split(".")[0] == "switchml" for name in imported)


def test_without_a_launcher_it_says_how_to_start_it() -> None:
    done = subprocess.run([sys.executable, str(DIGITS)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "switchml run -n 4" in done.stderr
