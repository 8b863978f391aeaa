"""Server and client over real sockets on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from switchml.control.address import listen_error
from switchml.control.client import ControlClient
from switchml.control.control_messages import Departure, JobLayout, JoinOffer, Resent
from switchml.control.controller import Controller
from switchml.control.convert import offer_to_pb
from switchml.control.heartbeat import Departures
from switchml.control.lifeline import Lifeline
from switchml.control.server import ControlServer, serve
from switchml.control.switch_pb2_grpc import SwitchStub
from switchml.control.target import SlotReading
from switchml.errors import (
    DuplicateRankError,
    InvalidTokenError,
    JobAbortedError,
    JoinTimeoutError,
    LayoutMismatchError,
    PoolExhaustedError,
    PortInUseError,
    SwitchUnreachableError,
    UsageError,
    WorkerClosedError,
    WorldSizeMismatchError,
)

WAIT = 30.0


def offer(rank: int, world_size: int = 2, job: str = "job", **other: Any) -> JoinOffer:
    port = 2000 if job == "job" else 10_000 + 100 * (zlib.crc32(job.encode()) % 500)  # a socket of its own
    return JoinOffer(job, rank, world_size, **{"address": "127.0.0.1", "port": port + rank, **other})


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def controller(target: Any) -> Controller:
    return Controller(target, lease=2.0)


@pytest.fixture
def server(controller: Controller) -> Iterator[ControlServer]:
    with serve(controller) as running:
        yield running


@pytest.fixture
def connect(server: ControlServer) -> Iterator[Callable[[], ControlClient]]:
    clients: list[ControlClient] = []

    def connect() -> ControlClient:
        clients.append(ControlClient(server.address))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def join_together(clients: list[ControlClient], **other: Any) -> list[JobLayout]:
    with ThreadPoolExecutor(len(clients)) as pool:
        waiting = [
            pool.submit(client.join, offer(rank, len(clients), **other), timeout=WAIT)
            for rank, client in enumerate(clients)
        ]
        return [layout.result() for layout in waiting]


def ready_together(clients: list[ControlClient]) -> list[bool]:
    with ThreadPoolExecutor(len(clients)) as pool:
        waiting = [pool.submit(client.ready, multicast=True, timeout=WAIT) for client in clients]
        return [multicast.result() for multicast in waiting]


def test_a_job_from_join_to_leave(target: Any) -> None:
    # The switch's time moves only here, so that no load makes a rank silent for a lease.
    now = [0.0]
    controller = Controller(target, lease=20.0, clock=lambda: now[0])
    with serve(controller) as server, ExitStack() as stack:
        clients = [stack.enter_context(ControlClient(server.address)) for _ in range(3)]
        assert clients[0].discover() == target.describe()
        layouts = join_together(clients)
        assert layouts[0] == layouts[1] == layouts[2]
        assert (layouts[0].window, layouts[0].payload, layouts[0].lease) == (512, 1024, 20.0)
        assert ready_together(clients) == [True, True, True]
        assert target.multicast == {1: True}
        target.readings[7, 1] = SlotReading(512 + 7, True, frozenset({0, 2}))
        report = clients[1].slot(512 + 7)
        assert (report.seen, report.missing, report.last_heard) == ({0, 2}, (1,), [0.25, None, None])
        left: list[Departures] = []
        aborted: list[str] = []
        clients[1].start_heartbeats(aborted.append, left.append)
        clients[0].leave()
        clients[0].leave()
        wait_until(lambda: left == [{0: Departure()}])
        # A lease later the job is still there: each rank has been heard meanwhile.
        for _ in range(2):
            now[0] += controller.lease / 2
            wait_until(
                lambda: [member.heartbeat for member in controller.status().jobs[0].members[1:]] == [0, 0]
            )
            controller.expire()
        assert len(controller.status().jobs) == 1
        clients[2].leave()
        clients[1].leave()
        assert target.jobs == {}
        assert aborted == []
        assert join_together(clients)[0].job_number == 2


def test_status_crosses_the_wire(controller: Controller, connect: Callable[[], ControlClient]) -> None:
    clients = [connect(), connect()]
    join_together(clients)
    status, here = clients[0].status(), controller.status()
    [job] = status.jobs
    assert (job.name, job.state, job.counters) == ("job", "programmed", {"packets_received": 2})
    assert [(member.rank, member.address, member.port, member.packet) for member in job.members] == [
        (0, "127.0.0.1", 2000, 0.25),
        (1, "127.0.0.1", 2001, None),
    ]
    assert all(member.heartbeat is not None and member.heartbeat < 2.0 for member in job.members)
    assert (status.target, status.free_slots, status.counters) == (
        here.target,
        here.free_slots,
        here.counters,
    )
    clients[0].leave()
    [ended] = clients[1].status().ended
    assert ended.reason == "rank 0 left before the job was ready"


def test_the_address_left_open_is_where_the_call_came_from(
    target: Any, connect: Callable[[], ControlClient]
) -> None:
    connect().join(offer(0, 1, address="0.0.0.0"), timeout=WAIT)
    assert target.added[0].workers[0].address == "127.0.0.1"


def test_a_switch_on_every_address_is_where_the_client_reached_it(make_target: Callable[..., Any]) -> None:
    with serve(Controller(make_target(host="0.0.0.0")), "0.0.0.0") as server:
        for host in ("localhost", "127.0.0.1"):
            with ControlClient(f"{host}:{server.port}") as client:
                assert client.discover().host == "127.0.0.1"


def test_256_ranks_wait_at_once(
    target: Any, server: ControlServer, connect: Callable[[], ControlClient]
) -> None:
    """One channel carries 255 of them, as a client has one membership only."""
    last = connect()
    with grpc.insecure_channel(server.address) as channel:
        join = SwitchStub(channel).Join
        waiting = [
            join.future(offer_to_pb(offer(rank, 256, "wide"), f"session {rank}", WAIT), timeout=WAIT)
            for rank in range(255)
        ]
        wait_until(lambda: [len(job.members) for job in last.status().jobs] == [255])
        number = last.join(offer(255, 256, "wide"), timeout=WAIT).job_number
        assert {reply.result().job_number for reply in waiting} == {number}
    assert len(target.added[0].workers) == 256


def test_every_refusal_keeps_its_type(connect: Callable[[], ControlClient]) -> None:
    first, second = connect(), connect()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.join, offer(0), timeout=WAIT)
        wait_until(lambda: bool(second.status().jobs))
        with pytest.raises(DuplicateRankError, match="rank 0 has already joined"):
            second.join(offer(0, port=9), timeout=WAIT)
        with pytest.raises(WorldSizeMismatchError, match="world size 3, but the job has world size 2"):
            second.join(offer(1, 3), timeout=WAIT)
        with pytest.raises(WorldSizeMismatchError, match="rank 5 is outside world size 2"):
            second.join(offer(5, 2), timeout=WAIT)
        with pytest.raises(LayoutMismatchError, match="payload 512"):
            second.join(offer(1, payload=512), timeout=WAIT)
        with pytest.raises(UsageError, match="window 3"):
            second.join(offer(1, window=3), timeout=WAIT)
        with pytest.raises(PoolExhaustedError, match="2048 slots in all"):
            second.join(offer(1, window=4096), timeout=WAIT)
        with pytest.raises(UsageError, match="not negative"):
            second.join(offer(-1), timeout=WAIT)
        with pytest.raises(UsageError, match="joined no job"):
            second.ready(multicast=True, timeout=WAIT)
        second.join(offer(1), timeout=WAIT)
        assert waiting.result().job_number == 1
        with pytest.raises(UsageError, match="joined a job already"):
            second.join(offer(1, job="another"), timeout=WAIT)


def test_a_join_that_times_out_names_the_missing_and_may_be_tried_again(
    controller: Controller, connect: Callable[[], ControlClient]
) -> None:
    client = connect()
    with pytest.raises(JoinTimeoutError, match=r"ranks 1-2 of 3 did not join within 0.3 s"):
        client.join(offer(0, 3), timeout=0.3)
    assert len(controller.status().jobs) == 0
    assert len(join_together([client, connect()])) == 2


def test_a_ready_that_times_out_ends_the_job(connect: Callable[[], ControlClient]) -> None:
    clients = [connect(), connect()]
    join_together(clients)
    with pytest.raises(JoinTimeoutError, match=r"rank 1 did not get ready within 0.3 s"):
        clients[0].ready(multicast=False, timeout=0.3)
    with pytest.raises(JobAbortedError, match="rank 1 did not get ready"):
        clients[1].ready(multicast=False, timeout=WAIT)


def test_a_client_closed_while_it_waits_is_withdrawn(
    controller: Controller, connect: Callable[[], ControlClient]
) -> None:
    client = connect()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.join, offer(0), timeout=WAIT)
        wait_until(lambda: len(controller.status().jobs) == 1)
        client.close()
        with pytest.raises(WorkerClosedError):
            waiting.result()
    wait_until(lambda: len(controller.status().jobs) == 0)
    with pytest.raises(WorkerClosedError, match="closed"):
        client.status()


JOINING = """
import sys
from switchml.control.client import ControlClient
from switchml.control.control_messages import JoinOffer
client = ControlClient(sys.argv[1])
print("joining", flush=True)
client.join(JoinOffer("job", 0, int(sys.argv[2]), address="127.0.0.1", port=2000), timeout=60)
client.ready(multicast=False, timeout=60)
print("ready", flush=True)
client.start_heartbeats(print)
sys.stdin.read()
"""


def start_joining(server: ControlServer, world_size: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOINING, server.address, str(world_size)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_dies_while_it_waits_is_withdrawn(
    controller: Controller, server: ControlServer, number: signal.Signals
) -> None:
    process = start_joining(server, 2)
    wait_until(lambda: len(controller.status().jobs) == 1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=WAIT)
    assert process.returncode != 0
    assert ("KeyboardInterrupt" in stderr) == (number == signal.SIGINT)
    wait_until(lambda: len(controller.status().jobs) == 0)


def test_a_process_leaves_when_its_interpreter_ends(controller: Controller, server: ControlServer) -> None:
    process = start_joining(server, 1)
    assert process.stdout is not None
    assert process.stdout.readline() == "joining\n"
    assert process.stdout.readline() == "ready\n"
    stdout, stderr = process.communicate("", timeout=WAIT)
    assert (process.returncode, stdout, stderr) == (0, "", "")
    assert [job.reason for job in controller.status().ended] == ["all ranks have left"]


def test_a_killed_process_ends_the_job(
    controller: Controller, server: ControlServer, connect: Callable[[], ControlClient]
) -> None:
    process = start_joining(server, 2)
    survivor = connect()
    survivor.join(offer(1), timeout=WAIT)
    survivor.ready(multicast=False, timeout=WAIT)
    reasons: list[str] = []
    survivor.start_heartbeats(reasons.append)
    process.kill()
    process.communicate(timeout=WAIT)
    wait_until(lambda: bool(reasons))
    died = "rank 0 has died: its connection was closed without leaving the job"
    assert reasons == [f"job 'job' has ended: {died}"]
    assert len(controller.status().jobs) == 0
    with pytest.raises(JobAbortedError, match="rank 0 has died"):
        survivor.slot(0)
    # Callbacks that come late hear of it at once.
    survivor.start_heartbeats(reasons.append)
    assert len(reasons) == 2


def made_anew(lifeline: Lifeline, old: socket.socket) -> bool:
    return lifeline._socket is not old


def test_a_lifeline_that_is_cut_is_made_anew(
    controller: Controller, server: ControlServer, connect: Callable[[], ControlClient]
) -> None:
    client = connect()
    client.join(offer(0, 1), timeout=WAIT)
    client.ready(multicast=False, timeout=WAIT)
    reasons: list[str] = []
    client.start_heartbeats(reasons.append)
    member = controller._table._members[client._session][1]
    lifeline = client._lifeline
    assert lifeline is not None
    for _ in range(3):
        wait_until(lambda: member.connected)
        line = lifeline._socket
        assert line is not None
        line.shutdown(socket.SHUT_RDWR)
        wait_until(functools.partial(made_anew, lifeline, line))
    wait_until(lambda: member.connected)
    time.sleep(0.5)  # longer than one that does not come back is waited for
    assert reasons == []
    assert client.status().jobs[0].state == "running"


def test_what_a_worker_has_sent_again_is_known_at_the_switch_when_it_has_left(
    controller: Controller, connect: Callable[[], ControlClient]
) -> None:
    clients = [connect(), connect()]
    join_together(clients)
    clients[0].start_heartbeats(lambda _: None, resent=lambda: Resent(30, 4))
    clients[0].leave()
    status = clients[1].status()
    assert (status.sent_again, status.arrived_twice) == (30, 4)
    assert controller.status().sent_again == 30


def test_a_data_port_with_the_number_of_the_control_port(make_target: Callable[..., Any]) -> None:
    target = make_target()
    with serve(Controller(target)) as earlier:
        number = earlier.port
    target.description = dataclasses.replace(target.description, udp_port=number)
    controller = Controller(target)
    with serve(controller, port=number) as server, ControlClient(f"localhost:{server.port}") as client:
        client.join(offer(0, 1), timeout=WAIT)
        member = controller._table._members[client._session][1]
        wait_until(lambda: member.connected)


def test_strangers_at_the_lifelines_port_change_nothing(
    controller: Controller, server: ControlServer, connect: Callable[[], ControlClient]
) -> None:
    client = connect()
    port = client.join(offer(0, 1), timeout=WAIT).life_port
    strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    try:
        strangers[0].sendall(b"x" * 1000)
        strangers[0].settimeout(WAIT)
        with contextlib.suppress(ConnectionError):
            assert strangers[0].recv(1) == b""
        late = connect()
        late.join(offer(0, 1, "late"), timeout=WAIT)
        for each in (client, late):
            each.ready(multicast=False, timeout=WAIT)
            assert each.slot(0).left == frozenset()
    finally:
        for stranger in strangers:
            stranger.close()
    client.leave()
    assert [job.reason for job in controller.status().ended] == ["all ranks have left"]


def test_how_a_rank_left_is_told_at_once(connect: Callable[[], ControlClient]) -> None:
    clients = [connect(), connect()]
    join_together(clients)
    heard: list[Any] = []
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda client: client.ready(multicast=False, timeout=WAIT), clients))
    clients[0].start_heartbeats(heard.append, heard.append)
    clients[1].start_heartbeats(heard.append, progress=lambda: 7)
    clients[1].leave("ValueError: boom")
    wait_until(lambda: bool(heard))
    assert heard == [{1: Departure(7, "ValueError: boom")}]


def test_a_switch_that_is_stopped_says_so(
    server: ControlServer, connect: Callable[[], ControlClient]
) -> None:
    waiting_client, running = connect(), connect()
    running.join(offer(0, 1, "running"), timeout=WAIT)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(waiting_client.join, offer(0, 2, "waiting"), timeout=WAIT)
        wait_until(lambda: len(running.status().jobs) == 2)
        server.close()
        with pytest.raises(JobAbortedError, match="the switch is shutting down"):
            waiting.result()
    server.close()


def test_a_switch_that_falls_silent_is_reported_after_a_lease(server: ControlServer) -> None:
    """A relay between client and switch is cut without a word."""
    with socket.create_server(("127.0.0.1", 0)) as relay:
        cut = threading.Event()
        threads: list[threading.Thread] = []

        def pump(source: socket.socket, sink: socket.socket) -> None:
            try:
                while data := source.recv(65536):
                    if not cut.is_set():
                        sink.sendall(data)
            except OSError:
                return

        def accept() -> None:
            try:
                inside, _ = relay.accept()
            except OSError:
                return
            outside = socket.create_connection(("127.0.0.1", server.port))
            for pair in ((inside, outside), (outside, inside)):
                threads.append(threading.Thread(target=pump, args=pair, daemon=True))
                threads[-1].start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        address = f"127.0.0.1:{relay.getsockname()[1]}"
        client = ControlClient(address)
        client.join(offer(0, 1), timeout=WAIT)
        reasons: list[str] = []
        client.start_heartbeats(reasons.append)
        cut.set()
        wait_until(lambda: bool(reasons))
        assert reasons == [f"the switch at {address} stopped answering for 2 s"]
        begun = time.monotonic()
        client.close()
        assert time.monotonic() - begun < 5.0  # a bound promised, not a speed


def test_an_unreachable_switch_is_named_with_what_to_do() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(SwitchUnreachableError, match=f"nothing listens at {address}") as raised:
            ControlClient(address, timeout=WAIT)
    assert "switchml switch" in str(raised.value)
    assert "SWITCHML_SWITCH" in str(raised.value)


def test_status_waits_for_a_switch_when_asked_to(target: Any) -> None:
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    command = [sys.executable, "-m", "switchml.cli", "status", "--switch", f"127.0.0.1:{port}"]
    with subprocess.Popen([*command, "--wait", str(WAIT)], stdout=subprocess.DEVNULL) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        with serve(Controller(target), port=port):
            assert waiting.wait(2 * WAIT) == 0


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(SwitchUnreachableError, match=r"'no switch here', does not resolve"):
        ControlClient("no switch here:50551", timeout=WAIT)


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "no switch: it does not speak gRPC"),
        (b"", "takes connections and says nothing"),
    ],
)
def test_a_server_of_another_kind(says: bytes, told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign, ExitStack() as kept:

        def serve_all() -> None:
            with suppress(OSError):
                while True:
                    kept.enter_context(foreign.accept()[0]).sendall(says)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(serve_all)
            try:
                # One that says nothing is given the whole time.
                with pytest.raises(SwitchUnreachableError, match=told):
                    ControlClient(f"127.0.0.1:{foreign.getsockname()[1]}", timeout=WAIT if says else 0.5)
            finally:
                foreign.shutdown(socket.SHUT_RDWR)


def test_a_grpc_server_that_is_no_switch() -> None:
    foreign = grpc.server(ThreadPoolExecutor(1))
    port = foreign.add_insecure_port("127.0.0.1:0")
    foreign.start()
    with pytest.raises(SwitchUnreachableError, match="speaks gRPC but is no switch"):
        ControlClient(f"127.0.0.1:{port}", timeout=WAIT)
    foreign.stop(0)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(errno.EPERM, "Operation not permitted"), "firewall rule here"),
        (
            OSError(errno.ENETUNREACH, "Network is unreachable"),
            "no way leads from here .*Network is unreachable",
        ),
    ],
)
def test_what_this_machine_forbids(error: OSError, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", refused)
    with pytest.raises(SwitchUnreachableError, match=told):
        ControlClient("127.0.0.1:9", timeout=WAIT)


def test_a_switch_that_starts_late_is_met(target: Any) -> None:
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ControlClient, f"127.0.0.1:{port}", timeout=WAIT, patient=True)
        time.sleep(0.5)
        with serve(Controller(target), port=port):
            waiting.result().close()


@pytest.mark.parametrize("address", ["", ":1", "host:", "host:0", "host:99999", "http://host:1"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UsageError, match="no address of a switch"):
        ControlClient(address)


def test_tokens(target: Any) -> None:
    with serve(Controller(target, token="sécret")) as server:
        for token in ("", "secret", "falsch\n"):
            with pytest.raises(InvalidTokenError, match="SWITCHML_TOKEN"):
                ControlClient(server.address, token=token)
        with ControlClient(server.address, token="sécret") as client:
            with pytest.raises(InvalidTokenError):
                client.join(offer(0, 1, token="wrong"), timeout=WAIT)
            client.join(offer(0, 1, token="sécret"), timeout=WAIT)


def test_a_taken_port(server: ControlServer, target: Any) -> None:
    with pytest.raises(PortInUseError, match=f"127.0.0.1:{server.port} is taken"):
        serve(Controller(target), port=server.port)


def test_errors_of_listening() -> None:
    not_ours = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
    for error, kind, told in (
        (
            OSError(errno.EADDRINUSE, "in use"),
            PortInUseError,
            r"UDP port 10\.0\.0\.1:7 is taken.*another --port",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), UsageError, "choose one above 1023"),
        (not_ours, UsageError, r"cannot listen on '10\.0\.0\.1'.*an address of this machine"),
    ):
        answer = listen_error(error, "UDP", "10.0.0.1", 7, "--port")
        assert type(answer) is kind
        assert re.search(told, str(answer))


def test_a_host_of_another_machine(target: Any) -> None:
    with pytest.raises(UsageError, match=r"cannot listen on '192\.0\.2\.1'"):
        serve(Controller(target), "192.0.2.1")


def test_several_switches_in_one_process(
    make_target: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    servers = [serve(Controller(make_target())) for _ in range(3)]
    try:
        for server in servers:
            with ControlClient(server.address) as client:
                client.join(offer(0, 1), timeout=WAIT)
    finally:
        for server in servers:
            server.close(0)
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []
    assert not [thread for thread in threading.enumerate() if thread.name == "switchml-control"]


@pytest.mark.parametrize("support", ["", "0", "1"])
def test_a_process_that_forks_keeps_its_membership(
    controller: Controller, server: ControlServer, support: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    process = subprocess.run(
        [sys.executable, "-c", FORKING, server.address],
        env={**environment, "GRPC_ENABLE_FORK_SUPPORT": support} if support else environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "ok\n", "")
    assert [job.reason for job in controller.status().ended] == ["all ranks have left"]


FORKING = """
import gc, multiprocessing, os, sys, threading, time
from switchml.control.client import ControlClient
from switchml.control.control_messages import JoinOffer
from switchml.errors import WorkerClosedError

client = ControlClient(sys.argv[1])
client.join(JoinOffer("job", 0, 1, address="127.0.0.1", port=2000), timeout=30)
client.ready(multicast=False, timeout=30)
aborted = []
client.start_heartbeats(aborted.append)

def child(results):
    global client
    try:
        client.status()
    except WorkerClosedError:
        results.put("refused")
    client.leave()
    client.close()
    del client
    gc.collect()

def ask():
    while not done.is_set():
        client.slot(0)

# Forks fall into the middle of calls.
done = threading.Event()
asking = threading.Thread(target=ask)
asking.start()
fork = multiprocessing.get_context("fork")
results = fork.Queue()
children = [fork.Process(target=child, args=(results,)) for _ in range(4)]
for each in children:
    each.start()
for each in children:
    assert results.get(timeout=20) == "refused"
    each.join(20)
    assert each.exitcode == 0
pid = os.fork()
if pid == 0:
    sys.exit(0)  # runs what is registered for the interpreter's end
assert os.waitpid(pid, 0)[1] == 0
done.set()
asking.join()
time.sleep(3)  # longer than the lease
assert not aborted, aborted
assert client.status().jobs[0].state == "running"
client.close()
print("ok")
"""


def test_what_is_no_message_is_an_invalid_argument(server: ControlServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        for method in ("Switch/Join", "Switch/Heartbeat", "Session/UdpSession", "Sync/Barrier"):
            package = "switchml.control.v1" if method.startswith("Switch") else "switchml_proto"
            call = channel.unary_unary(f"/{package}.{method}")
            with pytest.raises(grpc.RpcError) as refused:
                call(b"\xff\xff\xff", timeout=WAIT)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method


FLOOD = """
import collections, os, sys, time
import grpc
from switchml.control.control_messages import JoinOffer
from switchml.control.convert import offer_to_pb
from switchml.control.switch_pb2_grpc import SwitchStub

channel = grpc.insecure_channel(sys.argv[1])
stub = SwitchStub(channel)
calls = []
for index in range(3000):
    offer = JoinOffer(f"half{index}", 0, 2, address="127.0.0.1", port=3000 + index)
    calls.append(stub.Join.future(offer_to_pb(offer, f"s{index}", 600.0)))
# The fake switch takes 1,024 workers a job, so a host has twice as many half-made joins.
while sum(call.done() for call in calls) < 3000 - 2048:
    time.sleep(0.05)
print(*{call.code().name for call in calls if call.done()}, flush=True)
sys.stdin.read()
os._exit(0)
"""


def test_thousands_of_half_made_joins_end_no_job(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Controller(target, lease=20.0)
    with serve(controller) as server, ControlClient(server.address) as client:
        client.join(offer(0, 1), timeout=WAIT)
        client.ready(multicast=False, timeout=WAIT)
        aborted: list[str] = []
        client.start_heartbeats(aborted.append)
        command = [sys.executable, "-c", FLOOD, server.address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
            assert stranger.stdout is not None
            codes = set(stranger.stdout.readline().split())
            # gRPC itself drops calls of so many, on a busy machine all of them.
            assert codes
            assert codes <= {"RESOURCE_EXHAUSTED", "CANCELLED"}
            wait_until(lambda: len(controller.status().jobs) > 1000)
            beats: list[str] = []
            beat = controller.heartbeat
            monkeypatch.setattr(
                controller, "heartbeat", lambda session, *said: beats.append(session) or beat(session, *said)
            )
            wait_until(lambda: len(beats) >= 1 or bool(aborted))
            assert not aborted
            stranger.communicate()
        wait_until(lambda: [job.name for job in controller.status().jobs] == ["job"])


class _Overloaded(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Ends heartbeats with a status, as gRPC itself does under load."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = code
        self.ended = 0
        self.on = False

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if not details.method.endswith("/Heartbeat"):
            return handler

        async def answer(request: Any, context: Any) -> Any:
            if self.on:
                self.ended += 1
                await context.abort(self.code, "overloaded")
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )


@pytest.mark.parametrize("code", ["CANCELLED", "UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_a_heartbeat_that_an_overloaded_switch_drops_ends_no_job(
    code: str, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    overloaded = _Overloaded(grpc.StatusCode[code])
    monkeypatch.setattr(ControlServer, "interceptors", lambda self: [overloaded])
    with serve(controller) as server, ControlClient(server.address) as client:
        client.join(offer(0, 1), timeout=WAIT)
        client.ready(multicast=False, timeout=WAIT)
        aborted: list[str] = []
        client.start_heartbeats(aborted.append)
        overloaded.on = True
        wait_until(lambda: overloaded.ended >= 1)
        overloaded.on = False
        time.sleep(2.5)  # more than a lease
        assert not aborted
        # It is not for ever that it is tried.
        overloaded.on = True
        wait_until(lambda: len(aborted) == 1)
        assert "2 s" in aborted[0] or "not been heard" in aborted[0]
