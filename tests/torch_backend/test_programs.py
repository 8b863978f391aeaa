"""Programs of several processes over a real switch on loopback: what a user sees."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tls_files import Files

from switchml.control import embedded

PROGRAMS = Path(__file__).parent / "programs"
WORLD = 3


def address(switch: Any) -> dict[str, str]:
    return {"SWITCHML_SWITCH": switch.address, "SWITCHML_TOKEN": switch.token}


def checks_of(program: str) -> list[str]:
    """Functions that the program marks with @check."""
    tree = ast.parse((PROGRAMS / program).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list]
    return [node.name for node in functions]


@pytest.fixture(scope="module")
def collectives(launcher: Any) -> list[dict[str, str]]:
    reports: list[dict[str, str]] = launcher.run("collectives.py", WORLD)
    return reports


@pytest.mark.parametrize("check", checks_of("collectives.py"))
def test_collectives(collectives: list[dict[str, str]], check: str) -> None:
    for rank, report in enumerate(collectives):
        assert report[check] == "", f"rank {rank}: {report[check]}"


TRAINING = {
    "plain": 1e-6,
    "small_buckets": 1e-6,
    "accumulation": 1e-5,
    "powersgd": None,
    "compiled": 1e-6,
    "unused_parameters": 1e-4,
    "static_graph": 1e-6,
    "sparse_gradients": 1e-6,
    "half_precision": 2e-2,
    "found_inf": None,
    "joined": None,
    "joined_by_those_left": None,
    "fork_workers": None,
    "hybrid_sharding": None,
}


@pytest.fixture(scope="module")
def training(launcher: Any) -> list[Any]:
    reports: list[Any] = launcher.run("training.py", 2, *TRAINING)
    return reports


@pytest.mark.parametrize("case", TRAINING)
def test_training(training: list[Any], case: str) -> None:
    """Parameters are bitwise equal over ranks, and near gloo's where gloo does the same arithmetic."""
    first, second = (report[case] for report in training)
    assert first["digest"] == second["digest"]
    bound = TRAINING[case]
    if bound is not None:
        assert max(first["distance"], second["distance"]) <= bound
    if case == "found_inf":
        assert first["scales"] == second["scales"] == [1024.0, 1024.0, 512.0, 512.0]
        assert first["moved"] == second["moved"] == [True, True, False, True]
    if case.startswith("joined"):
        assert (first["steps"], second["steps"]) == (2, 3)
    if case == "fork_workers":
        assert first["seen"] == second["seen"] == 128


def test_training_repeats_bit_for_bit(training: list[Any], launcher: Any) -> None:
    again = launcher.run("training.py", 2, "plain", SWITCHML_TRANSPORT="udp")
    assert again[0]["plain"]["digest"] == training[0]["plain"]["digest"]


SHARDED = {
    "fsdp1": 1e-5,
    "fsdp2": 1e-5,
    "fsdp2_without_reshard": 1e-5,
    "fsdp2_mixed_precision": 1e-3,
    "zero_optimizer": 1e-4,
    "checkpoint": 0.0,
    "checkpoint_in_the_background": 0.0,
    "sync_batch_norm": 0.0,
}


@pytest.fixture(scope="module")
def sharded(launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    reports: list[Any] = launcher.run("sharded.py", 2, folder, *SHARDED)
    return reports


@pytest.mark.parametrize("case", SHARDED)
def test_sharding_and_checkpoints(sharded: list[Any], case: str) -> None:
    first, second = (report[case] for report in sharded)
    assert first["digest"] == second["digest"]
    assert max(first["distance"], second["distance"]) <= SHARDED[case]


def test_a_sharded_training_of_four_ranks_has_gloo_s_losses(launcher: Any, tmp_path: Path) -> None:
    """And its gradients go over the switch, but for each rank's own part."""
    for report in launcher.run("sharded.py", 4, str(tmp_path), "fsdp2_losses"):
        ours, by_gloo = report["fsdp2_losses"]["losses"]
        assert ours == pytest.approx(by_gloo, rel=1e-5)
        sent, by_others = report["fsdp2_losses"]["sent"]
        assert sent > len(ours) * 0.75 * report["fsdp2_losses"]["gradients"]
        assert by_others == 0


@pytest.fixture(scope="module")
def failures(launcher: Any) -> list[Any]:
    cases = ("mismatch", "path_mismatch", "missing_rank", "missing_backward", "impatient_wait")
    with embedded.start() as switch:
        reports: list[Any] = launcher.run("failures.py", 2, *cases, **address(switch))
    return reports


def test_mismatched_sizes_reach_every_rank(failures: list[Any]) -> None:
    for report in failures:
        assert report["mismatch"]["error"] == "CollectiveMismatchError"
        assert "10" in report["mismatch"]["text"]
        assert "11" in report["mismatch"]["text"]


def test_ranks_on_different_paths_hear_of_it(failures: list[Any]) -> None:
    for report in failures:
        assert report["path_mismatch"]["error"] == "CollectiveMismatchError"
        assert "100000 x torch.float32, sum" in report["path_mismatch"]["text"]
        assert "100000 x torch.float64, sum" in report["path_mismatch"]["text"]


def test_a_missing_rank_fails_wait_and_future(failures: list[Any]) -> None:
    report = failures[0]["missing_rank"]
    assert report["wait"]["error"] == "CollectiveTimeoutError"
    assert "rank 1" in report["wait"]["text"]
    assert "rank 1" in report["future"]["text"]
    assert report["sync"]["error"] in ("CollectiveTimeoutError", "CollectiveError")
    if report["sync"]["seconds"] > 1:
        assert report["turns_of_another_thread"] > 5  # whoever waits does not hold the GIL


def test_a_missing_backward_pass_comes_out_of_ddp(failures: list[Any]) -> None:
    report = failures[0]["missing_backward"]
    assert report["error"] == "RuntimeError"
    assert "rank 1" in report["text"]


def test_a_short_wait_leaves_the_collective_alone(failures: list[Any]) -> None:
    assert failures[0]["impatient_wait"]["error"] == "CollectiveTimeoutError"


def test_a_new_group_works_after_a_failure(failures: list[Any]) -> None:
    assert [report["afterwards"] for report in failures] == [[2.0, 2.0]] * 2


@pytest.fixture(scope="module")
def lifecycle(launcher: Any) -> list[Any]:
    reports: list[Any] = launcher.run("lifecycle.py", 2)
    return reports


def test_groups_come_and_go(lifecycle: list[Any]) -> None:
    for report in lifecycle:
        assert report["sums"] == [3.0] * 9
        assert report["after_shutdown"] == "WorkerClosedError"


def test_groups_share_the_embedded_switch_and_join_when_used(lifecycle: list[Any]) -> None:
    assert all(report["one_switch"] and report["unused"] == "" for report in lifecycle)


def test_destroying_the_groups_leaves_nothing(lifecycle: list[Any]) -> None:
    for report in lifecycle:
        assert report["left"] == [{"threads": [], "switches": []}] * 3


def test_of_many_groups_some_fit_into_the_switch(launcher: Any) -> None:
    """And two that the ranks use for the first time in different orders."""
    processes = launcher.start("many_groups.py", 2, "160")
    launcher.finish(processes)
    for rank in processes:
        assert rank.process.returncode == 0, rank.stderr
        assert rank.report["orders"] == [[3.0] * 3] * 2
        assert rank.report["wrong"] == 0
        assert 0 < rank.report["on_the_switch"] < 160
    said = [rank.stderr.count("the switch has no room for a group, so it takes gloo") for rank in processes]
    assert said == [1, 0]


def test_a_forked_child_leaves_its_parent_alone(launcher: Any) -> None:
    for report in launcher.run("forked.py", 2):
        assert set(report["child"].values()) == {"WorkerClosedError"}, report["child"]
        assert report["sums"] == [3.0] * 42


def test_a_script_that_imports_only_torch_under_torchrun() -> None:
    """And that forgets to destroy its process group."""
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*command, str(PROGRAMS / "only_torch.py"), "--leave-it-open"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    # Both ranks write to one pipe, and under torchrun the end of a line goes out by itself: it may come late.
    lines = ended.stdout.replace("}{", "}\n{").split("\n")
    reports = [json.loads(line) for line in lines if line]
    assert sorted(report["rank"] for report in reports) == [0, 1]
    assert {report["gradient"] for report in reports} == {6.0}  # the mean over ranks of 4 and 8


@pytest.mark.timeout(300)  # five attempts, each of which imports torch twice, on a machine that may be busy
@pytest.mark.parametrize(("meets_in_a_file", "places"), [(False, "13"), (True, "0123")])
def test_torchrun_restarts_however_often_rank_0_is_killed(
    tmp_path: Path, meets_in_a_file: bool, places: str
) -> None:
    """The file keeps the keys of all attempts, also of those whose ranks did not get equally far."""
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    file = [str(tmp_path / "store")] if meets_in_a_file else []
    mark = {"ATTEMPTS_OF_TEST": str(tmp_path)}
    ended = subprocess.run(
        [*command, "--max-restarts", "5", str(PROGRAMS / "restarted.py"), places, *file],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | mark,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(re.findall(r"rank \d, attempt \d: \d+", ended.stdout)) == [
        f"rank 0, attempt {len(places)}: 100000",
        f"rank 1, attempt {len(places)}: 100000",
    ]
    # A switch whose rank was killed stays until the leases of its job have lapsed, 10 s.
    given_up = time.monotonic() + 40
    while anybody_with(str(tmp_path).encode()):
        assert time.monotonic() < given_up, "a switch has outlived its job"
        time.sleep(0.1)


def anybody_with(mark: bytes) -> bool:
    """Whether a process has it in its environment."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # ended, or another user's
            if mark in environment.read_bytes():
                return True
    return False


def test_the_program_asks_for_nothing_but_torch() -> None:
    tree = ast.parse((PROGRAMS / "only_torch.py").read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} == {"torch", "json", "sys"}


@pytest.fixture
def switch() -> Iterator[Any]:
    """A switch that outlives the programs."""
    with embedded.start() as running:
        yield running


@pytest.fixture(scope="module")
def two_runs(launcher: Any) -> Iterator[tuple[Any, dict[bool, list[Any]]]]:
    """A long-running switch, and the ranks of two runs that shared it: by whether rank 0 was to speak."""
    with embedded.start() as switch:
        words = {True: {"SWITCHML_WIRE": "int8"}, False: {"SWITCHML_QUIET": "1"}}
        runs = {
            said: launcher.start("only_torch.py", 2, **address(switch), **more, SWITCHML_WINDWO="64")
            for said, more in words.items()
        }
        for ranks in runs.values():
            launcher.finish(ranks)
        yield switch, runs


@pytest.mark.parametrize("said", [True, False])
def test_rank_0_says_how_the_job_reaches_its_switch(two_runs: Any, said: bool) -> None:
    switch, runs = two_runs
    for number, rank in enumerate(runs[said]):
        assert rank.process.returncode == 0, rank.stderr
        lines = [line for line in rank.stderr.splitlines() if " job of 2 ranks " in line]
        assert len(lines) == int(said and number == 0)
        for line in lines:
            assert re.search(
                rf"switch at {switch.address}: memory, payload 1024 bytes, window \d+, wire int8$", line
            )
        assert rank.stderr.count("is SWITCHML_WINDOW meant?") == 1


def test_two_runs_share_a_long_running_switch(two_runs: Any) -> None:
    _, runs = two_runs
    assert [rank.report["gradient"] for rank in runs[False]] == [6.0, 6.0]
    short, other = (rank.report["gradient"] for rank in runs[True])
    assert short == other == pytest.approx(6.0, rel=0.02)  # 8 bits


def test_ranks_and_their_own_switch_speak_tls(launcher: Any, tmp_path: Path) -> None:
    files = Files(tmp_path)
    certificate, key = map(str, files.server)
    ranks = launcher.run(
        "only_torch.py", 2, SWITCHML_TLS_CERT=certificate, SWITCHML_TLS_KEY=key, SWITCHML_TLS_CA=str(files.ca)
    )
    assert [rank["gradient"] for rank in ranks] == [6.0, 6.0]


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        ({"SWITCHML_SWITCH": "127.0.0.1:9"}, "SwitchUnreachableError"),
        ({"SWITCHML_SWITCH": "SWITCH", "SWITCHML_TOKEN": "wrong"}, "InvalidTokenError"),
    ],
)
def test_a_wrong_setting_shows_in_init_process_group(
    launcher: Any, switch: Any, environment: dict[str, str], error: str
) -> None:
    if environment.get("SWITCHML_SWITCH") == "SWITCH":
        environment = environment | {"SWITCHML_SWITCH": switch.address}
    processes = launcher.start("only_torch.py", 2, **environment)
    launcher.finish(processes)
    for rank in processes:
        assert rank.process.returncode == 1
        assert error in rank.stderr


def ready(processes: list[Any]) -> None:
    for rank in processes:
        assert rank.process.stdout.readline() == "ready\n", rank.process.stderr.read()


ENDS = {
    ("die", 0): "rank 0 has died",  # rank 0 owns the embedded switch
    ("die", 1): "rank 1 has died",
    ("raise", 0): "rank 0 has left (ValueError: no such file)",
    ("destroy", 1): "rank 1 has left",
}


@pytest.mark.parametrize(("how", "victim"), ENDS)
def test_a_rank_that_ends_ends_the_others_with_an_error(launcher: Any, how: str, victim: int) -> None:
    processes = launcher.start("interrupted.py", 3 if how == "die" else 2, how, str(victim))
    launcher.finish(processes)
    for number, rank in enumerate(processes):
        if number == victim:
            expected = {"die": -signal.SIGKILL, "raise": 1, "destroy": 0}
            assert rank.process.returncode == expected[how], rank.stderr
            continue
        assert rank.process.returncode == 0, rank.stderr
        assert rank.report["error"] == "JobAbortedError"
        assert ENDS[how, victim] in rank.report["text"]
        # One second is before the end and one is promised; the others are for a loaded machine. A lease has 30.
        assert rank.report["seconds"] < 8


def test_ctrl_c_ends_everything(launcher: Any) -> None:
    processes = launcher.start("interrupted.py", 2, "wait", "1")
    ready(processes)
    time.sleep(1.0)
    for rank in processes:
        rank.process.send_signal(signal.SIGINT)
    launcher.finish(processes, timeout=20)
    for rank in processes:
        assert rank.process.returncode in (1, -signal.SIGINT, 128 + signal.SIGINT), rank.stderr
        assert "KeyboardInterrupt" in rank.stderr
