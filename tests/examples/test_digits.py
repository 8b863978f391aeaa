"""The example reaches its accuracy, and the same parameters bit by bit, whatever happens to packets."""

from __future__ import annotations

import ast
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

pytestmark = pytest.mark.usefixtures("preloaded_programs")
DIGITS = Path(__file__).parents[2] / "examples" / "digits.py"
SWITCHML = str(Path(sys.executable).with_name("switchml"))


def _train(
    folder: Path,
    *options: str,
    template: Template | None = None,
    backend: str = "switchml",
    workers: int,
    **arguments: str,
) -> list[dict[str, Any]]:
    """Outcomes of the models, from a run of the example: by `switchml run` with options, or ranks from a template."""
    out = folder / "outcomes.json"
    words = [str(DIGITS), "--backend", backend, "--json", str(out)]
    for name, value in arguments.items():
        words += [f"--{name}", value]
    if template is None:
        command = [SWITCHML, "run", "-n", str(workers), *options, "--", *words]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)]
    else:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(workers)}
        started = [
            template.start(words, os.environ | meeting | {"RANK": str(rank)}) for rank in range(workers)
        ]
    said = [process.communicate(timeout=280) for process in started]
    assert [process.returncode for process in started] == [0] * len(started), said
    outcomes: list[dict[str, Any]] = json.loads(out.read_text())
    for outcome in outcomes:
        assert outcome["digest"] in said[0][0]
        assert outcome["backend"] == backend
        assert outcome["world_size"] == workers
    return outcomes


EPOCHS = "5"


@pytest.fixture(scope="module")
def over_gloo(template: Template, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the others are measured by."""
    return _train(
        tmp_path_factory.mktemp("gloo"), template=template, backend="gloo", epochs=EPOCHS, workers=2
    )


@pytest.mark.timeout(600)
def test_switchml_and_gloo_reach_the_same_accuracy(over_gloo: list[dict[str, Any]], tmp_path: Path) -> None:
    ours = _train(tmp_path, epochs=EPOCHS, workers=2)
    for mine, other in zip(ours, over_gloo, strict=True):
        assert mine["model"] == other["model"]
        assert abs(mine["accuracy"] - other["accuracy"]) <= 0.01
    accuracy = {outcome["model"]: outcome["accuracy"] for outcome in ours}
    assert accuracy["conv"] >= 0.95
    assert accuracy["logistic"] >= 0.93


@pytest.mark.timeout(300)
def test_with_the_hook_gloo_keeps_the_rest(
    template: Template, over_gloo: list[dict[str, Any]], tmp_path: Path
) -> None:
    """8-bit gradients: less on the wire, other bits, the accuracy of whole ones. Those of the small model would go exactly."""
    (whole,) = (outcome for outcome in over_gloo if outcome["model"] == "conv")
    (short,) = _train(
        tmp_path, template=template, backend="gloo", model="conv", epochs=EPOCHS, workers=2, hook="int8"
    )
    assert (whole["hook"], short["hook"]) == ("none", "int8")
    assert whole["hook_bytes"] == 0 < short["hook_bytes"]
    assert whole["digest"] != short["digest"]
    assert abs(whole["accuracy"] - short["accuracy"]) <= 0.03


FAULTS = ("--loss", "0.01", "--duplicate", "0.01", "--reorder", "0.01", "--seed", "9")
PATHS = {"faults": FAULTS, "udp, faults": ("--transport", "udp", *FAULTS)}


@pytest.fixture(scope="module")
def plain_digests(template: Template, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of the parameters after a run without faults. One epoch shows it as well as twenty, and three workers as well as more:
    of two alone, sums do not depend on the order.
    """
    return _digests(tmp_path_factory.mktemp("plain"), template=template)


def _digests(folder: Path, *options: str, **more: Any) -> list[str]:
    return [outcome["digest"] for outcome in _train(folder, *options, epochs="1", workers=3, **more)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", PATHS)
def test_parameters_are_bitwise_equal_from_run_to_run(
    path: str, plain_digests: list[str], tmp_path: Path
) -> None:
    """Over any path and under faults. That the ranks agree, the example itself checks."""
    assert _digests(tmp_path, *PATHS[path]) == plain_digests


def test_seeds_make_a_difference(template: Template, plain_digests: list[str], tmp_path: Path) -> None:
    """The comparison above could not fail otherwise."""
    assert _digests(tmp_path, template=template, model="logistic", seed="2")[0] != plain_digests[0]


def test_it_imports_nothing_of_ours_but_for_the_hook() -> None:
    imported = {
        name.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.parse(DIGITS.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert "torch" in imported
    assert not any(name.split(".")[0] == "switchml" for name in imported)


def test_without_a_launcher_it_says_how_to_start_it(template: Template) -> None:
    alone = template.start(
        [str(DIGITS)], {name: value for name, value in os.environ.items() if name != "RANK"}
    )
    _, said = alone.communicate(timeout=100)
    assert alone.returncode == 1
    assert "switchml run -n 4" in said
