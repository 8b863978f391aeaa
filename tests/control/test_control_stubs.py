"""The committed stubs and what they cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import switchml.control
from switchml.control import reference_pb2, switch_pb2

FOLDER = Path(switchml.control.__file__).parent


@pytest.mark.parametrize(("name", "pb"), [("switch", switch_pb2), ("reference", reference_pb2)])
def test_the_stubs_were_made_from_the_proto_beside_them(name: str, pb: Any) -> None:
    text = (FOLDER / f"{name}.proto").read_text()
    for name, message in pb.DESCRIPTOR.message_types_by_name.items():
        body = text.split(f"message {name} {{", 1)[1].split("}", 1)[0]
        fields = {
            line.split("=")[0].split()[-1]: int(line.split("=")[1].split(";")[0])
            for line in body.splitlines()
            if "=" in line
        }
        assert fields == {field.name: field.number for field in message.fields}
    assert text.count("message ") >= len(pb.DESCRIPTOR.message_types_by_name)


def test_the_stubs_load_under_old_and_new_runtimes() -> None:
    for name in ("switch_pb2.py", "switch_pb2_grpc.py", "reference_pb2.py", "reference_pb2_grpc.py"):
        text = (FOLDER / name).read_text()
        assert "runtime_version" not in text
        assert "_version_not_supported" not in text


def test_grpc_loads_only_where_it_is_used() -> None:
    code = (
        "import sys, switchml, switchml.errors, switchml.control, switchml.control.control_messages, switchml.control.embedded;"
        "assert not {'grpc', 'numba', 'google.protobuf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
