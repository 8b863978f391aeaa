"""`switchml switch` with the options of P4 pipelines: what it refuses, and with which words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from switchml.cli import app


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["switch", *arguments])
    assert result.exit_code == 1
    return result.output


@pytest.mark.parametrize(
    "arguments",
    [
        *(["-i", "1@veth0"], ["--use-files", "0"], ["--trace"], ["--p4info", "x"]),
        *(
            ["--queue-rate", "100"],
            ["--port-rate", "100"],
            ["--queue-depth", "9"],
            ["--priority-queues", "8"],
        ),
    ],
)
def test_the_native_pipeline_has_no_ports_of_its_own(arguments: list[str]) -> None:
    assert re.search(f"{arguments[0]}.* is for P4 programs", " ".join(refused(*arguments).split()))


def test_no_program_needs_ports() -> None:
    assert "-i PORT@NAME" in refused("--pipeline", "none")


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"cannot read {tmp_path}/no.json" in refused("--pipeline", f"{tmp_path}/no.json")


def test_source_is_known_as_such() -> None:
    said = " ".join(refused("--pipeline", "my/program.p4").split())
    assert "my/program.p4 is P4 source" in said
    assert "p4c-bm2-ss --p4runtime-files my/program.p4info.txtpb -o my/program.json my/program.p4" in said


def test_workers_need_a_program_with_p4info(tmp_path: Path) -> None:
    program = tmp_path / "bare.json"
    program.write_text("{}")
    assert "--p4info FILE" in refused("--pipeline", str(program))
    (tmp_path / "bare.p4info.txtpb").write_text("this is no P4Info {")
    pytest.importorskip("google.rpc.status_pb2", reason="the extra p4runtime is not installed")
    assert "no P4Info" in refused("--pipeline", str(program))


def test_queues_that_cannot_be_are_refused() -> None:
    assert "1 to 32 queues" in refused("--pipeline", "none", "--priority-queues", "33")
    assert "lets nothing through" in refused("--pipeline", "none", "--queue-depth", "0")


def test_ports_are_checked_before_anything_starts() -> None:
    assert "-i x@y" in refused("--pipeline", "none", "-i", "x@y")
    assert re.search(r"interface nosuch0|need root", refused("--pipeline", "none", "-i", "1@nosuch0"))
