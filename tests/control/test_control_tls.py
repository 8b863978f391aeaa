from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tls_files import Files

from switchml.control.client import ControlClient
from switchml.control.control_messages import JoinOffer
from switchml.control.controller import Controller
from switchml.control.server import serve
from switchml.control.tls import ClientTls, ServerTls
from switchml.errors import InvalidTokenError, SwitchUnreachableError, TlsError, UsageError

WAIT = 60.0  # seconds; what is at once must not need them, and a loaded machine may


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_join_over_tls(target: Any, files: Files) -> None:
    with serve(Controller(target, token="secret"), tls=ServerTls(*files.server)) as server:
        for tls in (ClientTls(files.ca), ClientTls(files.ca, server_name="switch.test")):
            with ControlClient(server.address, token="secret", tls=tls) as client:
                offer = JoinOffer("job", 0, 1, address="127.0.0.1", port=2000)
                assert client.join(offer, timeout=30).window == 512


def test_a_switch_may_ask_for_the_workers_certificate(target: Any, files: Files) -> None:
    with serve(Controller(target), tls=ServerTls(*files.server, client_ca=files.ca)) as server:
        with ControlClient(server.address, tls=ClientTls(files.ca, *files.client)) as client:
            assert client.discover() == target.describe()
        with pytest.raises(
            TlsError, match=r"wants a certificate .* was shown none; give one with --tls-cert"
        ):
            ControlClient(server.address, timeout=WAIT, tls=ClientTls(files.ca))
        with pytest.raises(TlsError, match=r"wants a certificate .* does not take .*stranger\.test\.pem"):
            ControlClient(server.address, timeout=WAIT, tls=ClientTls(files.ca, *files.stranger))


def test_strangers_and_plain_text_are_told_apart(target: Any, files: Files) -> None:
    with serve(Controller(target), tls=ServerTls(*files.server)) as server:
        for tls, told in (
            (None, "wants TLS: .*--tls-ca or SWITCHML_TLS_CA"),
            (ClientTls(files.other_ca), r"not to be trusted: .*other\.pem"),
            (ClientTls(), "checked against the system's authorities"),
            (ClientTls(files.ca, server_name="elsewhere.test"), "not to be trusted: .*elsewhere"),
        ):
            with pytest.raises(TlsError, match=told) as raised:
                ControlClient(server.address, timeout=WAIT, tls=tls)
            assert server.address in str(raised.value)


def test_a_switch_without_tls_is_never_spoken_to_in_the_clear(target: Any, files: Files) -> None:
    with serve(Controller(target)) as server, pytest.raises(TlsError, match="does not speak TLS"):
        ControlClient(server.address, timeout=WAIT, tls=ClientTls(files.ca))


def test_files_that_cannot_be_used(target: Any, files: Files, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(UsageError, match=r"missing\.pem: No such file"):
        serve(Controller(target), tls=ServerTls(missing, missing))
    with pytest.raises(UsageError, match=r"missing\.pem: No such file"):
        ControlClient("127.0.0.1:1", tls=ClientTls(missing))
    with pytest.raises(UsageError, match="go together"):
        ControlClient("127.0.0.1:1", tls=ClientTls(files.ca, certificate=files.client[0]))


def test_p4runtime_has_the_tls_and_the_token_of_the_control_service(files: Files) -> None:
    pytest.importorskip("google.rpc.status_pb2", reason="the extra p4runtime is not installed")
    from switchml.control.p4runtime.p4runtime_client import P4RuntimeClient
    from switchml.switch_emulator.native_runtime import NativeDevice
    from switchml.switch_emulator.native_target import EmulatorTarget
    from switchml.switch_emulator.p4runtime.p4runtime_server import serve as serve_p4runtime

    native = EmulatorTarget()
    try:
        tls = ServerTls(*files.server, client_ca=files.ca)
        with serve_p4runtime(NativeDevice(native), tls=tls, token="secret") as server:
            mine = ClientTls(files.ca, *files.client)
            with P4RuntimeClient(server.address, token="secret", tls=mine) as client:
                assert not client.lost
            with pytest.raises(InvalidTokenError):
                P4RuntimeClient(server.address, election_id=2, tls=mine)
            for stranger in (None, ClientTls(files.ca)):
                with pytest.raises(SwitchUnreachableError):
                    P4RuntimeClient(server.address, token="secret", tls=stranger, timeout=1.0)
    finally:
        native.close()
