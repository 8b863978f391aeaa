"""A system under test that needs nothing but a Unix socket, and that fails in the ways real ones do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from preloaded import Template

from switchml.bench import rank_group, script_ranks
from switchml.bench.systems.catalogue import Entry
from switchml.bench.verification import ELEMENT_TYPES, OPERATIONS

FAKE = '''
import os, pickle, time
from multiprocessing.connection import Client, Listener
from pathlib import Path
import numpy as np
from switchml.bench.verification import element_type, from_float64, to_float64
from switchml.errors import UsageError

FOLDS = {"sum": np.add, "avg": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum,
         "band": np.bitwise_and, "bor": np.bitwise_or, "bxor": np.bitwise_xor}


def connected(path):
    while True:  # a socket has its name before it listens
        try:
            return Client(path, "AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.005)


class Fake:
    """Rank 0 collects, reduces and hands out."""

    def open(self, place):
        self.place, self.fault, self.sent = place, place.options.get("fault", ""), 0
        if self.fault == "refuse":
            raise UsageError("nobody may join")
        path = str(Path(place.rendezvous) / "fake")
        if place.rank == 0:
            with Listener(path, "AF_UNIX") as listener:
                self.links = [listener.accept() for _ in range(place.world_size - 1)]
        else:
            self.links = [connected(path)]

    def exchange(self, value, fold):
        if self.place.rank == 0:
            for link in self.links:
                value = fold(value, link.recv())
            for link in self.links:
                link.send(value)
            return value
        self.links[0].send(value)
        return self.links[0].recv()

    def allreduce(self, buffer, dtype, op):
        self.sent += 1
        if self.fault == "crash":
            raise ZeroDivisionError("a bug")
        if self.fault == "die" and self.place.rank == 1:
            os._exit(3)
        if self.fault == "hang" and self.place.rank == 1:
            time.sleep(600)
        kind = element_type(dtype)
        values = to_float64(kind, buffer) if kind.floating else buffer.copy()
        total = self.exchange(values, FOLDS[op])
        if op == "avg":
            total = total / self.place.world_size
        buffer[:] = from_float64(kind, total) if kind.floating else total
        if self.fault == "wrong":
            buffer[0] += 1

    def barrier(self):
        self.exchange(0, lambda a, b: 0)

    def error_bound(self):
        return 0.0

    def counters(self):
        return {"retransmissions": self.place.options.get("retransmissions", 0) * self.sent}

    def describe(self):
        return {"payload": 1024, "rank": self.place.rank}

    def close(self):
        for link in self.links:
            link.close()
'''


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Entry]:
    """Makes a catalogue entry of the fake; keywords are options of the system."""
    (tmp_path / "fake_system.py").write_text(textwrap.dedent(FAKE))

    def make(name: str = "fake", **options: Any) -> Entry:
        return Entry(
            name=name,
            rank="fake_system:Fake",
            launcher="processes",
            requires=(),
            extra="",
            in_namespaces=True,
            ring=False,
            dtypes=frozenset(ELEMENT_TYPES),
            operations=frozenset(OPERATIONS),
            options=options,
            environment={"PYTHONPATH": str(tmp_path)},
        )

    return make


@pytest.fixture
def preloaded_ranks(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks outside of namespaces find torch imported."""

    def popen(argv: list[str], **options: Any) -> subprocess.Popen[Any]:
        if argv[0] != sys.executable:
            return subprocess.Popen(argv, **options)
        return template.popen(argv, **options)

    for module in (rank_group, script_ranks):
        monkeypatch.setattr(module, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": popen}))
