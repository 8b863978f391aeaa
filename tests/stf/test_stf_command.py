"""`switchml stf` as it is called: our own program on the emulator, scripts that pass, fail and cannot be read."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from switchml.cli import app

PROGRAM = Path(__file__).parents[2] / "p4" / "build" / "switchml_64.json"
STATION = "02010000000a"
FORWARD = f"add SwitchIngress.forward dst_addr:0x{STATION} send_to(port:3)\n"
FRAME = f"{STATION} 020000000001 88b5 0102030405"
GOOD = f"{FORWARD}packet 1 {FRAME}\nexpect 3 {FRAME} $\nno_packet 2\n"
BAD = f"{FORWARD}packet 1 {FRAME}\nexpect 3 {FRAME[:-2]}FF $\n"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["stf", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.stf").write_text(GOOD)
    (tmp_path / "bad.stf").write_text(BAD)
    return tmp_path


def test_every_script_has_a_switch_of_its_own_and_the_worst_is_the_exit_code(folder: Path) -> None:
    good, bad = folder / "good.stf", folder / "bad.stf"
    told = call(PROGRAM, good, good)
    assert told.exit_code == 0, told.output  # a second entry with the same key would be refused
    assert told.output.endswith("2 scripts, 2 passed\n")
    told = call(PROGRAM, bad, good)
    assert told.exit_code == 1
    lines = told.output.splitlines()
    assert lines[0] == f"{bad}:3: packet 1 on port 3: 1 byte differs, the first at 18"
    assert lines[1].split()[-3:] == ["03", "04", "FF"]
    assert lines[2].split()[-3:] == ["03", "04", "05"]
    assert lines[3].strip() == "^^"
    assert lines[4] == f"{bad}: FAILED (1): 1 packets in, 1 out"
    assert lines[-1] == "2 scripts, 1 passed"


def test_json(folder: Path) -> None:
    told = call(PROGRAM, folder / "bad.stf", folder / "good.stf", "--json")
    assert told.exit_code == 1
    found = json.loads(told.stdout)
    assert (found["passed"], found["failed"], found["target"]) == (1, 1, "emulator")
    bad, good = found["scripts"]
    assert [failure["line"] for failure in bad["failures"]] == [3]
    assert bad["failures"][0]["differing_bytes"] == [18]
    assert good["passed"]
    assert good["failures"] == []


def test_a_script_that_cannot_be_read_is_told_with_its_line(folder: Path) -> None:
    wrong = folder / "wrong.stf"
    for text, message in (
        (f"{FORWARD}pakcet 1 00\n", "2: no statement begins with 'pakcet'"),
        (
            "\nadd SwitchIngress.forward dst_addr:1 send_to(prt:3)\n",
            "2: action SwitchIngress.send_to: argument 'prt'",
        ),
        (FORWARD + FORWARD, "2: "),
    ):
        wrong.write_text(text)
        told = call(PROGRAM, wrong)
        assert told.exit_code == 1
        assert f"switchml: {wrong}:{message}" in told.stderr


def test_a_script_that_cannot_be_read_does_not_stop_the_others(folder: Path) -> None:
    told = call(PROGRAM, folder / "nowhere.stf", folder / "good.stf", "--json")
    assert told.exit_code == 1
    nowhere, good = json.loads(told.stdout)["scripts"]
    assert nowhere["error"].startswith(f"{folder / 'nowhere.stf'}: cannot be read: No such file")
    assert not nowhere["passed"]
    assert good["passed"]


def test_a_folder(folder: Path) -> None:
    for name in ("good", "bad", "alone"):
        shutil.copy(PROGRAM, folder / f"{name}.json")
    program = json.loads(PROGRAM.read_text())
    program["actions"][0]["primitives"] = [{"op": "fly", "parameters": []}]
    (folder / "refused.json").write_text(json.dumps(program))
    (folder / "refused.stf").write_text(GOOD)
    (folder / "empty.json").write_text("{")
    (folder / "empty.stf").write_text(GOOD)
    told = call("--suite", folder, "--json")
    assert told.exit_code == 1
    found = json.loads(told.stdout)
    assert {p["program"]: p["verdict"] for p in found["programs"]} == {
        "bad": "failed", "empty": "failed", "good": "passed", "refused": "refused",
    }  # fmt: skip
    reasons = {p["program"]: p["reason"] for p in found["programs"]}
    assert reasons["bad"] == "line 3: packet 1 on port 3: 1 byte differs, the first at 18"
    assert "fly" in reasons["refused"]
    assert (found["passed"], found["failed"], found["refused"]) == (1, 2, 1)
    assert "4 programs: 1 passed, 2 failed, 1 refused (25.0 % passed)" in call("--suite", folder).output


def test_trace_and_capture(folder: Path) -> None:
    captured = folder / "all.pcap"
    told = call(PROGRAM, folder / "good.stf", "--trace", "--capture", captured)
    assert told.exit_code == 0
    assert "SwitchIngress.forward" in told.stderr
    data = captured.read_bytes()
    frame = bytes.fromhex(FRAME)
    assert len(data) == 24 + 2 * (16 + len(frame))
    assert data.count(frame) == 2
    assert struct.unpack_from("<I", data, 20)[0] == 1  # Ethernet


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give PROGRAM.json and SCRIPT.stf, or --suite DIR"),
        ([PROGRAM], "give PROGRAM.json and SCRIPT.stf, or --suite DIR"),
        ([PROGRAM, "a.stf", "--suite", "."], "--suite goes with"),
        ([PROGRAM, "a.stf", "--target", "bmv2", "--trace"], "use --target emulator"),
        ([PROGRAM, "a.stf", "b.stf", "--capture", "c.pcap"], "packets of one script"),
        ([PROGRAM, "a.stf", "--target", "tofino"], "no target 'tofino': emulator or bmv2"),
        (["program.p4", "a.stf"], "is P4 source"),
        ([PROGRAM, "nowhere.stf"], "nowhere.stf: cannot be read: No such file"),
        (["--suite", "."], "no PROGRAM.json with a PROGRAM.stf beside it"),
    ],
)
def test_what_is_missing_is_said(arguments: list[object], message: str) -> None:
    told = call(*arguments)
    assert told.exit_code == 1
    assert message in " ".join(told.stderr.split())
