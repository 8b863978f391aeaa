"""The P4Runtime target and client against the native pipeline's P4Runtime server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "google.rpc.status_pb2", reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'"
)

from switchml.control.p4runtime import program
from switchml.control.p4runtime.p4runtime_client import Change, P4RuntimeClient, Row
from switchml.control.p4runtime.p4runtime_target import P4RuntimeTarget, PipelineConfig, read_pipeline
from switchml.control.target import JobProgram, SlotReading, WorkerProgram
from switchml.errors import PoolExhaustedError, SwitchUnreachableError, UsageError
from switchml.p4runtime.entries import ActionCall, Digest, Match, MatchKind, Replica, TableEntry
from switchml.p4runtime.refusals import NotPrimaryError, P4RuntimeError, RuntimeRequestError
from switchml.switch_emulator.native_runtime import NativeRuntime

TABLES = (program.JOB_TABLE, program.SENDER_TABLE, program.WORKER_PORT, program.WORKER_REWRITE)


def job(number: int = 1, workers: int = 2, base: int = 0, window: int = 16, **options: Any) -> JobProgram:
    members = tuple(
        WorkerProgram(rank, "udp", "10.0.0.1", 5000 + 100 * number + rank, "") for rank in range(workers)
    )
    return JobProgram(number, base, window, 1024, options.pop("paper", False), members, "", 0, **options)


def exact(key: dict[str, int]) -> dict[str, Match]:
    return {name: Match(MatchKind.EXACT, value) for name, value in key.items()}


def forward(mac: int, port: int) -> Row:
    key = exact({"hdr.ethernet.dst_addr": mac})
    return program.FORWARD, TableEntry(key, ActionCall(program.SEND_TO, (port,)))


def arguments(client: P4RuntimeClient, entry: TableEntry) -> dict[str, int]:
    assert isinstance(entry.action, ActionCall)
    return client.schema.actions.named(entry.action.name).arguments(entry.action)


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def pipeline(program_files: tuple[Path, Path]) -> PipelineConfig:
    return read_pipeline(*program_files)


@pytest.fixture
def client(switch: Any) -> Iterator[P4RuntimeClient]:
    with P4RuntimeClient(switch.address) as connected:
        yield connected


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[Digest], None]]:
    """Where the server takes digests from; the newest is last."""
    receivers: list[Callable[[Digest], None]] = []
    monkeypatch.setattr(
        NativeRuntime, "on_digest", lambda self, receive: receive and receivers.append(receive)
    )
    return receivers


@pytest.fixture
def target(client: P4RuntimeClient, switch: Any, pipeline: PipelineConfig) -> P4RuntimeTarget:
    return P4RuntimeTarget(client, "127.0.0.1", switch.udp_port, pipeline=pipeline, ports=(1, 2))


def without_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As BMv2 is: nobody may read or write a register."""

    def refuse(*arguments: Any) -> Any:
        raise RuntimeRequestError("UNIMPLEMENTED", "Register reads are not supported yet")

    monkeypatch.setattr(NativeRuntime, "read_register", refuse)
    monkeypatch.setattr(NativeRuntime, "write_register", refuse)


def test_it_describes_what_the_program_holds(target: P4RuntimeTarget) -> None:
    description = target.describe()
    assert (description.pool_slots, description.payloads, description.max_workers) == (1024, (1024,), 64)
    assert (description.default_payload, description.ip_multicast, description.shm_socket) == (
        1024,
        False,
        "",
    )


def test_it_makes_the_switch_its_own(target: P4RuntimeTarget, switch: Any) -> None:
    (own,) = switch.runtime.entries(program.OWN_ADDRESS)
    assert own.action.arguments == (0x02534D4C0001,)
    assert switch.runtime.multicast_groups() == {program.FLOOD_GROUP: (Replica(1, 2), Replica(2, 3))}


def test_a_job_comes_and_goes(target: P4RuntimeTarget, client: P4RuntimeClient, switch: Any) -> None:
    target.add_job(job(number=3, base=32))
    (entry,) = (
        each for each in client.entries(program.JOB_TABLE) if each.key["hdr.udp.src_port"].value == 5301
    )
    assert entry.key == exact(
        {"hdr.ipv4.src_addr": 0x0A000001, "hdr.udp.src_port": 5301, "hdr.switchml.job_number": 3}
    )
    assert arguments(client, entry) == {
        "worker": 1, "bit_of_worker": 2, "workers": 2, "everyone": 3, "pool_base": 32, "window": 16, "paper": 0,
        "epoch": 1, "multicast_group": 4,
    }  # fmt: skip
    assert len(client.entries(program.SENDER_TABLE)) == 2
    target.remove_job(3)
    assert [client.entries(table) for table in TABLES] == [[], [], [], []]
    assert set(switch.runtime.multicast_groups()) == {program.FLOOD_GROUP}


def test_workers_are_reached_where_digests_say(
    digests: list[Callable[[Digest], None]], target: P4RuntimeTarget, client: P4RuntimeClient, switch: Any
) -> None:
    target.add_job(job())
    digests[-1](Digest(program.SENDER_DIGEST, (1, 1, 0x0A0B, 0x0A000001, 5101, 7)))
    eventually(lambda: len(client.entries(program.WORKER_PORT)) == 1)
    assert switch.runtime.multicast_groups()[2] == (Replica(7, 2),)
    digests[-1](Digest(program.SENDER_DIGEST, (1, 0, 0x0A0A, 0x0A000001, 5100, 6)))
    eventually(lambda: len(client.entries(program.WORKER_PORT)) == 2)
    assert set(switch.runtime.multicast_groups()[2]) == {Replica(7, 2), Replica(6, 1)}
    assert TableEntry(
        exact({"meta.job_number": 1, "meta.worker": 1}),
        ActionCall(program.TO_WORKER, (0x0A0B, 0x0A000001, 5101)),
    ) in client.entries(program.WORKER_REWRITE)
    target.remove_job(1)
    assert [client.entries(table) for table in TABLES] == [[], [], [], []]
    assert set(switch.runtime.multicast_groups()) == {program.FLOOD_GROUP}


def test_a_digest_of_a_job_that_is_gone_changes_nothing(
    digests: list[Callable[[Digest], None]], target: P4RuntimeTarget, client: P4RuntimeClient
) -> None:
    digests[-1](Digest(program.SENDER_DIGEST, (9, 0, 0x0A0A, 0x0A000001, 5100, 6)))
    digests[-1](Digest(program.STATION_DIGEST, (0x0A0A, 6)))
    eventually(lambda: len(client.entries(program.STATION)) == 1)
    assert client.entries(program.WORKER_PORT) == []


def test_stations_are_learnt_and_move(
    digests: list[Callable[[Digest], None]], target: P4RuntimeTarget, client: P4RuntimeClient, switch: Any
) -> None:
    for port in (1, 1, 9):
        digests[-1](Digest(program.STATION_DIGEST, (0x0A0A, port)))
    digests[-1](Digest(program.STATION_DIGEST, (0xFFFFFFFFFFFF, 1)))
    digests[-1](Digest(program.STATION_DIGEST, (0x0A0B, 2)))
    eventually(lambda: len(client.entries(program.FORWARD)) == 2)
    assert {
        (each.key["hdr.ethernet.dst_addr"].value, arguments(client, each)["port"])
        for each in client.entries(program.FORWARD)
    } == {(0x0A0A, 9), (0x0A0B, 2)}
    assert len(client.entries(program.STATION)) == 2
    # A port that nobody had named is flooded, too.
    assert Replica(9, 10) in switch.runtime.multicast_groups()[program.FLOOD_GROUP]


def test_slots_are_read_from_registers(target: P4RuntimeTarget, switch: Any) -> None:
    target.add_job(job(number=1))
    target.add_job(job(number=2, base=16))
    index = 2 * (16 + 3) + 1
    assert target.read_slot(2, 3, 1) == SlotReading(0, False, frozenset())
    for register, value in ((program.STAMP, 0xFFFFFFF0), (program.USED, 2), (program.SEEN, 2)):
        switch.runtime.write_register(register, index, value)
    assert target.read_slot(2, 3, 1) == SlotReading(0xFFFFFFF0, True, frozenset({1}))


def test_without_registers_nobody_knows(target: P4RuntimeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    without_registers(monkeypatch)
    target.add_job(job())
    with pytest.raises(P4RuntimeError, match=r"BMv2 does not.*last heard: rank 0 never, rank 1 never"):
        target.read_slot(1, 0, 0)
    assert "elements_added" not in target.counters()


def test_counters_have_the_protocol_s_names(target: P4RuntimeTarget, switch: Any) -> None:
    counters = switch.native.switch.counters
    counters[1, 0] = 5  # packets_received, of a job before
    target.add_job(job())
    counters[1, 0] += 10
    counters[1, 1] += 1000
    counters[256, 0] += 2
    assert target.job_counters(1)["packets_received"] == 10
    assert target.job_counters(1)["bytes_received"] == 1000
    assert target.counters()["packets_received"] == 17


def test_a_controller_clears_what_another_left(
    target: P4RuntimeTarget, client: P4RuntimeClient, switch: Any
) -> None:
    target.add_job(job())
    switch.runtime.write_register(program.USED, 5, 1)
    client.close()
    with P4RuntimeClient(switch.address) as second:
        P4RuntimeTarget(second, "127.0.0.2", switch.udp_port).add_job(job(number=4, base=512))
        assert {
            entry.key["hdr.switchml.job_number"].value for entry in second.entries(program.JOB_TABLE)
        } == {4}
        assert second.registers([(program.USED, 5)]) == {(program.USED, 5): 0}


def test_a_switch_without_registers_has_to_be_loaded(
    target: P4RuntimeTarget, client: P4RuntimeClient, switch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.close()
    without_registers(monkeypatch)
    with (
        P4RuntimeClient(switch.address) as second,
        pytest.raises(P4RuntimeError, match="--pipeline"),
    ):
        P4RuntimeTarget(second, "127.0.0.2", switch.udp_port)


@pytest.mark.parametrize("registers", [True, False])
def test_epochs_come_round(
    target: P4RuntimeTarget,
    client: P4RuntimeClient,
    switch: Any,
    registers: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program, "LAST_EPOCH", 2)
    target.add_job(job(number=1))
    target.add_job(job(number=2, base=16))
    switch.runtime.write_register(program.USED, 2 * 900, 1)
    if not registers:
        without_registers(monkeypatch)
        with pytest.raises(PoolExhaustedError, match="wait for all jobs to end"):
            target.add_job(job(number=3, base=32))
        target.remove_job(1)
        target.remove_job(2)
    target.add_job(job(number=3, base=32))
    epochs = {
        entry.key["hdr.switchml.job_number"].value: arguments(client, entry)["epoch"]
        for entry in client.entries(program.JOB_TABLE)
    }
    assert epochs == ({1: 1, 2: 2, 3: 1} if registers else {3: 1})
    if registers:
        assert switch.runtime.read_register(program.USED, 2 * 900) == [0]
    (own,) = switch.runtime.entries(program.OWN_ADDRESS)
    assert own is not None


def test_a_payload_that_the_program_has_not_is_refused(target: P4RuntimeTarget) -> None:
    with pytest.raises(UsageError, match="1024 bytes"):
        target.add_job(JobProgram(1, 0, 16, 256, False, (), "", 0))


def test_workers_may_number_their_packets_as_they_like(
    target: P4RuntimeTarget, client: P4RuntimeClient, switch: Any
) -> None:
    target.add_job(job(number=3, paper=True, any_number=True))
    numbers = [entry.key["hdr.switchml.job_number"].value for entry in client.entries(program.JOB_TABLE)]
    assert sorted(numbers) == sorted([*range(256)] * 2)
    assert switch.native.switch.tables.jobs[3]["any_number"] == 1
    target.remove_job(3)
    assert client.entries(program.JOB_TABLE) == []


def test_full_tables_are_an_exhausted_pool(
    target: P4RuntimeTarget, client: P4RuntimeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = NativeRuntime.insert

    def full(self: NativeRuntime, table: str, entry: Any) -> None:
        if table == program.JOB_TABLE:
            raise RuntimeRequestError("RESOURCE_EXHAUSTED", "full")
        insert(self, table, entry)

    monkeypatch.setattr(NativeRuntime, "insert", full)
    with pytest.raises(PoolExhaustedError, match="tables are full"):
        target.add_job(job())
    assert client.entries(program.SENDER_TABLE) == []


def test_the_data_port_is_one_of_the_program_s(client: P4RuntimeClient) -> None:
    with pytest.raises(UsageError, match="48864 to 48879"):
        P4RuntimeTarget(client, "127.0.0.1", 5000)


def test_there_is_one_primary(client: P4RuntimeClient, switch: Any, pipeline: PipelineConfig) -> None:
    with P4RuntimeClient(switch.address, election_id=5) as stronger:
        stronger.load(pipeline.p4info, pipeline.config)
        with pytest.raises(NotPrimaryError, match="--election-id"):
            P4RuntimeClient(switch.address, election_id=3)
        with pytest.raises(NotPrimaryError, match="--election-id"):
            P4RuntimeClient(switch.address, election_id=5)
        with pytest.raises(NotPrimaryError):
            client.load(pipeline.p4info, pipeline.config)
    # One that has gone leaves no hole: its election id is taken.
    with P4RuntimeClient(switch.address, election_id=3) as weaker:
        weaker.check()


def test_a_dethroned_controller_knows(target: P4RuntimeTarget, client: P4RuntimeClient, switch: Any) -> None:
    with P4RuntimeClient(switch.address, election_id=9):
        eventually(lambda: client.lost != "")
        with pytest.raises(NotPrimaryError, match="taken over"):
            target.add_job(job())
    # The switch does not take it back: its tables are another's.
    with pytest.raises(NotPrimaryError, match="taken over"):
        target.check()
    assert target.counters()["packets_received"] == 0


def test_nobody_there() -> None:
    with pytest.raises(SwitchUnreachableError, match="simple_switch_grpc"):
        P4RuntimeClient("127.0.0.1:9", timeout=0.5)


def test_a_switch_that_goes_is_missed(client: P4RuntimeClient, switch: Any, pipeline: PipelineConfig) -> None:
    client.load(pipeline.p4info, pipeline.config)
    switch.server.close()
    eventually(lambda: client.lost != "")
    with pytest.raises(SwitchUnreachableError):
        client.entries(program.JOB_TABLE)


def test_a_switch_without_a_program_says_so(client: P4RuntimeClient) -> None:
    with pytest.raises(P4RuntimeError, match="--pipeline"):
        client.adopt()


def test_a_switch_with_another_program_says_so(
    client: P4RuntimeClient, switch: Any, pipeline: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.load(pipeline.p4info, pipeline.config)
    other = type(pipeline.p4info)()
    other.CopyFrom(pipeline.p4info)
    del other.registers[:]
    monkeypatch.setattr(switch.device, "p4info", other.SerializeToString())
    with pytest.raises(RuntimeRequestError, match="does not aggregate"):
        P4RuntimeTarget(client, "127.0.0.1")


def test_another_device_is_not_this_one(switch: Any) -> None:
    with pytest.raises((P4RuntimeError, SwitchUnreachableError)):
        P4RuntimeClient(switch.address, device_id=77)


def test_each_failed_update_is_named(client: P4RuntimeClient, pipeline: PipelineConfig) -> None:
    client.load(pipeline.p4info, pipeline.config)
    good = forward(1, 3)
    absent = forward(2, 3)
    client.insert(good)
    updates = [*client.updates(Change.INSERT, [good]), *client.updates(Change.DELETE, [absent])]
    with pytest.raises(P4RuntimeError) as error:
        client.write(updates)
    assert [line.split(":")[0] for line in error.value.details] == ["ALREADY_EXISTS", "NOT_FOUND"]
    assert client.entries(program.FORWARD) == [good[1]]


@pytest.mark.parametrize(
    ("table", "key", "action", "code"),
    [
        ("SwitchIngress.nothing", {}, program.SEND_TO, "NOT_FOUND"),
        (program.FORWARD, {"hdr.ethernet.nothing": 1}, program.SEND_TO, "NOT_FOUND"),
        (program.FORWARD, {"hdr.ethernet.dst_addr": 1}, "SwitchIngress.nothing", "NOT_FOUND"),
    ],
)
def test_unknown_names_are_refused(
    client: P4RuntimeClient, pipeline: PipelineConfig, table: str, key: dict[str, int], action: str, code: str
) -> None:
    client.load(pipeline.p4info, pipeline.config)
    with pytest.raises(RuntimeRequestError) as refusal:
        client.insert((table, TableEntry(exact(key), ActionCall(action, (3,)))))
    assert refusal.value.code == code


def test_arguments_are_those_of_the_action(client: P4RuntimeClient, pipeline: PipelineConfig) -> None:
    client.load(pipeline.p4info, pipeline.config)
    action = client.schema.actions.named(program.SEND_TO)
    assert action.call({"port": 3}) == ActionCall(program.SEND_TO, (3,))
    with pytest.raises(RuntimeRequestError, match="takes port, not nothing"):
        action.call({"nothing": 3})


def test_values_have_to_fit(client: P4RuntimeClient, pipeline: PipelineConfig) -> None:
    client.load(pipeline.p4info, pipeline.config)
    with pytest.raises(RuntimeRequestError, match="does not fit bit<48>"):
        client.insert(forward(1 << 48, 3))
    with pytest.raises(RuntimeRequestError, match="does not fit bit<9>"):
        client.insert(forward(1, 1 << 9))
    ternary = {"hdr.ethernet.dst_addr": Match(MatchKind.TERNARY, 1, 2)}
    with pytest.raises(RuntimeRequestError, match="is exact, not ternary"):
        client.insert((program.FORWARD, TableEntry(ternary, ActionCall(program.SEND_TO, (3,)))))
