"""Headers between switch and control plane (`@controller_header`), as a P4Info describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from switchml.p4runtime.entries import PacketIn
from switchml.p4runtime.refusals import RuntimeRequestError


@dataclass(frozen=True)
class ControllerHeader:
    """The header of packets to or from the control plane.

    Attributes:
        fields: (name, bits), first on the wire first.
    """

    fields: tuple[tuple[str, int], ...]

    @property
    def length(self) -> int:
        """Of the header, in bytes."""
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
    """Of packet-in and packet-out; without fields where the P4Info has none.

    Args:
        p4info: serialised.

    Raises:
        RuntimeRequestError: this is no P4Info.
    """
    if not p4info:
        return ControllerHeader(()), ControllerHeader(())
    # The stubs are in an extra: who has a P4Info has them.
    from switchml.p4runtime.schema import Schema

    schema = Schema.parse(p4info)
    packet_in, packet_out = (
        ControllerHeader(tuple((field.name, field.width) for field in fields))
        for fields in (schema.packet_in, schema.packet_out)
    )
    return packet_in, packet_out
