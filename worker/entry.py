"""The way in of a transfer that is prepared, and its way out: what Python would write and read field by field, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from switchml.link.memory import bytes_at
from switchml.link.records import Records, view_of
from switchml.protocol.jit import compiled
from switchml.protocol.prepare import prepare
from switchml.worker.kernels import add_rows, divide
from switchml.worker.window import DONE, RING, TransferRecord, Window

NOT_OVER = -1000
"""In place of an exponent."""


class Template(NamedTuple):
    """A transfer as it stands before it is laid, but for what each call brings."""

    record: Records[TransferRecord]


_template_at = view_of(Template)
_window_at = view_of(Window)  # what an engine's table begins with


@compiled
def enter(
    handle: int, template: int, source: int, destination: int, flags: int, deadline: int, call: int
) -> None:
    """Put a transfer at the end of the ring, which has room.

    Args:
        handle: of the Engine.
        template: of a Template.
        source: address.
        destination: address.
        flags: address of a byte a chunk, which are cleared; 0 for WORDS.
        deadline: ns.
        call: fourth word of the signature.
    """
    window = _window_at(handle)
    stream = window.stream[0]
    index = int(stream["queued"])
    window.transfers[index % RING] = _template_at(template).record[0]
    transfer = window.transfers[index % RING]
    transfer["source"] = source
    transfer["destination"] = destination
    transfer["flags"] = flags
    transfer["deadline"] = deadline
    transfer["signature"][3] = np.uint32(call)
    if flags != 0:
        marks = bytes_at(flags, int(transfer["chunks"]))
        for chunk in range(marks.size):
            marks[chunk] = np.uint8(0)
    stream["queued"] = index + 1


@compiled
def leave(handle: int) -> int:
    """The highest exponent of the ring's only transfer, if it has ended well with nothing left to do: it is out of the ring then.

    Else NOT_OVER.
    """
    window = _window_at(handle)
    stream = window.stream[0]
    head = int(stream["head"])
    transfer = window.transfers[head % RING]
    if head + 1 != stream["queued"] or transfer["status"] != DONE or transfer["flagged"] != 0:
        return NOT_OVER
    stream["head"] = head + 1
    return int(transfer["highest"])


def prepare_entry() -> None:
    """Compile, or load what was compiled."""
    prepare(enter, "worker's engine", 0, 0, 0, 0, 0, 0, 0)
    prepare(leave, "worker's engine", 0)
    prepare(add_rows, "worker's engine", 0, 0, 0, 0, 0, 0)
    prepare(divide, "worker's engine", 0, 0, 0)
