"""`switchml controller` as a process, over the native pipeline's P4Runtime server: workers join, sum and are seen."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from typer.testing import CliRunner
from watched_switch import receive_until

pytest.importorskip(
    "google.rpc.status_pb2", reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'"
)

from switchml.cli import app
from switchml.control.client import ControlClient
from switchml.control.p4runtime.program import TABLES
from switchml.control.tls import ClientTls
from switchml.errors import UsageError
from switchml.telemetry.subscription import Subscription, published_at
from switchml.worker import Worker

Controller = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]


def program_options(files: tuple[Path, Path]) -> list[str]:
    config, described = files
    return ["--pipeline", str(config), "--p4info", str(described)]


def test_an_all_reduce_through_it(
    controller: Controller, switch: Any, program_files: tuple[Path, Path]
) -> None:
    values = np.random.default_rng(1).standard_normal((3, 50_001)).astype(np.float32)

    def work(address: str, rank: int) -> tuple[np.ndarray[Any, Any], float]:
        mine = values[rank].copy()
        with Worker.join(address, job="sum", rank=rank, world_size=3, join_timeout=30) as worker:
            assert (worker.transport, worker.payload, worker.multicast) == ("udp", 1024, False)
            done = worker.allreduce(mine)
            done.wait(30)
            whole = np.full(1000, rank + 1, np.int32)
            worker.allreduce(whole).wait(30)
            assert np.all(whole == 6)
        return mine, done.error_bound()

    with (
        controller(switch, *program_options(program_files)) as (process, address),
        ThreadPoolExecutor(3) as pool,
    ):
        results = list(pool.map(lambda rank: work(address, rank), range(3)))
        with ControlClient(address) as client:
            status = client.status()
        with Subscription([published_at(address, status.telemetry)]) as subscription:
            told = receive_until(
                subscription, lambda all_: {"switch", "counters", "jobs"} <= {each["kind"] for each in all_}
            )
        process.terminate()
        _, said = process.communicate(timeout=20)
    exact = values.astype(np.float64).sum(axis=0)
    for result, bound in results:
        assert np.array_equal(result, results[0][0])
        assert np.max(np.abs(result - exact)) <= bound + 1e-6
    assert status.target.payloads == (1024,)
    assert status.counters["chunks_completed"] > 0
    published = {each["kind"]: each for each in told}
    assert {each["switch"] for each in told} == {address}
    assert published["switch"]["pool_slots"] == status.target.pool_slots
    assert published["counters"]["counters"] == status.counters
    assert [end["reason"] for end in published["jobs"]["ended"]] == ["all ranks have left"]
    assert [(end.name, end.reason) for end in status.ended] == [("sum", "all ranks have left")]
    assert "job 1: 3 workers" in said
    assert "job 1: removed" in said
    assert process.returncode == 0
    assert [table for table in TABLES if switch.runtime.entries(table)] == []
    assert switch.runtime.multicast_groups() == {}


def test_two_jobs_side_by_side(controller: Controller, switch: Any, program_files: tuple[Path, Path]) -> None:
    def work(address: str, name: str, rank: int) -> list[int]:
        with Worker.join(address, job=name, rank=rank, world_size=2, join_timeout=30) as worker:
            values = np.arange(3000, dtype=np.int32) * len(name)
            worker.allreduce(values).wait(30)
            return [int(value) for value in values]

    with controller(switch, *program_options(program_files)) as (_, address), ThreadPoolExecutor(4) as pool:
        calls = {
            (name, rank): pool.submit(work, address, name, rank) for name in ("a", "bcd") for rank in range(2)
        }
        for (name, _rank), call in calls.items():
            assert call.result() == [2 * len(name) * value for value in range(3000)]


def test_a_payload_it_has_not_is_refused(
    controller: Controller, switch: Any, program_files: tuple[Path, Path]
) -> None:
    with (
        controller(switch, *program_options(program_files)) as (_, address),
        pytest.raises(UsageError, match="this switch takes 1024 bytes a packet"),
    ):
        Worker.join(address, job="wrong", rank=0, world_size=1, payload=256)


def test_it_ends_when_the_switch_does(
    controller: Controller, switch: Any, program_files: tuple[Path, Path]
) -> None:
    with controller(switch, *program_options(program_files)) as (process, _):
        switch.server.close()
        _, said = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "no P4Runtime switch can be reached" in said


def test_workers_may_be_served_over_tls(
    controller: Controller, switch: Any, program_files: tuple[Path, Path], tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = ["--tls-cert", str(tmp_path / "chain.pem"), "--tls-key", str(tmp_path / "key.pem")]
    with (
        controller(switch, *program_options(program_files), *options, "--token", "secret") as (_, address),
        ControlClient(address, token="secret", tls=ClientTls(ca=tmp_path / "ca.pem")) as client,
    ):
        assert client.discover().payloads == (1024,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "127.0.0.1:9559", "--data-address", "10.0.0.1"], "p4runtime://HOST:PORT"),
        (["--target", "p4runtime://127.0.0.1:9", "--data-address", "10.0.0.1", "--mac", "1"], "six bytes"),
        (["--target", "p4runtime://127.0.0.1:9", "--data-address", "10.0.0.1", "--ports", "a"], "numbers and ranges"),
        (["--target", "p4runtime://127.0.0.1:9", "--data-address", "10.0.0.1", "--p4info", "x"], "--pipeline"),
        (["--target", "p4runtime://127.0.0.1:9", "--data-address", "10.0.0.1", "--pipeline", "x.json"], "no file"),
        (["--target", "p4runtime://127.0.0.1:9", "--data-address", "10.0.0.1", "--tls-key", "x"], "--tls-cert"),
    ],
)  # fmt: skip
def test_wrong_options_are_explained(options: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["controller", *options])
    assert done.exit_code == 1
    assert words in done.output
