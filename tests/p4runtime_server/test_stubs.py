"""The messages of the package `p4runtime`, under whatever protobuf there is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from switchml import p4runtime_stubs
from switchml.errors import UsageError
from switchml.p4runtime_stubs import p4runtime_pb2 as pb


def test_messages_work() -> None:
    entity = pb.Entity()
    entity.table_entry.match.add(field_id=1).exact.value = b"\x01"
    assert pb.Entity.FromString(entity.SerializeToString()) == entity
    assert pb.Update.Type.Name(pb.Update.INSERT) == "INSERT"
    assert pb.SdnPort.Value("SDN_PORT_CPU") == -3


def test_the_plain_names_work_afterwards() -> None:
    program = (
        "import switchml.p4runtime_stubs\n"
        "from p4.config.v1 import p4info_pb2\n"
        "import p4.v1.p4runtime_pb2 as pb\n"
        "assert pb.ForwardingPipelineConfig(p4info=p4info_pb2.P4Info()).HasField('p4info')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p4runtime_stubs, "_MODULES", ("no_such_package.v1_pb2",))
    with pytest.raises(UsageError, match=r"no_such_package.*switchml\[p4runtime\]"):
        p4runtime_stubs._load()


def test_generated_code_of_another_form_is_refused() -> None:
    assert p4runtime_stubs._descriptor("D = f(name='x', serialized_pb=b'abc')", "x") == b"abc"
    with pytest.raises(UsageError, match="another version"):
        p4runtime_stubs._descriptor("D = f(serialized_pb=other)", "x")


def test_the_switch_can_be_imported_without_them() -> None:
    program = (
        "import sys\n"
        "import switchml, switchml.switch_emulator, switchml.switch_emulator.p4runtime\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'p4'], sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
