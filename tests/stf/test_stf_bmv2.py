"""The BMv2 target with a stand-in for BMv2: what it is told, what comes back, and what is said when it fails."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from stf_fakes import NAMES
from typer.testing import CliRunner

from switchml.cli import app
from switchml.stf.bmv2 import Bmv2Switch, find_bmv2
from switchml.stf.bmv2_cli import Bmv2Error
from switchml.stf.language import StfError, parse
from switchml.stf.runner import Report, run_script


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the stand-in where BMv2 is looked for; what its CLI is told."""
    fake = Path(__file__).with_name("bmv2_fake.py")
    for name, part in (("simple_switch", "switch"), ("simple_switch_CLI", "cli")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake}" {part} "$@"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("SWITCHML_BMV2", str(tmp_path))
    monkeypatch.setenv("BMV2_FAKE_LOG", str(tmp_path / "cli.log"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "cli.log"


@pytest.fixture
def play(log: Path) -> Callable[..., Report]:
    def play(text: str, program: str = "program.json") -> Report:
        script = parse(text, "s.stf")
        captured: list[tuple[int, bytes]] = []
        switch = Bmv2Switch(log.parent / program, script, capture=lambda *record: captured.append(record))
        try:
            report = run_script(script, NAMES, switch, "s.stf")
        finally:
            switch.close()
            left = list(log.parent.glob("switchml-stf-*"))
        assert not left
        assert len(captured) == report.packets_in + report.packets_out
        assert captured == sorted(captured, key=lambda record: record[0])
        return report

    return play


def test_packets_in_the_script_s_order_over_several_ports(play: Callable[..., Report]) -> None:
    report = play(
        "packet 3 0A\npacket 1 0B\npacket 3 0C\npacket 0 0D\nexpect 4 0A\nexpect 4 0C\nexpect 2 0B\nexpect 1 0D"
    )
    assert report.passed
    assert (report.packets_in, report.packets_out) == (4, 4)
    report = play("packet 1 0A\nexpect 2 0B\nno_packet 3")
    assert [failure.line for failure in report.failures] == [2]
    assert play("packet 1 0A\nno_packet 2").failures[0].line == 2


def test_what_its_runtime_cli_is_told(play: Callable[..., Report], log: Path) -> None:
    report = play(
        """
        add in.t h.f:0x10 h.valid:1 go(port:2, x:3) = one
        add tern 7 h.f:0x12** e$0.g:3 in.go(5, 6)
        add out.t h.a:10/8 NoAction()
        setdefault tern other.go()
        mc_mgrp_create 9
        mc_node_create 1 2 3
        packet 1 0A
        expect 2 0A
        check_counter in.c(2) packets == 5
        check_counter in.c(2) bytes == 601
        check_register r(3) == 77
        remove one
        register_write r 1 5
        """
    )
    assert [failure.line for failure in report.failures] == [11]
    assert log.read_text().splitlines() == [
        "table_add in.t in.go 16 1 => 2 3",
        "table_add in.tern in.go 4608&&&65280 0/0 3 => 5 6 16777208",
        "table_add out.t NoAction 0/8 => ",
        "table_set_default in.tern other.go ",
        "mc_mgrp_create 9",
        "mc_node_create 1 2 3",
        "counter_read in.c 2",
        "counter_read in.c 2",
        "register_read in.r 3",
        "table_delete in.t 7",
        "register_write in.r 1 5",
    ]


def test_between_packets_of_one_port_anything_can_be_done(play: Callable[..., Report], log: Path) -> None:
    report = play("packet 1 0A\nregister_write r 1 5\npacket 1 0B\nexpect 2 0A\nexpect 2 0B")
    assert report.passed
    assert log.read_text().split() == ["register_write", "in.r", "1", "5"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("packet 1 0A\npacket 2 0B\nregister_read r\npacket 1 0C", "s.stf:3: .*nothing can be done"),
        ("meter_set_rates m 0 1.0:1", "s.stf:1: BMv2 refuses 'meter_set_rates in.m 0 .*Invalid meter name"),
        ("remove in.t f:1", "s.stf:1: table in.t has no such entry"),
    ],
)
def test_what_cannot_be_done_is_told_with_its_line(
    play: Callable[..., Report], script: str, message: str
) -> None:
    with pytest.raises(StfError, match=message):
        play(script)


def test_a_switch_that_ends_at_its_start_is_quoted(play: Callable[..., Report]) -> None:
    with pytest.raises(
        Bmv2Error, match=r"simple_switch has ended \(1\): Error when parsing JSON / No such thing"
    ):
        play("packet 1 0A", "broken.json")


@pytest.mark.parametrize(
    ("script", "place"),
    [
        ("packet 1 DEAD\nno_packet 2", "s.stf:1"),
        ("packet 1 DEAD", "s.stf:1"),
        ("packet 1 0A\npacket 1 DEAD\nexpect 2 0A\nno_packet 3", "s.stf:2"),
        ("packet 1 DEAD\nexpect 2 DEAD", "s.stf:1"),
        ("packet 1 0A\npacket 1 DEAD\nwait 1\nno_packet 3", "s.stf:3"),
        ("packet 1 DEAD\nregister_read r", "s.stf:2"),
    ],
)
def test_a_packet_that_ends_the_switch_is_no_success(
    play: Callable[..., Report], script: str, place: str
) -> None:
    with pytest.raises(StfError, match=rf"{place}: simple_switch has ended \(SIGKILL\)"):
        play(script)


def test_a_suite_goes_on_after_a_packet_that_ended_the_switch(log: Path) -> None:
    for name, text in (("a", "packet 1 DEAD\nno_packet 2\n"), ("b", "packet 1 0A\nexpect 2 0A\n")):
        (log.parent / f"{name}.json").write_text("{}")
        (log.parent / f"{name}.stf").write_text(text)
    told = CliRunner().invoke(app, ["stf", "--suite", str(log.parent), "--target", "bmv2", "--json"])
    assert told.exit_code == 1
    verdicts = {each["program"]: each["verdict"] for each in json.loads(told.stdout)["programs"]}
    assert verdicts == {"a": "failed", "b": "passed"}
    paths = [str(log.parent / name) for name in ("a.json", "a.stf", "b.stf")]
    told = CliRunner().invoke(app, ["stf", *paths, "--target", "bmv2"])
    assert told.exit_code == 1
    assert "a.stf:1: simple_switch has ended (SIGKILL)" in told.output
    assert told.stdout.splitlines()[-1] == "2 scripts, 1 passed"


def test_bmv2_is_looked_for(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = (str(tmp_path / "simple_switch"), str(tmp_path / "simple_switch_CLI"))
    assert find_bmv2() == found
    monkeypatch.setenv("SWITCHML_BMV2", str(tmp_path / "simple_switch"))
    assert find_bmv2() == found
    (tmp_path / "simple_switch_CLI").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Bmv2Error, match="simple_switch_CLI is neither on PATH nor where SWITCHML_BMV2 says"):
        find_bmv2()
    monkeypatch.delenv("SWITCHML_BMV2")
    (tmp_path / "simple_switch").unlink()
    with pytest.raises(Bmv2Error, match="simple_switch is neither"):
        find_bmv2()
