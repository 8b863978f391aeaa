"""Records and states: what is written through one view is read through the other, and layouts are as C's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, TypedDict

import numba
import numpy as np
import numpy.typing as npt
import pytest

from switchml.aggregation.slot_machine import Pool, new_pool
from switchml.control.target import RANGES
from switchml.link.datagrams import Datagrams, Iovec, MessageHeader, SocketAddress, open_datagrams
from switchml.link.records import (
    Int8,
    Int64,
    Records,
    UInt16,
    dtype_of,
    new_records,
    row_of,
    table_of,
    view_of,
)
from switchml.link.ring import ring_layout
from switchml.packets.tape import no_tape
from switchml.protocol.counters import SWITCH_COUNTERS
from switchml.protocol.jit import compiled
from switchml.switch_emulator.faults import Faults, new_faults
from switchml.switch_emulator.flood_guard import new_flood
from switchml.switch_emulator.pipeline import MAX_JOBS, Switch, SwitchRecord
from switchml.switch_emulator.tables import Tables, new_tables
from switchml.worker.congestion import new_congestion
from switchml.worker.engine import Engine
from switchml.worker.port import Port, PortRecord
from switchml.worker.recovery import new_recovery
from switchml.worker.window import Window, new_window

Longs = npt.NDArray[np.int64]


class Point(TypedDict):
    flag: Int8
    x: Int64
    seen: Annotated[npt.NDArray[np.uint16], (3,)]
    y: UInt16


class Inner(NamedTuple):
    numbers: npt.NDArray[np.int16]
    size: int


class Outer(NamedTuple):
    grid: Annotated[npt.NDArray[np.int32], (3, -1)]
    inner: Inner
    points: Records[Point]
    fixed: Annotated[Longs, (2, 2)]


_outer_at = view_of(Outer)


@compiled
def _use(handle: int) -> int:
    state = _outer_at(handle)
    point = state.points[1]
    point["x"] += state.inner.size
    point["seen"][2] = 5
    state.inner.numbers[1] = point["flag"]
    state.grid[2, 3] = 9
    return int(state.grid[1, 0] + 100 * state.points.size + 1000 * state.grid.shape[1] + state.fixed[1, 0])


def _outer() -> Outer:
    return Outer(
        np.arange(12, dtype=np.int32).reshape(3, 4),
        Inner(np.zeros(5, np.int16), 77),
        new_records(Point, 3),
        np.array([[0, 0], [100_000, 0]], np.int64),
    )


def test_compiled_code_works_on_the_arrays_themselves() -> None:
    state = _outer()
    point = state.points[1]
    point["x"], point["flag"] = 5, -3
    table = table_of(state)
    assert table.reshape(-1, 2)[:, 1].tolist() == [12, 5, 0, 3, 4]
    assert _use(table.ctypes.data) == 104_304
    assert (point["x"], point["seen"].tolist(), state.grid[2, 3]) == (82, [0, 0, 5], 9)
    assert state.inner.numbers.tolist() == [0, -3, 0, 0, 0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("points", np.zeros(3, np.int64)),
        ("points", new_records(Point, 6)[::2]),
        ("grid", np.zeros((3, 4), np.int64)),
        ("grid", np.zeros((4, 3), np.int32)),
        ("grid", np.zeros(12, np.int32)),
        ("grid", np.zeros((4, 3), np.int32).T),
    ],
)
def test_an_array_that_is_not_as_declared_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"Outer\.{field} "):
        table_of(_outer()._replace(**{field: value}))


def test_a_record_lies_in_memory_as_in_c() -> None:
    assert dtype_of(Point) == np.dtype(
        {
            "names": ["flag", "x", "seen", "y"],
            "formats": [np.int8, np.int64, (np.uint16, (3,)), np.uint16],
            "offsets": [0, 8, 16, 22],
            "itemsize": 24,
            "aligned": True,
        }
    )
    sizes = [dtype_of(record).itemsize for record in (Iovec, MessageHeader, SocketAddress)]
    assert sizes == [16, 64, 16], "Linux on 64 bits: struct iovec, mmsghdr, sockaddr_in"
    offsets = {name: field[1] for name, field in (dtype_of(MessageHeader).fields or {}).items()}
    assert (offsets["iov"], offsets["control"], offsets["flags"], offsets["length"]) == (16, 32, 48, 56)


def test_a_row_has_its_values_in_the_order_of_the_declaration() -> None:
    points = new_records(Point, 1)
    points[0] = row_of(Point)({"y": 4, "seen": np.array([1, 2, 3], np.uint16), "flag": 7, "x": 6})
    assert (points[0]["flag"], points[0]["x"], points[0]["seen"].tolist(), points[0]["y"]) == (
        7,
        6,
        [1, 2, 3],
        4,
    )


def _port() -> Port:
    longs = [np.zeros(count, np.int64) for count in range(2, 8)]
    return Port(
        new_records(PortRecord, 1), open_datagrams(None), open_datagrams(None), ring_layout(2, 4, 128),
        np.zeros(9, np.uint8), *longs, no_tape(), np.zeros((3, 3), np.int64),
    )  # fmt: skip


def _window() -> Window:
    return new_window(rank=1, workers=2, window=8, elements=32)


def _engine() -> Engine:
    longs = [np.zeros(count, np.int64) for count in (3, 4, 5)]
    return Engine(
        _window(), new_recovery(), new_congestion(packet=100, slots=8), 12345,
        longs[0], np.zeros(7, np.uint32), longs[1], longs[2], np.zeros(6, np.uint8),
    )  # fmt: skip


def _switch() -> Switch:
    counters = np.zeros((MAX_JOBS + 1, len(SWITCH_COUNTERS)), np.int64)
    return Switch(
        new_records(SwitchRecord, 1), new_tables(), new_pool(4, 64), counters,
        np.zeros((MAX_JOBS, RANGES, 2), np.int64), open_datagrams(None), open_datagrams(None),
        new_records(SocketAddress, 2), np.zeros(3, np.uint8),
        new_faults(loss=0.5), np.zeros(1, np.int64), np.zeros(5, np.uint8), np.zeros(4, np.int64), no_tape(),
        new_flood(),
    )  # fmt: skip


_STATES: dict[type[Any], Callable[[], Any]] = {
    Datagrams: lambda: open_datagrams(None),
    Port: _port,
    Window: _window,
    Engine: _engine,
    Tables: new_tables,
    Faults: lambda: new_faults(loss=0.5),
    Pool: lambda: new_pool(4, 64),
    Switch: _switch,
}


def _leaves(state: Any) -> Iterator[Any]:
    for value in state:
        if isinstance(value, tuple):
            yield from _leaves(value)
        else:
            yield value


@pytest.mark.parametrize("kind", _STATES, ids=lambda kind: kind.__name__)
def test_what_is_written_through_one_is_read_through_the_other(kind: type[Any]) -> None:
    state = _STATES[kind]()
    view = view_of(kind)
    # numba's own compiler: ours gives Python no arrays.
    opened = numba.njit(lambda handle: view(handle))(table_of(state).ctypes.data)
    ours, theirs = list(_leaves(state)), list(_leaves(opened))
    assert type(opened) is kind
    assert len(ours) == len(theirs) > 1
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if not isinstance(one, np.ndarray):
            assert other == one
            continue
        assert (other.dtype, other.shape) == (one.dtype, one.shape)
        one.reshape(-1).view(np.uint8)[:] = number + 1
        assert (other.reshape(-1).view(np.uint8) == number + 1).all()
        other.reshape(-1).view(np.uint8)[:] = 255 - number
    for number, one in enumerate(ours):
        if isinstance(one, np.ndarray):
            assert (one.reshape(-1).view(np.uint8) == 255 - number).all(), "no array lies in another"
