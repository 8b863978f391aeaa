"""Interfaces that carry frames as a wire does, and namespaces of other processes. Needs root; skipped elsewhere."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from switchml.testbed import Namespace, TestbedError, why_unavailable
from switchml.testbed.offload import switch_off_offloads

REASON = why_unavailable()
needs_root = pytest.mark.skipif(REASON is not None, reason=f"no testbed here: {REASON}")
pytestmark = [pytest.mark.timeout(60), pytest.mark.namespaces]

UDP_SEGMENT = 103
ETH_P_IP = 0x0800


@needs_root
def test_frames_are_cut_and_checksummed_before_they_leave() -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    from switchml.testbed.star import Star, worker_address

    def raw() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        sock.bind((Star.interface, ETH_P_IP))
        sock.settimeout(10)
        return sock

    def send_train() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(17, UDP_SEGMENT, 500)
            sock.sendto(bytes(range(250)) * 8, (worker_address(1), 9))

    with Star(2) as star:
        star.workers[0].call(switch_off_offloads, Star.interface)
        with star.workers[1].call(raw) as receiver:
            star.workers[0].call(send_train)
            frames = [receiver.recv(65536) for _ in range(4)]
    for frame in frames:
        packet = Ether(frame)
        assert len(packet[UDP].payload) == 500
        del packet[IP].chksum, packet[UDP].chksum
        assert bytes(packet) == frame


@needs_root
def test_an_interface_that_is_not_there() -> None:
    with Namespace("bare") as namespace, pytest.raises(TestbedError, match="nosuch0"):
        namespace.call(switch_off_offloads, "nosuch0")


@needs_root
def test_the_namespace_of_a_process() -> None:
    with Namespace("made") as made:
        child = made.popen(["sleep", "60"], stdin=subprocess.DEVNULL)
        with Namespace.of_process(child.pid, "found") as found:
            inside = found.call(os.readlink, "/proc/thread-self/ns/net")
        assert inside == os.readlink(f"/proc/{child.pid}/ns/net")
        assert inside != os.readlink("/proc/self/ns/net")
        assert child.poll() is None, "letting go of the namespace does not end what runs there"


def test_a_process_that_is_gone() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(TestbedError, match=str(child.pid)):
        Namespace.of_process(child.pid)
