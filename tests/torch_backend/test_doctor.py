"""`switchml doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from switchml.control import embedded
from switchml.protocol import jit
from switchml.switch_emulator import Emulator
from switchml.torch_backend.routing import ROUTES

RANDOM_UID = 1_004_711


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
    assert jit.DISABLED or named(report, "system")["compiled code"]["text"].startswith("kept in /")
    assert [one["ok"] for one in named(report, "transports").values()] == [True] * 3
    assert [len(row["collectives"]) for row in report["routing"]] == [len(route.methods) for route in ROUTES]


def test_of_several_switches_the_one_that_fails_is_named() -> None:
    with Emulator() as switch:
        status, report = doctor("--switch", f"{switch.control_address},127.0.0.1:1", "--timeout", "2")
        assert named(report, "switch")[switch.control_address]["ok"]
        assert named(report, "transports")[f"{switch.control_address}: UDP"]["ok"]
    assert status == 1
    assert named(report, "switch")["127.0.0.1:1"]["ok"] is False


AS_NOBODY = """
import ctypes, json, os, sys
from switchml import doctor
libc = ctypes.CDLL(None)
uid = int(sys.argv[1])
assert libc.prctl(8, 1, 0, 0, 0) == 0  # PR_SET_KEEPCAPS: may read what root may, as an interpreter under /root
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
header, reads = (ctypes.c_uint32 * 2)(0x20080522, 0), 1 << 2  # CAP_DAC_READ_SEARCH, and no right to write
assert libc.capset(header, (ctypes.c_uint32 * 6)(reads, reads, 0, 0, 0, 0)) == 0
from switchml.protocol.slots import tsi_distance
print(json.dumps([doctor.compiled_code().text, tsi_distance(5, 3)]))
"""


@pytest.mark.skipif(jit.DISABLED, reason="NUMBA_DISABLE_JIT is set: nothing is compiled")
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become a user without a home")
@pytest.mark.parametrize("taken", [False, True])
def test_where_nothing_can_be_written_it_says_where_compiled_code_is_kept(taken: bool) -> None:
    """A random uid in a container whose home is not its own; somebody may have taken the last resort as well."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own is closed to other users
        text = said_by_nobody(Path(folder), taken)
    if taken:
        assert "NUMBA_CACHE_DIR" in text
    else:
        assert text.startswith(f"kept in {folder}/switchml-cache-{RANDOM_UID}/")


def said_by_nobody(temporary: Path, taken: bool) -> str:
    temporary.chmod(0o777)
    if taken:
        (temporary / f"switchml-cache-{RANDOM_UID}").mkdir(0o700)
    clean = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    ended = subprocess.run(
        [sys.executable, "-P", "-c", AS_NOBODY, str(RANDOM_UID)],
        env=clean | {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent", "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    text, distance = json.loads(ended.stdout)
    assert distance == 2
    return str(text)


def test_a_switch_that_does_not_answer() -> None:
    status, report = doctor("--switch", "127.0.0.1:9", "--timeout", "1")
    assert (status, report["healthy"]) == (1, False)
    assert "127.0.0.1:9" in named(report, "switch")["127.0.0.1:9"]["text"]
    assert not named(report, "transports")


def test_without_autoload_it_says_so() -> None:
    _, report = doctor("--switch", "127.0.0.1:9", "--timeout", "1", TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert "imports switchml.torch_backend" in named(report, "torch")["backend"]["text"]
