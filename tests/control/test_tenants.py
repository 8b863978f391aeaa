"""Tenants: their file, whose token is whose, and that no tenant's jobs hold more than its share."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from switchml.cli import app
from switchml.control import reference_pb2 as pb
from switchml.control.client import ControlClient
from switchml.control.control_messages import JoinOffer
from switchml.control.jobs import AddJob, JobTable, Joined, Refused
from switchml.control.reference import Sessions
from switchml.control.target import TargetDescription
from switchml.control.tenants import NOBODY, Doorkeeper, Tenant, read_tenants
from switchml.errors import InvalidTokenError, PoolExhaustedError, SwitchMLError, UsageError
from switchml.link.records import new_records
from switchml.switch_emulator import Emulator
from switchml.switch_emulator.tables import Limit, granted
from switchml.worker import Worker

SECOND = 1_000_000_000
VISION = Tenant("vision", "see", slots=256, number=1)
SPEECH = Tenant("speech", "say", packets_per_second=2000, number=2)
TARGET = TargetDescription(
    "127.0.0.1", 48864, "", pool_slots=1024, max_payload=16384, max_workers=8, limits_packets=True
)


def file_of(folder: Path, text: str) -> Path:
    path = folder / "tenants.toml"
    path.write_text(text)
    return path


def test_a_file_of_two(tmp_path: Path) -> None:
    text = '[vision]\ntoken = "see"\nslots = 256\n[speech]\ntoken = "say"\npackets_per_second = 2000\n'
    assert read_tenants(file_of(tmp_path, text), "own") == (VISION, SPEECH)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "0 of them"),
        ("[a", "tenants in"),
        ("[a]\nslots = 64\n", "'a' in .* has no token"),
        ('a = "token"\n', "has no token"),
        ('[a]\ntoken = ""\n', "has no token"),
        ('[a]\ntoken = "t"\nslot = 64\n', "slot: there is packets_per_second, slots, token"),
        ('[a]\ntoken = "t"\nslots = -1\n', "slots is -1"),
        ('[a]\ntoken = "t"\nslots = true\n', "slots is True"),
        ('[a]\ntoken = "t"\nslots = 1\n', "a job needs at least"),
        ('[a]\ntoken = "t"\n[b]\ntoken = "t"\n', "two have one token"),
        ('[a]\ntoken = "own"\n', "two have one token, or the switch's"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_tenants(file_of(tmp_path, text), "own")


def test_the_switch_needs_a_token_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --token"):
        read_tenants(file_of(tmp_path, '[a]\ntoken = "t"\n'), "")


def test_a_token_tells_the_tenant() -> None:
    door = Doorkeeper("own", (VISION, SPEECH))
    assert [door.admit(token) for token in ("see", "say", "own")] == [VISION, SPEECH, NOBODY]
    for wrong in ("", "so", "see "):
        with pytest.raises(InvalidTokenError):
            door.admit(wrong)
    assert Doorkeeper("").admit("anything") == NOBODY


def join(table: JobTable, job: str, tenant: Tenant, window: int = 0) -> list[Any]:
    offer = JoinOffer(job, 0, 1, transport="udp", address="10.0.0.1", port=sum(job.encode()), window=window)
    return table.join(job, offer, 60.0, 0.0, tenant=tenant)


def test_slots_of_a_tenant_end_where_its_share_does() -> None:
    table = JobTable(TARGET, lease=8.0, multicast_octet=1)
    first, second = (
        next(a.program for a in join(table, job, VISION, 128) if isinstance(a, AddJob)) for job in "ab"
    )
    assert (first.window, second.window, first.tenant) == (128, 128, 1)
    (refused,) = join(table, "c", VISION)
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, PoolExhaustedError)
    assert "of the 256 that tenant 'vision' may have its other jobs hold 256" in str(refused.error)
    others = next(a.program for a in join(table, "d", NOBODY) if isinstance(a, AddJob))
    assert others.window == 512, "the pool has room for who has no limit"
    table.leave("a", 1.0)
    assert any(isinstance(action, Joined) for action in join(table, "e", VISION))


def test_a_share_that_is_nearly_used_gives_fewer_slots_before_none() -> None:
    table = JobTable(TARGET, lease=8.0, multicast_octet=1)
    join(table, "a", VISION, 128)
    assert next(a.program for a in join(table, "b", VISION) if isinstance(a, AddJob)).window == 128


def test_nobody_enters_the_job_of_another_tenant() -> None:
    table = JobTable(TARGET, lease=8.0, multicast_octet=1)
    offers = [
        JoinOffer("a", rank, 2, transport="udp", address="10.0.0.1", port=1000 + rank) for rank in range(2)
    ]
    table.join("one", offers[0], 60.0, 0.0, tenant=VISION)
    with pytest.raises(UsageError, match="another tenant's"):
        table.join("two", offers[1], 60.0, 0.0, tenant=SPEECH)


def test_a_switch_that_counts_no_packets_refuses_a_limit_of_them() -> None:
    table = JobTable(
        TargetDescription("127.0.0.1", 1, "", pool_slots=64, max_payload=1024, max_workers=8),
        lease=8.0,
        multicast_octet=1,
    )
    with pytest.raises(UsageError, match="cannot keep"):
        join(table, "a", SPEECH)


@given(
    rate=st.integers(1, 10**7),
    steps=st.lists(st.tuples(st.integers(0, 10**8), st.integers(1, 64)), max_size=200),
)
def test_no_more_is_granted_than_the_rate_and_what_may_come_at_once(
    rate: int, steps: list[tuple[int, int]]
) -> None:
    limits = new_records(Limit, 2)
    limits[1]["rate"] = rate
    now, taken = 10**12, 0
    for passed, packets in steps:
        now += passed
        got = granted(limits, 1, packets, now)
        assert 0 <= got <= packets
        taken += got
    seconds = (now - 10**12) / SECOND
    assert taken <= rate * seconds + max(256, rate // 50) + 1


def test_an_honest_rate_is_never_cut() -> None:
    limits = new_records(Limit, 2)
    limits[1]["rate"] = 1000
    assert all(granted(limits, 1, 1, 10**12 + i * SECOND // 1000) == 1 for i in range(5000))


def test_a_session_of_a_reference_client_is_its_tenant_s() -> None:
    with Emulator(token="own", tenants=(VISION, SPEECH)) as emulator:
        sessions = Sessions(emulator.controller, lambda: None)
        request = pb.UdpSessionRequest(
            session_id=7,
            rank=0,
            num_workers=1,
            ipv4=int(ipaddress.IPv4Address("127.0.0.1")),
            packet_size=pb.MTU_1024,
        )
        sessions.add(request, "", SPEECH)
        (job,) = emulator.controller._table.jobs
        assert job.program is not None
        assert (job.program.tenant, job.program.packets_per_second) == (2, 2000)
        with pytest.raises(UsageError, match="another tenant's"):
            sessions.add(request, "", VISION)
        assert emulator.controller._table.jobs == (job,), "nobody ends the session of another"


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[str]:
    """Of the command: the address of its control service."""
    text = '[vision]\ntoken = "see"\nslots = 256\n[speech]\ntoken = "say"\npackets_per_second = 2000\n'
    words = [
        "--token",
        "own",
        "--tenants",
        str(file_of(tmp_path, text)),
        "--port",
        "0",
        "--control-port",
        "0",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "switchml", "switch", *words, "--announce", "-"],
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "SWITCHML_TOKEN"},
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["control"]
        finally:
            process.terminate()


@pytest.mark.parametrize("words", [["--topology", "TREE"], ["-i", "1@lo", "--pipeline", "none"]])
def test_switches_that_keep_no_tenants_say_so(tmp_path: Path, words: list[str]) -> None:
    tree = tmp_path / "tree.toml"
    tree.write_text('[root]\ndata = "127.0.0.1:0"\ncontrol = "127.0.0.1:0"\n')
    tenants = str(file_of(tmp_path, '[a]\ntoken = "t"\n'))
    given = [str(tree) if word == "TREE" else word for word in words]
    done = CliRunner().invoke(app, ["switch", "--token", "own", "--tenants", tenants, *given])
    assert done.exit_code != 0
    assert "--tenants" in done.output


def test_two_tenants_on_a_switch(switch: str) -> None:
    """One is limited to 2,000 packets a second: its sums are right, and what is too much is counted."""
    with pytest.raises(InvalidTokenError):
        Worker.join(switch, job="x", rank=0, world_size=1, token="so", timeout=30)
    arrays = [np.full(256 * 3000, 1 + rank, np.float32) for rank in range(2)]
    failed: list[SwitchMLError] = []

    def work(rank: int) -> None:
        try:
            with Worker.join(
                switch, job="x", rank=rank, world_size=2, token="say", transport="udp", timeout=60
            ) as worker:
                worker.allreduce(arrays[rank]).wait()
        except SwitchMLError as error:
            failed.append(error)

    ranks = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    assert not failed
    assert all((array == 3).all() for array in arrays)
    with ControlClient(switch, token="see") as client:
        status = client.status()
    assert status.jobs == ()
    assert status.counters["dropped_over_limit"] > 0
