"""What `switchml run` would start, and what it refuses to."""

from __future__ import annotations

from pathlib import Path

import pytest

from switchml.control.tls import TlsFiles
from switchml.errors import UsageError
from switchml.launch.plan import Faults, Nodes, RunPlan
from switchml.launch.run import emulator


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_text("")
    return str(path)


def test_one_machine_meets_on_loopback(script: str) -> None:
    plan = RunPlan(script, ("--lr", "1"), workers=4)
    plan.check()
    words = plan.command()
    assert words[1:4] == ["-P", "-m", "torch.distributed.run"]
    assert "--standalone" in words
    assert words[words.index("--nproc-per-node") + 1] == "4"
    assert words[-3:] == [script, "--lr", "1"]
    assert plan.world_size == 4


def test_several_machines_meet_at_the_master(script: str) -> None:
    plan = RunPlan(script, workers=2, nodes=Nodes(3, 1, "10.0.0.1", 2950), switch="10.0.0.9")
    plan.check()
    words = plan.command()
    assert "--standalone" not in words
    for option, value in (
        ("--nnodes", "3"),
        ("--node-rank", "1"),
        ("--master-addr", "10.0.0.1"),
        ("--master-port", "2950"),
    ):
        assert words[words.index(option) + 1] == value
    assert plan.world_size == 6


def test_a_module_is_started_as_one() -> None:
    plan = RunPlan("package.train", module=True)
    plan.check()
    assert plan.command()[-2:] == ["--module", "package.train"]


def test_workers_are_told_what_differs_from_the_defaults(
    script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert RunPlan(script, workers=2).environment("1.2.3.4:5", "secret") == {
        "SWITCHML_SWITCH": "1.2.3.4:5",
        "SWITCHML_TOKEN": "secret",
        "OMP_NUM_THREADS": "1",
    }
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert RunPlan(script, workers=2, transport="udp", payload=256, window=64, wire="int8").environment(
        "1.2.3.4:5", ""
    ) == {
        "SWITCHML_SWITCH": "1.2.3.4:5",
        "SWITCHML_TRANSPORT": "udp",
        "SWITCHML_PAYLOAD": "256",
        "SWITCHML_WINDOW": "64",
        "SWITCHML_WIRE": "int8",
    }


def test_a_transport_that_is_asked_for_counts_for_more_than_the_environment_s(
    script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHML_TRANSPORT", "udp")
    assert RunPlan(script, workers=2).environment("", "")["SWITCHML_TRANSPORT"] == "auto"


def test_workers_are_told_of_tls(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plan = RunPlan(script, tls=TlsFiles(Path("a.pem"), Path("a.key"), Path("ca.pem")))
    assert plan.environment("h:1", "") == {
        "SWITCHML_SWITCH": "h:1",
        "SWITCHML_TLS_CERT": "a.pem",
        "SWITCHML_TLS_KEY": "a.key",
        "SWITCHML_TLS_CA": "ca.pem",
    }


def test_faults_go_to_the_emulator() -> None:
    assert "--loss" not in emulator(Faults())
    words = emulator(Faults(loss=0.25, seed=7))
    assert words[words.index("--loss") + 1] == "0.25"
    assert words[words.index("--seed") + 1] == "7"


def test_a_capture_goes_to_switch_and_ranks(script: str) -> None:
    plan = RunPlan(script, capture="wire.pcap")
    assert emulator(plan.faults, plan.pipeline, plan.capture)[-2:] == ["--capture", "wire.pcap"]
    assert plan.environment("1.2.3.4:5", "")["SWITCHML_CAPTURE"] == "wire.pcap"
    assert "--capture" not in emulator(Faults())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"workers": 0}, "at least 1 worker"),
        ({"nodes": Nodes(2, 2), "switch": "h"}, "node ranks from 0"),
        ({"nodes": Nodes(2, 0), "faults": Faults(loss=0.1)}, "over several nodes"),
        ({"pipeline": "program.p4"}, "is P4 source"),
        ({"transport": "rdma"}, "auto, udp, shm"),
        ({"transport": "memory", "capture": "wire.pcap"}, "no packets in memory"),
        ({"faults": Faults(loss=1.0)}, "probability"),
        ({"faults": Faults(reorder=-0.1)}, "probability"),
        ({"faults": Faults(duplicate=float("nan"))}, "probability"),
        ({"faults": Faults(loss=0.1), "switch": "h"}, "leave --switch out"),
        ({"script": "no-such-file.py"}, "no script 'no-such-file.py'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    script: str, changes: dict[str, object], says: str
) -> None:
    plan = RunPlan(**{"script": script, **changes})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=says):
        plan.check()


def test_scripts_as_they_are(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    told = RunPlan(script, workers=2, backend_for="gloo,nccl", data_parallel="1").environment("1.2.3.4:5", "")
    assert told["SWITCHML_BACKEND_FOR"] == "gloo,nccl"
    assert told["SWITCHML_DATA_PARALLEL"] == "1"
    assert 0 <= int(told["PYTHONHASHSEED"]) < 2**32
    with pytest.raises(UsageError, match="as in gloo,nccl"):
        RunPlan(script, backend_for="gloo;nccl").check()
