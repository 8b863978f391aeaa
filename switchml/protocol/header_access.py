"""Compiled functions that read and write the header of a packet, `packet[at:]`, one a field. Made from the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.protocol.header import FIELDS, PLACES, Header
from switchml.protocol.jit import compiled

Bytes = npt.NDArray[np.uint8]


def _generated(name: str, parameters: str, statements: Iterable[str]) -> Any:
    """A function from its source: compiled code knows constants, but no table of fields."""
    source = f"def {name}({parameters}):\n" + "".join(f"    {statement}\n" for statement in statements)
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, __file__, "exec"), names)
    return compiled(names[name])


def _value(name: str) -> str:
    """Source of a field's value."""
    offset, width, shift, mask = PLACES[name]
    text = " | ".join(f"int(packet[at + {offset + i}]) << {8 * (width - 1 - i)}" for i in range(width - 1))
    text = f"{text} | int(packet[at + {offset + width - 1}])" if text else f"int(packet[at + {offset}])"
    if mask.bit_length() < 8 * width:
        text = f"(({text}) >> {shift}) & {mask}"
    if FIELDS[name].signed:
        half = (mask + 1) // 2
        text = f"(({text} + {half}) & {mask}) - {half}"
    return text


def _stores(values: Mapping[str, str]) -> Iterator[str]:
    """Statements that write these fields, given by their source; other bits of the same bytes become 0."""
    words: dict[tuple[int, int], list[str]] = {}
    for name, value in values.items():
        offset, width, shift, _ = PLACES[name]
        words.setdefault((offset, width), []).append(f"({value} << {shift})")
    for (offset, width), parts in words.items():
        for i in range(width):
            yield f"packet[at + {offset + i}] = (({' | '.join(parts)}) >> {8 * (width - 1 - i)}) & 0xFF"


def _reader(name: str) -> Callable[[Bytes, int], int]:
    function: Callable[[Bytes, int], int] = _generated(
        f"read_{name}", "packet, at", [f"return {_value(name)}"]
    )
    return function


read_msg_type = _reader("msg_type")
read_to_one = _reader("to_one")
read_but_one = _reader("but_one")
read_size = _reader("size")
read_job = _reader("job_number")
read_tsi = _reader("tsi")
read_version = _reader("version")
read_slot = _reader("slot")
read_e0 = _reader("e0")
read_e1 = _reader("e1")

pack_header: Callable[[Bytes, int, Header], None] = _generated(
    "pack_header",
    "packet, at, header",
    _stores({name: f"header.{name}" for name in FIELDS}),
)
"""Write a header. Compiled code has to name every field of the Header, by keyword."""

set_kind: Callable[[Bytes, int, int, int, int], None] = _generated(
    "set_kind",
    "packet, at, msg_type, to_one, size",
    _stores({"msg_type": "msg_type", "to_one": "to_one", "size": "size"}),
)
"""Overwrite what the packet is."""

clear_but_one: Callable[[Bytes, int], None] = _generated(
    "clear_but_one",
    "packet, at",
    [
        f"packet[at + {PLACES['but_one'].offset + i}] &= {0xFF ^ byte}"
        for i, byte in enumerate((1 << PLACES["but_one"].shift).to_bytes(PLACES["but_one"].width, "big"))
        if byte
    ],
)
"""The answer is for all."""

set_but_one: Callable[[Bytes, int], None] = _generated(
    "set_but_one",
    "packet, at",
    [
        f"packet[at + {PLACES['but_one'].offset + i}] |= {byte}"
        for i, byte in enumerate((1 << PLACES["but_one"].shift).to_bytes(PLACES["but_one"].width, "big"))
        if byte
    ],
)
"""The elements of the answer are for all but one."""

set_exponents: Callable[[Bytes, int, int, int], None] = _generated(
    "set_exponents", "packet, at, e0, e1", _stores({"e0": "e0", "e1": "e1"})
)
"""Overwrite the two exponents."""
