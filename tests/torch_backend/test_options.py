"""Options of a group and the environment behind them."""

from __future__ import annotations

import copy
from datetime import timedelta
from pathlib import Path

import pytest

from switchml.control.tls import TlsFiles
from switchml.errors import UsageError
from switchml.torch_backend.options import Options


def test_the_environment_gives_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SWITCH": "h:1",
        "TOKEN": "t",
        "TRANSPORT": "udp",
        "PAYLOAD": "1024",
        "WINDOW": "64",
        "TLS_CERT": "c",
        "TLS_KEY": "k",
        "TLS_CA": "a",
    }.items():
        monkeypatch.setenv(f"SWITCHML_{name}", value)
    assert Options() == Options(
        switch="h:1",
        token="t",
        transport="udp",
        payload=1024,
        window=64,
        tls_cert="c",
        tls_key="k",
        tls_ca="a",
    )
    assert Options().tls == TlsFiles(Path("c"), Path("k"), Path("a"))
    assert Options(transport="shm").transport == "shm"


def test_an_empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SWITCH",
        "TOKEN",
        "TRANSPORT",
        "PAYLOAD",
        "WINDOW",
        "WIRE",
        "TLS_CERT",
        "TLS_KEY",
        "TLS_CA",
    ):
        monkeypatch.setenv(f"SWITCHML_{name}", " ")
    assert Options() == Options(switch="", token="", transport="auto", payload=0, window=0, wire="float32")
    assert not Options().tls


@pytest.mark.parametrize(
    "wrong",
    [{"transport": "tcp"}, {"payload": -1}, {"window": -1}, {"wire": "int4"}, {"timeout": timedelta(0)}],
)
def test_values_that_cannot_be_meant(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Options(**wrong)  # type: ignore[arg-type]


def test_a_number_that_is_none_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHML_WINDOW", "many")
    with pytest.raises(UsageError, match="SWITCHML_WINDOW='many'"):
        Options()


def test_what_device_mesh_reads_and_copies() -> None:
    options = Options(timeout=timedelta(seconds=3))
    assert options._timeout == timedelta(seconds=3)
    options._timeout = timedelta(seconds=4)
    assert copy.deepcopy(options).timeout == timedelta(seconds=4)


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(Options(token="secret"))
