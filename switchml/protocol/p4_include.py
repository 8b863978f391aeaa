"""The wire format as P4 source, for p4/include: the header, message types, size codes and ports.

python -m switchml.protocol.p4_include p4/include/switchml_header.p4
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from switchml.protocol.header import FIELDS, HEADER_BYTES
from switchml.protocol.messages import (
    ASKED,
    ELEMENT_BYTES,
    MESSAGE_TYPES,
    PAYLOAD_SIZES,
    UDP_PORT_FIRST,
    UDP_PORT_LAST,
)


def _size_codes() -> Iterator[str]:
    """The header's `size` of a payload of ELEMENTS int32, for the sizes that a hardware switch may take."""
    word = "#if"
    for size in PAYLOAD_SIZES:
        if size.hardware:
            yield f"{word} ELEMENTS == {size.payload // ELEMENT_BYTES}"
            yield f"#define SIZE_CODE {size.code}"
            word = "#elif"
    yield "#endif"


def _lines() -> Iterator[str]:
    yield "// The wire format (docs/protocol.md). Made by `make docs` from the tables in switchml/protocol: do not edit."
    yield ""
    yield from _size_codes()
    yield ""
    ports = UDP_PORT_LAST - UDP_PORT_FIRST
    if ports & (ports + 1) or UDP_PORT_FIRST & ports:
        raise AssertionError("the ports are no range that a mask tells")
    yield f"const bit<16> FIRST_PORT_MASK = 0x{0xFFFF ^ ports:04X};   // UDP ports 0x{UDP_PORT_FIRST:04X}-0x{UDP_PORT_LAST:04X}"
    yield f"const bit<16> FIRST_PORT = 0x{UDP_PORT_FIRST:04X};"
    yield f"const bit<16> SWITCHML_BYTES = {HEADER_BYTES};"
    yield ""
    yield f"typedef bit<{FIELDS['msg_type'].bits}> msg_type_t;"
    for message in MESSAGE_TYPES:
        yield f"const msg_type_t MSG_{message.name} = {message.code};"
    yield f"const bit<{FIELDS['size'].bits}> ASKED = {ASKED};   // bits of `size` that are turned in a result that answers an ASK"
    yield ""
    yield "header switchml_t {"
    for name, field in FIELDS.items():
        kind = "msg_type_t" if name == "msg_type" else f"bit<{field.bits}>"
        note = f"int{field.bits}: " if field.signed else ""
        yield f"    {f'{kind} {name};':30}// {note}{field.meaning.removesuffix(' (table below)')}"
    yield "}"


def render() -> str:
    """The include, whole."""
    return "\n".join(_lines()) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Write the include to the files that are named."""
    for argument in arguments:
        Path(argument).write_text(render())


if __name__ == "__main__":
    main(sys.argv[1:])
