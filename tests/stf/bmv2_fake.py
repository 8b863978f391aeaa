"""Stands for BMv2 where it is not installed: `bmv2_fake.py switch ...` and `bmv2_fake.py cli ...`.

The switch reads its ports' packet files as simple_switch does, merged by time, and sends each packet through the next port; the
CLI answers in BMv2's words and keeps what it was told in cli.log beside the switch's program.
"""

from __future__ import annotations

import heapq
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

_RECORD = struct.Struct("=IIII")

# A packet that begins so kills the switch, as a division by zero does simple_switch.
DEADLY = b"\xde\xad"

ANSWERS = {
    "table_add": "Adding entry to exact match table t\nEntry has been added with handle 7",
    "table_delete": "Deleting entry 7 from t",
    "counter_read": "in.c[2]=  (600 bytes, 5 packets)",
    "register_read": "register index 3\nin.r[3]= 77",
    "mc_node_create": "Creating node with rid 1\nnode was created with handle 0",
    "meter_set_rates": "Error: Invalid meter name (in.m)",
}


def _packets(pipe: BinaryIO, port: int) -> Iterator[tuple[int, int, bytes]]:
    pipe.read(24)
    while head := pipe.read(_RECORD.size):
        seconds, fraction, length, _ = _RECORD.unpack(head)
        yield seconds * 1_000_000 + fraction, port, pipe.read(length)


def switch(arguments: list[str]) -> None:
    if "--help" in arguments:
        print("Options:\n  --thrift-port arg\n  --notifications-addr arg")
        return
    program = Path(arguments[-1])
    if program.name == "broken.json":
        sys.exit("Error when parsing JSON\nNo such thing")
    assert arguments[arguments.index("--notifications-addr") + 1].startswith("ipc://")
    thrift = socket.create_server(("127.0.0.1", int(arguments[arguments.index("--thrift-port") + 1])))
    ports = dict(word.split("@") for word in arguments if "@" in word)
    with ExitStack() as opened:
        pipes = [opened.enter_context(open(f"{name}_in.pcap", "rb")) for name in ports.values()]
        outs = {
            int(port): opened.enter_context(open(f"{name}_out.pcap", "wb", buffering=0))
            for port, name in ports.items()
        }
        for out in outs.values():
            out.write(bytes(24))
        for moment, port, frame in heapq.merge(*map(_packets, pipes, map(int, ports))):
            if frame.startswith(DEADLY):
                os.kill(os.getpid(), signal.SIGKILL)
            if port + 1 in outs:
                record = _RECORD.pack(*divmod(moment, 1_000_000), len(frame), len(frame))
                outs[port + 1].write(record + frame)
    while True:
        thrift.accept()[0].close()


def cli() -> None:
    with open(os.environ["BMV2_FAKE_LOG"], "a") as log:
        print("Obtaining JSON from switch...\nDone")
        print("RuntimeCmd: ", end="", flush=True)
        for line in sys.stdin:
            log.write(line)
            log.flush()
            print(ANSWERS.get(line.split()[0], ""))
            print("RuntimeCmd: ", end="", flush=True)


if __name__ == "__main__":
    switch(sys.argv[2:]) if sys.argv[1] == "switch" else cli()
