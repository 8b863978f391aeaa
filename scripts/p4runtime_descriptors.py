"""Write the descriptors of the package `p4runtime`, and of what they need, as protoc takes them: `make protos`.

PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python python p4runtime_descriptors.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from p4.v1 import p4runtime_pb2


def files_of(file: Any) -> dict[str, Any]:
    """A file and all that it imports, each after those it needs, by name."""
    found: dict[str, Any] = {}
    for needed in file.dependencies:
        found |= files_of(needed)
    return found | {file.name: file}


if __name__ == "__main__":
    descriptors = FileDescriptorSet()
    for file in files_of(p4runtime_pb2.DESCRIPTOR).values():
        file.CopyToProto(descriptors.file.add())
    Path(sys.argv[1]).write_bytes(descriptors.SerializeToString())
