"""Switch, workers and commands over mutual TLS, each told of it by options or by variables."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_ports import MemoryPorts
from tls_files import Files

from switchml.control import embedded
from switchml.control.embedded import EmbeddedSwitch
from switchml.control.p4runtime.p4runtime_client import P4RuntimeClient
from switchml.control.tls import ClientTls, TlsFiles
from switchml.errors import TlsError, UsageError
from switchml.switch_emulator.p4_emulator import P4Emulator
from switchml.worker import Worker

WAIT = 60.0  # seconds; what is at once must not need them, and a loaded machine may


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


def options(files: Files, certificate: tuple[Path, Path]) -> list[str]:
    return ["--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]), "--tls-ca", str(files.ca)]


@pytest.fixture(scope="module")
def switch(files: Files) -> Iterator[EmbeddedSwitch]:
    command = [*embedded.emulator("127.0.0.1"), *options(files, files.server)]
    with embedded.start(command=command, tls=TlsFiles()) as running:
        yield running
        running.close(grace=0)


def join(switch: EmbeddedSwitch, rank: int, world_size: int, **settings: Any) -> Worker:
    settings = {"token": switch.token, **settings}
    return Worker.join(
        switch.address, job="tls", rank=rank, world_size=world_size, join_timeout=WAIT, **settings
    )


def status(switch: EmbeddedSwitch, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "switchml.cli", "status", "--json", "--switch", switch.address]
    return subprocess.run(
        [*command, "--token", switch.token, "--timeout", str(WAIT), *words],
        capture_output=True,
        text=True,
        timeout=2 * WAIT,
    )


def test_two_workers_and_a_look_at_their_switch(
    switch: EmbeddedSwitch, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"tls_cert": files.client[0], "tls_key": files.client[1], "tls_ca": files.ca}
    for name, file in given.items():
        monkeypatch.setenv(f"SWITCHML_{name.upper()}", str(file))
    monkeypatch.setenv("SWITCHML_TOKEN", switch.token)

    def rank(number: int) -> float:
        # One is told by arguments, the other by the environment.
        settings: dict[str, Any] = {"token": None} if number else given
        with join(switch, number, 2, **settings) as worker:
            sums = worker.allreduce(np.full(10, number + 1.0, np.float32)).wait()
            if number == 0:
                done = status(switch)  # by the environment
                assert done.returncode == 0, done.stderr
                assert [job["name"] for job in json.loads(done.stdout)["jobs"]] == ["tls"]
            worker.barrier().wait()
            return float(sums[0])

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(rank, range(2))) == [3.0, 3.0]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "wants TLS"),
        ({"tls_ca": "ca"}, "wants a certificate .* was shown none"),
        ({"tls_ca": "other_ca", "tls_cert": "client", "tls_key": "client"}, "not to be trusted"),
        ({"tls_ca": "ca", "tls_cert": "stranger", "tls_key": "stranger"}, "does not take"),
    ],
)
def test_a_worker_that_does_not_fit_is_told_at_once(
    switch: EmbeddedSwitch, files: Files, wrong: dict[str, str], told: str
) -> None:
    found = {name: getattr(files, name) for name in ("ca", "other_ca")}
    pairs = {name: getattr(files, name) for name in ("client", "stranger")}
    given = {
        option: pairs[name][option == "tls_key"] if name in pairs else found[name]
        for option, name in wrong.items()
    }
    with pytest.raises(TlsError, match=told):
        join(switch, 0, 1, **given)


def test_a_command_takes_options(switch: EmbeddedSwitch, files: Files) -> None:
    assert status(switch, *options(files, files.client)).returncode == 0
    plain = status(switch)
    assert plain.returncode == 1
    assert plain.stderr.startswith("switchml: the switch at")
    assert "wants TLS" in plain.stderr


def test_an_embedded_switch_speaks_tls_where_its_starter_does(files: Files) -> None:
    tls = TlsFiles(*files.server, files.ca)
    with embedded.start(tls=tls) as switch:
        with join(switch, 0, 1, tls_cert=tls.certificate, tls_key=tls.key, tls_ca=tls.ca) as worker:
            assert worker.window
        with pytest.raises(TlsError):
            join(switch, 0, 1)
        switch.close(grace=0)


def test_p4runtime_speaks_tls_where_the_switch_does(files: Files) -> None:
    tls = TlsFiles(*files.server, files.ca).server()
    with P4Emulator(MemoryPorts(), None, p4runtime=("127.0.0.1", 0), tls=tls) as emulator:
        address = emulator.p4runtime_address
        P4RuntimeClient(address, timeout=WAIT, tls=ClientTls(files.ca, *files.client)).close()
        for wrong in (None, ClientTls(files.ca), ClientTls(files.other_ca)):
            with pytest.raises(TlsError):
                P4RuntimeClient(address, timeout=1.0, tls=wrong)


def test_an_embedded_switch_without_a_certificate_is_refused(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHML_TLS_CA", str(files.ca))
    with pytest.raises(UsageError, match="--tls-cert and --tls-key"):
        embedded.start()
