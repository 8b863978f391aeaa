"""Namespaces and shaped links, with real sockets. Needs root; skipped with the reason elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from switchml.testbed import LinkShape, Namespace, TestbedError, why_unavailable

REASON = why_unavailable()
needs_root = pytest.mark.skipif(REASON is not None, reason=f"no testbed here: {REASON}")
pytestmark = [pytest.mark.timeout(60), pytest.mark.namespaces]

if REASON is None:
    from pyroute2 import IPRoute

    from switchml.testbed.link import has_netem, shape_egress
    from switchml.testbed.star import Star, rack_address, worker_address

UDP_SEGMENT = 103
UDP_GRO = 104
GROUP = "239.83.77.1"


@pytest.fixture
def star() -> Iterator[Star]:
    with Star(3) as made:
        yield made


def namespace_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def udp(address: str = "0.0.0.0", port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)  # SO_RCVBUFFORCE
    made.bind((address, port))
    made.settimeout(2.0)
    return made


def send_many(sender: socket.socket, target: tuple[str, int], payload: bytes, packets: int) -> None:
    for _ in range(packets):
        sender.sendto(payload, target)


def received(receiver: socket.socket, quiet: float = 0.3) -> list[bytes]:
    """All datagrams that come until it is quiet for so many seconds."""
    receiver.settimeout(quiet)
    datagrams = []
    try:
        while True:
            datagrams.append(receiver.recv(65536))
    except TimeoutError:
        return datagrams


@needs_root
def test_a_namespace_is_apart_and_leaves_the_caller_where_it_was() -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    with Namespace("apart") as namespace:
        inside = namespace.call(os.readlink, "/proc/thread-self/ns/net")
        assert inside != before
        assert os.readlink("/proc/thread-self/ns/net") == before
        names = namespace.run(["cat", "/proc/net/dev"], capture_output=True, text=True).stdout
        assert "lo:" in names
        assert "eth0" not in names
    with pytest.raises(TestbedError, match="closed"):
        namespace.call(os.getpid)


@needs_root
def test_an_exception_inside_reaches_the_caller() -> None:
    with Namespace() as namespace, pytest.raises(ZeroDivisionError):
        namespace.call(lambda: 1 // 0)


@needs_root
def test_close_ends_the_processes_inside() -> None:
    namespace = Namespace("busy")
    child = namespace.popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert namespace_of(child.pid) != namespace_of(os.getpid())
    namespace.close()
    namespace.close()
    assert child.returncode == -signal.SIGTERM


@needs_root
def test_workers_and_hub_reach_each_other(star: Star) -> None:
    receiver = star.workers[2].call(udp, worker_address(2), 6000)
    for sender in (star.hub.call(udp), star.workers[0].call(udp)):
        sender.sendto(b"hello", (worker_address(2), 6000))
        assert receiver.recv(100) == b"hello"
        sender.close()
    receiver.close()


@needs_root
@pytest.mark.parametrize("rate", [0, 10**9])
def test_one_multicast_train_from_the_hub_reaches_every_worker_as_a_train(rate: int) -> None:
    segment, segments = 1034, 60
    with Star(3, LinkShape(rate=rate)) as star:

        def member(rank: int) -> socket.socket:
            made = udp(GROUP, 6001)
            made.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
            membership = socket.inet_aton(GROUP) + socket.inet_aton(worker_address(rank))
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            return made

        members = [worker.call(member, rank) for rank, worker in enumerate(star.workers)]
        sender = star.hub.call(udp, star.hub_address)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(star.hub_address))
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, segment)
        payload = os.urandom(segment * segments)
        sender.sendto(payload, (GROUP, 6001))
        for made in members:
            data, control, _flags, _sender = made.recvmsg(1 << 16, 64)
            assert data == payload
            assert struct.unpack("i", control[0][2][:4])[0] == segment
            assert received(made, quiet=0.05) == []
            made.close()
        sender.close()


@needs_root
def test_tbf_holds_the_rate_in_both_directions() -> None:
    rate, packets, size = 50_000_000, 400, 1400
    with Star(2, LinkShape(rate=rate)) as star:
        hub_end = star.hub.call(udp, star.hub_address, 6002)
        worker_end = star.workers[0].call(udp, worker_address(0), 6002)
        for sender, receiver in ((hub_end, worker_end), (worker_end, hub_end)):
            flood = threading.Thread(
                target=send_many, args=(sender, receiver.getsockname(), bytes(size), packets)
            )
            started = time.monotonic()
            flood.start()
            for _ in range(packets):
                receiver.recv(2000)
            elapsed = time.monotonic() - started
            flood.join()
            # A lower bound only: a busy machine may be slower, a shaped link may not be faster.
            bits = 8 * (packets * (size + 42) - star.shape.burst)
            assert elapsed >= 0.98 * bits / rate
        hub_end.close()
        worker_end.close()


@needs_root
def test_loss_is_near_what_was_asked_and_hits_single_packets_of_a_train() -> None:
    reason = why_unavailable(loss=True)
    if reason is not None:
        pytest.skip(f"no loss here: {reason}")
    with Star(2, LinkShape(loss=0.1)) as star:
        receiver = star.workers[1].call(udp, worker_address(1), 6003)
        sender = star.hub.call(udp, star.hub_address)
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 100)
        for train in range(200):
            sender.sendto(bytes([train]) * (100 * 50), (worker_address(1), 6003))
            time.sleep(0.0005)
        of_train = Counter(datagram[0] for datagram in received(receiver))
        assert 0.85 < of_train.total() / (200 * 50) < 0.95
        # Of 50 packets at a tenth each, one train in 200 is whole and none is lost; whole trains would have 0 or 50.
        assert sum(0 < count < 50 for count in of_train.values()) > 150
        sender.close()
        receiver.close()


@needs_root
def test_an_interface_is_not_delayed_where_the_kernel_has_no_netem() -> None:
    def delay_loopback() -> None:
        with IPRoute() as route:
            shape_egress(route, 1, LinkShape(delay=0.02))

    with Namespace() as namespace:
        if namespace.call(has_netem):
            namespace.call(delay_loopback)
        else:
            with pytest.raises(TestbedError, match="sch_netem"):
                namespace.call(delay_loopback)


@needs_root
def test_a_queue_is_as_long_with_netem_around_it() -> None:
    made: list[tuple[object, ...]] = []

    class Route:
        def tc(self, *arguments: object, **keywords: object) -> None:
            made.append((arguments[1], keywords.get("parent"), keywords["limit"]))

    shape_egress(Route(), 7, LinkShape(rate=10**8, delay=0.01))  # type: ignore[arg-type]
    assert made == [("netem", None, 1_000_000), ("tbf", 0x2_0001, 262144)]


@needs_root
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_maker_is_killed(ending: signal.Signals) -> None:
    script = (
        "import os, sys, time\n"
        "from switchml.testbed.star import Star\n"
        "star = Star(2)\n"
        "star.hub.popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin=-1)\n"
        "print(star.hub.call(os.readlink, '/proc/thread-self/ns/net'), flush=True)\n"
        "time.sleep(600)\n"
    )
    before = set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()
    maker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    inode = maker.stdout.readline().strip()
    assert inode.startswith("net:")
    maker.send_signal(ending)
    maker.wait(10)
    maker.stdout.close()
    deadline = time.monotonic() + 10
    while _somebody_is_in(inode) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _somebody_is_in(inode)
    assert (set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()) == before


def _somebody_is_in(inode: str) -> bool:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if namespace_of(int(pid)) == inode:
                return True
        except OSError:
            continue
    return False


@needs_root
def test_a_star_that_cannot_be_built_says_why() -> None:
    with pytest.raises(TestbedError, match="1 to 200"):
        Star(0)


@pytest.mark.parametrize(
    ("keywords", "word"),
    [
        ({"loss": 1.0}, "probability"),
        ({"rate": -1}, "negative"),
        ({"rate": 40 * 10**9}, "34 Gbit"),
        ({"delay": -0.1}, "seconds"),
        ({"burst": 0}, "burst=0"),
        ({"queue": 1599}, "must hold 1600 bytes"),
    ],
)
def test_impossible_shapes_are_refused(keywords: dict[str, float], word: str) -> None:
    with pytest.raises(TestbedError, match=word):
        LinkShape(**keywords)  # type: ignore[arg-type]


@needs_root
@pytest.mark.parametrize(
    ("shape", "burst", "limit"),
    [
        (LinkShape(rate=10**8), 65536, 262144),  # of the default queue a quarter: less than a train
        (LinkShape(rate=10**8, queue=4 << 20), 73728, 4 << 20),
        (LinkShape(rate=10**8, queue=64 << 10), 16384, 64 << 10),
        (LinkShape(rate=10**8, queue=4000), 1600, 4000),
        (LinkShape(rate=10**8, burst=10), 1600, 262144),
    ],
)
def test_a_burst_is_at_most_a_quarter_of_the_queue_and_holds_a_packet(
    shape: LinkShape, burst: int, limit: int
) -> None:
    made: list[tuple[tuple[object, ...], dict[str, object]]] = []

    class Route:
        def tc(self, *arguments: object, **keywords: object) -> None:
            made.append((arguments, keywords))

    shape_egress(Route(), 7, shape)  # type: ignore[arg-type]
    assert made == [
        (("add", "tbf", 7, 0x1_0000), {"rate": 12_500_000, "burst": burst, "limit": limit}),
    ]


@needs_root
def test_without_capabilities_the_error_says_what_to_do() -> None:
    script = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
        "assert libc.capset(header, (ctypes.c_uint32 * 6)()) == 0\n"
        "from switchml.testbed import Namespace, TestbedError\n"
        "try:\n    Namespace()\nexcept TestbedError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert "need root" in done.stdout, done.stderr


@needs_root
def test_a_group_of_a_racks_switch_stays_in_the_rack_and_one_of_the_middle_reaches_all() -> None:
    with Star(4, racks=2) as star:

        def member(rank: int) -> socket.socket:
            made = udp(GROUP, 6004)
            membership = socket.inet_aton(GROUP) + socket.inet_aton(worker_address(rank))
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            return made

        def send(address: str, data: bytes) -> None:
            with udp(address) as sender:
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
                sender.sendto(data, (GROUP, 6004))

        with contextlib.ExitStack() as stack:
            members = [
                stack.enter_context(worker.call(member, rank)) for rank, worker in enumerate(star.workers)
            ]
            star.racks[1].call(send, rack_address(1), b"rack")
            star.hub.call(send, star.hub_address, b"middle")
            in_racks = [[b"middle"], [b"rack", b"middle"]]
            for rank, made in enumerate(members):
                expected = in_racks[star.rack_of(rank)]
                assert sorted(made.recv(64) for _ in expected) == sorted(expected)
                assert received(made, quiet=0.05) == []
        far, near = (star.workers[rank].call(udp, worker_address(rank), 6005) for rank in (3, 0))
        near.sendto(b"across", (worker_address(3), 6005))
        assert far.recv(64) == b"across"
        far.close()
        near.close()


@needs_root
def test_racks_hold_as_many_workers_each() -> None:
    with pytest.raises(TestbedError, match="3 workers in 2 racks"):
        Star(3, racks=2)
