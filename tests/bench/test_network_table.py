"""The program that measures what docs/networks.md shows: what it makes of results that are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from switchml.bench.results import Measurement, Spread, with_ratios

PROGRAM = Path(__file__).parents[2] / "scripts" / "networks" / "network_table.py"


def run(*arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def keep(folder: Path, file: str, ours: float, gloo: float, **more: object) -> None:
    """A result of a case, as `switchml bench allreduce` writes it."""
    counters = {"packets_sent": 1000, "retransmissions": 5}
    settings = {"limit": 1e6, **more}
    measured = [
        Measurement(
            "udp", 4, 1 << 20, 1 << 18, "float32", "sum", 1, (ours, ours), None, counters, {}, **settings
        ),
        Measurement("gloo", 4, 1 << 20, 1 << 18, "float32", "sum", 1, (gloo, gloo), None, {}, {}, None),
    ]
    results = [one.as_json() for one in with_ratios(measured, ["gloo"])]
    (folder / file).write_text(json.dumps({"results": results}))


def rows(text: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1:] for line in lines[2:]}


def test_what_is_there_is_shown_with_what_was_asked_and_not_reached(tmp_path: Path) -> None:
    keep(tmp_path, "star_100mbit_256K_4.json", 1.06, 1.5)
    keep(tmp_path, "star_100mbit_64K_2.json", 2.0, 2.5)
    keep(tmp_path, "loss_none.json", 1.0, 1.5)
    keep(tmp_path, "loss_1percent.json", 1.2, 1.5)
    shared = {"tcp up": Spread(0.3, 0.3, 0.3), "tcp down": Spread(0.6, 0.6, 0.6)}
    keep(tmp_path, "beside_tcp.json", 2.0, 2.0, shares=shared)
    found = rows(run(str(tmp_path), "--show"))
    assert set(found) == {
        "star 100mbit 64K 2", "star 100mbit 256K 4", "loss none", "loss 1%", "loss 1%, gloo", "beside tcp", "beside tcp, gloo"
    }  # fmt: skip
    good = found["star 100mbit 256K 4"]
    assert good[0] == "1060 [1060 1060]"
    assert good[1] == "**1.42 [1.42 1.42]** (asked: 1.47)"
    assert good[2] == "98.9 %"
    assert good[3] == "**0.50 %** (asked: 0.1 %)"
    slow = found["star 100mbit 64K 2"]
    assert slow[1] == "1.25 [1.25 1.25]"
    assert slow[2] == "**52.4 %** (asked: 97 %)"
    assert found["loss 1%"][4].strip() == "**1.20 times loss none** (asked: 1.12)"
    assert found["loss 1%, gloo"][4].strip() == "1.00 times loss none"
    assert found["beside tcp"][4].strip() == "**tcp up 30.0 %, tcp down 60.0 %, ours 52.4 %** (asked: 33 %)"
    assert (tmp_path / "table.md").read_text().startswith("| case | ms")
    for name in ("workers", "loss"):
        assert (tmp_path / f"networks_{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "networks_delay.png").exists()


def test_a_case_that_is_done_is_not_measured_again(tmp_path: Path) -> None:
    keep(tmp_path, "jobs_2.json", 1.0, 1.5)
    before = (tmp_path / "jobs_2.json").read_text()
    assert "== " not in run(str(tmp_path), "--only", "jobs 2")
    assert (tmp_path / "jobs_2.json").read_text() == before
    listed = run(str(tmp_path), "--list").splitlines()
    assert len(listed) == len(set(listed)) > 50
    assert [line for line in listed if line.startswith("done")] == ["done  jobs 2"]
