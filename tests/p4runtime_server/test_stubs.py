"""The generated messages, under whatever protobuf there is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import switchml.p4runtime
from switchml.p4runtime.stubs import p4runtime_pb2 as pb

FOLDER = Path(switchml.p4runtime.__file__).parent


def _run(program: str, **environment: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=os.environ | environment)


def test_messages_work() -> None:
    entity = pb.Entity()
    entity.table_entry.match.add(field_id=1).exact.value = b"\x01"
    assert pb.Entity.FromString(entity.SerializeToString()) == entity
    assert pb.Update.Type.Name(pb.Update.INSERT) == "INSERT"
    assert pb.SdnPort.Value("SDN_PORT_CPU") == -3


def test_they_are_those_of_the_package_p4runtime_and_can_stand_beside_it() -> None:
    # Protobuf in plain Python alone takes the package's own modules, which are of its 3.x form.
    _run(
        "from p4.config.v1 import p4info_pb2, p4types_pb2\n"
        "from p4.v1 import p4data_pb2, p4runtime_pb2\n"
        "from switchml.p4runtime import stubs\n"
        "for theirs in (p4types_pb2, p4info_pb2, p4data_pb2, p4runtime_pb2):\n"
        "    ours = getattr(stubs, theirs.__name__.rpartition('.')[2])\n"
        "    assert ours.DESCRIPTOR.serialized_pb == theirs.DESCRIPTOR.serialized_pb, theirs\n",
        PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python",
    )


def test_they_load_under_old_and_new_runtimes() -> None:
    for path in FOLDER.glob("*_pb2*.py"):
        assert "runtime_version" not in path.read_text()
        assert "_version_not_supported" not in path.read_text()


def test_a_missing_package_is_named() -> None:
    _run(
        "import sys\n"
        "sys.modules['google.rpc'] = None\n"
        "from switchml.errors import UsageError\n"
        "try:\n"
        "    import switchml.p4runtime.stubs\n"
        "except UsageError as error:\n"
        "    assert 'google.rpc' in str(error) and 'switchml[p4runtime]' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('nothing is missing')\n"
    )


def test_the_switch_can_be_imported_without_them() -> None:
    _run(
        "import sys\n"
        "import switchml, switchml.switch_emulator, switchml.switch_emulator.p4runtime, switchml.p4runtime\n"
        "assert not [name for name in sys.modules if name.endswith('_pb2') or name == 'grpc'], sys.modules\n"
    )
