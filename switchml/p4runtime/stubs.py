"""The messages and the service of P4Runtime 1.6.0. Importing this raises UsageError without the extra `p4runtime`.

Generated from the descriptors in the package `p4runtime` (`make protos`), whose own modules protobuf 4 and later refuse.
"""

from __future__ import annotations

from switchml.errors import UsageError

try:
    from google.rpc import code_pb2, status_pb2

    from switchml.p4runtime import p4data_pb2, p4info_pb2, p4runtime_pb2, p4runtime_pb2_grpc, p4types_pb2
except ModuleNotFoundError as error:
    raise UsageError(
        f"P4Runtime needs the package that has {error.name!r}: pip install 'switchml[p4runtime]'"
    ) from error

__all__ = [
    "code_pb2",
    "p4data_pb2",
    "p4info_pb2",
    "p4runtime_pb2",
    "p4runtime_pb2_grpc",
    "p4types_pb2",
    "status_pb2",
]
