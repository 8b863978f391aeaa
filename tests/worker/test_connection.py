"""Which transport "auto" takes."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from switchml.control import embedded
from switchml.control.target import TargetDescription
from switchml.worker.connection import shares_memory


def target(door: str) -> TargetDescription:
    return TargetDescription("127.0.0.1", 1, door, 1, 64, 2)


def closes(connection: socket.socket) -> None:
    connection.recv(64)


def is_silent(connection: socket.socket) -> None:
    connection.recv(64)
    connection.recv(64)  # until the other has lost patience


def is_something_else(connection: socket.socket) -> None:
    connection.send(b"220 mail")


def is_a_switch(connection: socket.socket) -> None:
    assert connection.recv(64) == b"?"
    connection.send(b"{}")


@pytest.fixture
def door(request: pytest.FixtureRequest) -> Iterator[str]:
    """Answers one caller as the parameter does."""
    answer: Callable[[socket.socket], None] = request.param
    name = f"switchml-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield name
        thread.join()


@pytest.mark.parametrize(
    ("door", "shared"),
    [(closes, False), (is_silent, False), (is_something_else, False), (is_a_switch, True)],
    indirect=["door"],
)
def test_memory_is_shared_where_the_door_opens(
    door: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switchml.worker.connection._ANSWER_SECONDS", 0.5 if not shared else 5.0)
    assert shares_memory(target(door)) is shared


def test_where_there_is_no_door_nothing_is_shared() -> None:
    assert not shares_memory(target(""))
    assert not shares_memory(target("switchml-nobody-listens"))


SECOND_USER = """
import json, os, sys
from switchml.errors import JoinError
from switchml.worker import Worker

def transport(name):
    with Worker.join(sys.argv[1], job=f"{name}-{os.geteuid()}", rank=0, world_size=1, transport=name,
                     token=os.environ["TOKEN"]) as worker:
        return worker.transport

told = [transport("auto")]
os.seteuid(65534)  # all that has to be loaded is: this user may not read it
told.append(transport("auto"))
try:
    transport("shm")
except JoinError as error:
    told.append(str(error))
print(json.dumps(told))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_a_second_user_on_a_switch_of_root_gets_udp() -> None:
    with embedded.start() as switch:
        ended = subprocess.run(
            [sys.executable, "-P", "-c", SECOND_USER, switch.address],
            env=os.environ | {"TOKEN": switch.token},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    of_root, of_another, refusal = json.loads(ended.stdout)
    assert (of_root, of_another) == ("memory", "udp")
    assert "not give its shared memory to this user" in refusal
