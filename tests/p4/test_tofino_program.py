"""The program for Tofino: it has the protocol's header, the v1model program's names, and compiles where a compiler is found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

P4 = Path(__file__).parents[2] / "p4"
COMPILER = os.environ.get("P4C_TOFINO") or "p4c-barefoot"
V1MODEL, TNA = P4 / "switchml.p4", P4 / "switchml_tna.p4"
SHARED = {"config.p4", "elements.p4", "headers.p4", "parser.p4", "switchml_header.p4"}


def _sources(file: Path) -> dict[str, str]:
    """What the program includes of ours, itself first, as name and text."""
    text = file.read_text()
    found = {file.name: text}
    for name in re.findall(r'^#include "(.+)"', text, re.M):
        found |= _sources(file.parent / name)
    return found


def _tables(text: str) -> set[str]:
    return set(re.findall(r"^ *table (\w+) \{", text, re.M))


def test_both_programs_read_packets_by_the_same_files() -> None:
    ours, theirs = _sources(V1MODEL), _sources(TNA)
    assert ours.keys() & theirs.keys() == SHARED
    # And nowhere else is anything of the wire format declared.
    private = "".join(text for name, text in theirs.items() if name not in SHARED)
    assert not re.search(r"\bMSG_\w+ =|header (ethernet|arp|ipv4|icmp|udp|switchml)_t\b|FIRST_PORT", private)


def test_the_tables_that_a_controller_fills_have_the_names_of_v1model() -> None:
    ours = _tables("".join(_sources(V1MODEL).values()))
    theirs = "".join(_sources(TNA).values())
    filled = {
        name
        for name in _tables(theirs)
        if "const entries" not in theirs.split(f"table {name} {{")[1].split("\n}")[0]
    }
    assert filled == {
        "own_address",
        "station",
        "forward",
        "sender_table",
        "job_table",
        "worker_port",
        "worker_rewrite",
    }
    assert filled <= ours


@pytest.mark.parametrize("elements", [64, 256])
def test_it_compiles(elements: int, tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no {COMPILER} here (p4c's compiler for Tofino; set P4C_TOFINO to name it)")
    subprocess.run(
        ["make", "-C", str(P4), f"TOFINO={tmp_path}", f"P4C_TOFINO={COMPILER}", f"{tmp_path}/{elements}"],
        check=True,
        timeout=900,
    )
    assert list(tmp_path.glob(f"{elements}/**/*.bfa"))
