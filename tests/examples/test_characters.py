"""The transformer learns over every wire, and the picture of its losses is drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from preloaded import Template

pytest.importorskip("torch", reason="torch is in the extra `examples`")

pytestmark = pytest.mark.usefixtures("preloaded_programs")
CHARACTERS = Path(__file__).parents[2] / "examples" / "characters.py"
SWITCHML = str(Path(sys.executable).with_name("switchml"))


@pytest.mark.timeout(300)
def test_narrow_wires_learn_as_whole_ones_do(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra `bench`")
    out, plot = tmp_path / "losses.json", tmp_path / "losses.png"
    words = ["--steps", "24", "--every", "8", "--json", str(out), "--plot", str(plot)]
    done = subprocess.run(
        [SWITCHML, "run", "-n", "2", "--", str(CHARACTERS), *words],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    curves = json.loads(out.read_text())
    assert [curve["wire"] for curve in curves] == ["float32", "int16", "int8"]
    whole = curves[0]["losses"]
    for curve in curves:
        assert curve["steps"] == [0, 8, 16, 24]
        assert curve["losses"][0] == whole[0], "the same model to begin with"
        assert curve["losses"][-1] < whole[0] - 1.5
        # 0.003 after 300 steps of 8 workers; nothing here depends on timing, so bits repeat.
        assert abs(curve["losses"][-1] - whole[-1]) < 0.01
    assert curves[1]["losses"] != whole
    assert curves[2]["losses"] != whole
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_without_a_launcher_it_says_how_to_start_it(template: Template) -> None:
    alone = template.start(
        [str(CHARACTERS)], {name: value for name, value in os.environ.items() if name != "RANK"}
    )
    _, said = alone.communicate(timeout=100)
    assert alone.returncode == 1
    assert "switchml run -n 8" in said
