"""A fuzz test that atheris guides: what it finds is shown, with an input that shows it again."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="there is no wheel of atheris for this Python"
)
RUN = Path(__file__).with_name("guided_run.py")

TEST = """
from fuzz_budget import inputs
from switchml.packets.ethernet import mac_bytes

def test_a_fault():
    for rng in inputs(1, 1.0):
        text = ":".join("%02x" % rng.getrandbits(8) for _ in range(6))
        assert mac_bytes(text)[0] != 7, text
"""


@pytest.mark.timeout(600)
def test_a_fault_is_found_and_shown(tmp_path: Path) -> None:
    test = tmp_path / "test_fault.py"
    test.write_text(TEST)

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(RUN), str(test)],
            env=os.environ | {"TMPDIR": str(tmp_path), "SWITCHML_FUZZ_SECONDS": "300"} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    found = run()
    assert found.returncode == 1, found.stderr
    assert re.search(r"AssertionError: 07:", found.stdout)
    shown = re.search(r"the input: SWITCHML_FUZZ_INPUT=([0-9a-f]+) python", found.stdout)
    assert shown is not None
    again = run(SWITCHML_FUZZ_INPUT=shown[1])
    assert again.returncode == 1
    assert re.search(r"AssertionError: 07:", again.stdout)
