"""The messages and the service of P4Runtime, from the package `p4runtime`, under any protobuf from 3.20 on.

That package's generated modules have the form of protoc 3.x, which protobuf 4 and later refuse to run. What they describe
is sound: where the import fails, the serialised descriptors are read from the modules' source, and the classes made from
them as newer generated code does. Either way `p4.v1.p4runtime_pb2` and the others can be imported afterwards.

    from switchml.p4runtime_stubs import p4data_pb2, p4info_pb2, p4runtime_pb2, p4runtime_pb2_grpc, p4types_pb2
    from switchml.p4runtime_stubs import code_pb2, status_pb2

Importing this module raises UsageError where the packages are missing.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from switchml.errors import UsageError

_MODULES = (  # each after those it needs
    "p4.config.v1.p4types_pb2",
    "p4.config.v1.p4info_pb2",
    "p4.v1.p4data_pb2",
    "p4.v1.p4runtime_pb2",
)


def _load() -> None:
    try:
        importlib.import_module("google.rpc.status_pb2")  # p4runtime.proto needs it
        for name in _MODULES:
            try:
                importlib.import_module(name)
            except TypeError:  # protobuf: "Descriptors cannot be created directly"
                _build(name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"P4Runtime needs the package that has {error.name!r}: pip install 'switchml[p4runtime]'"
        ) from error


def _build(name: str) -> None:
    """Makes the module `name` from the descriptor in its source."""
    from google.protobuf import descriptor_pool
    from google.protobuf.internal import builder

    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {name}", name=name)
    module = ModuleType(name)
    module.__file__ = spec.origin
    module.__spec__ = spec
    serialised = _descriptor(Path(spec.origin).read_text(encoding="utf-8"), name)
    descriptor = descriptor_pool.Default().AddSerializedFile(serialised)
    contents = vars(module)
    contents["DESCRIPTOR"] = descriptor
    builder.BuildMessageAndEnumDescriptors(descriptor, contents)
    builder.BuildTopDescriptorsAndMessages(descriptor, name, contents)
    sys.modules[name] = module
    parent, _, leaf = name.rpartition(".")
    setattr(importlib.import_module(parent), leaf, module)


def _descriptor(source: str, name: str) -> bytes:
    """The serialised FileDescriptorProto that a generated module has as `serialized_pb`."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.keyword)
            and node.arg == "serialized_pb"
            and isinstance(node.value, ast.Constant)
        ):
            value = node.value.value
            if isinstance(value, bytes):
                return value
    raise UsageError(
        f"{name} is of a form that is not known here; install another version: pip install 'p4runtime>=1.4.1,<1.7'"
    )


_load()

# After _load: only now can they be imported.
from google.rpc import code_pb2, status_pb2  # type: ignore[import-untyped]  # noqa: E402
from p4.config.v1 import p4info_pb2, p4types_pb2  # type: ignore[import-untyped]  # noqa: E402
from p4.v1 import p4data_pb2, p4runtime_pb2, p4runtime_pb2_grpc  # type: ignore[import-untyped]  # noqa: E402

__all__ = [
    "code_pb2",
    "p4data_pb2",
    "p4info_pb2",
    "p4runtime_pb2",
    "p4runtime_pb2_grpc",
    "p4types_pb2",
    "status_pb2",
]
