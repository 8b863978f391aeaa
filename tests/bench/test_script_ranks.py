"""`switchml bench script`: any program's ranks, on hosts of their own or on this machine as it is."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from switchml.bench.cli import bench_app
from switchml.bench.script_ranks import LINK_RATE
from switchml.errors import BenchError, UsageError

# Ranks tell rank 0 where they are, at MASTER_ADDR; rank 0 answers when all have.
MEETS = f"""
import json, os, socket, sys
from pathlib import Path
import beside

rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if rank == 0:
    with socket.create_server(place) as server:
        found = [server.accept() for _ in range(size - 1)]
    facts = {{name: os.environ.get(name, "") for name in ("{LINK_RATE}", "SWITCHML_TRANSPORT", "SWITCHML_WIRE")}}
    facts["interfaces"] = sorted(name for _, name in socket.if_nameindex())
    facts["others"] = [address for _, (address, _) in found]
    facts["arguments"] = sys.argv[1:] + [beside.WORD]
    Path(sys.argv[1]).write_text(json.dumps(facts))
    for link, _ in found:
        link.sendall(b"x")
else:
    with socket.socket() as link:
        while link.connect_ex(place):
            pass
        assert link.recv(1) == b"x"
"""


@pytest.fixture
def meets(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WORD = 'a module beside the script'\n")
    script = tmp_path / "meets.py"
    script.write_text(MEETS)
    return script


def run(*words: str) -> None:
    CliRunner().invoke(bench_app, ["script", *words], catch_exceptions=False)


def test_ranks_on_this_machine_find_each_other_and_their_switch(meets: Path, tmp_path: Path) -> None:
    run("--workers", "3", "--wire", "int8", "--", str(meets), str(tmp_path / "facts"), "--more")
    facts = json.loads((tmp_path / "facts").read_text())
    assert facts["arguments"] == [str(tmp_path / "facts"), "--more", "a module beside the script"]
    assert facts["others"] == ["127.0.0.1"] * 2
    assert facts["SWITCHML_WIRE"] == "int8"
    assert facts["SWITCHML_TRANSPORT"] == "auto"
    assert facts[LINK_RATE] == ""


@pytest.mark.namespaces
def test_ranks_on_links_are_hosts_of_their_own(meets: Path, tmp_path: Path) -> None:
    run("--workers", "3", "--rate", "100mbit", "--", str(meets), str(tmp_path / "facts"))
    facts = json.loads((tmp_path / "facts").read_text())
    assert facts["interfaces"] == ["eth0", "lo"]
    assert len(set(facts["others"])) == 2
    assert facts["SWITCHML_TRANSPORT"] == "udp"
    assert facts[LINK_RATE] == "100000000"


FAILS = """
    import os, sys, time
    if os.environ["RANK"] == "1":
        sys.exit("no more data")
    time.sleep(600)
"""


def test_a_rank_that_fails_ends_the_others_and_is_named(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(textwrap.dedent(FAILS))
    with pytest.raises(BenchError, match=r"fails.py: rank 1 ended with code 1; it said: no more data"):
        run("--workers", "2", "--", str(script))


def test_ranks_that_do_not_end_are_ended(tmp_path: Path) -> None:
    script = tmp_path / "sleeps.py"
    script.write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(BenchError, match=r"ranks \[0, 1\] did not end in time"):
        run("--workers", "2", "--timeout", "0.5", "--", str(script))


def test_a_script_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"nowhere.py: no such script"):
        run("--", "nowhere.py")
