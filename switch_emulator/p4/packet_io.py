"""Headers between switch and control plane (`@controller_header`), as a P4Info describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from switchml.errors import UsageError
from switchml.p4runtime.entries import PacketIn
from switchml.p4runtime.refusals import RuntimeRequestError


@dataclass(frozen=True)
class ControllerHeader:
    """fields: (name, bits), first on the wire first."""

    fields: tuple[tuple[str, int], ...]

    @property
    def length(self) -> int:
        return (sum(width for _, width in self.fields) + 7) // 8

    def split(self, frame: bytes) -> PacketIn:
        """A frame that leaves through the CPU port."""
        word = int.from_bytes(frame[: self.length], "big")
        left = 8 * self.length
        metadata = {}
        for name, width in self.fields:
            left -= width
            metadata[name] = word >> left & ((1 << width) - 1)
        return PacketIn(frame[self.length :], metadata)

    def join(self, payload: bytes, metadata: Mapping[str, int]) -> bytes:
        """A frame that comes in through the CPU port. Fields named "_pad..." may be left out."""
        word = bits = 0
        for name, width in self.fields:
            if name not in metadata and not name.startswith(("_pad", "padding")):
                raise RuntimeRequestError("INVALID_ARGUMENT", f"packet-out metadata lacks {name}")
            value = metadata.get(name, 0)
            if not 0 <= value < 1 << width:
                raise RuntimeRequestError(
                    "INVALID_ARGUMENT", f"packet-out metadata: {value} does not fit {name}"
                )
            word = word << width | value
            bits += width
        return (word << (8 * self.length - bits)).to_bytes(self.length, "big") + payload


def controller_headers(p4info: bytes) -> tuple[ControllerHeader, ControllerHeader]:
    """Of packet-in and packet-out; without fields where the P4Info has none. p4info: serialised. Raises UsageError."""
    none = ControllerHeader(())
    if not p4info:
        return none, none
    # The stubs are in an extra: who has a P4Info has them.
    from google.protobuf.message import DecodeError

    from switchml.p4runtime.stubs import p4info_pb2

    try:
        info = p4info_pb2.P4Info.FromString(p4info)
    except DecodeError as error:
        raise UsageError("the P4Info is not one: a serialised p4.config.v1.P4Info is expected") from error
    found = {
        header.preamble.name: ControllerHeader(tuple((m.name, m.bitwidth) for m in header.metadata))
        for header in info.controller_packet_metadata
    }
    return found.get("packet_in", none), found.get("packet_out", none)
