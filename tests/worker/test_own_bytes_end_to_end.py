"""Who has nothing to say sends headers, and who wants nothing gets them: bytes by the workers' counters, sums against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from switchml.protocol.header import HEADER_BYTES
from switchml.switch_emulator import Emulator
from switchml.switch_emulator.faults import new_faults
from switchml.worker import Worker

_PAYLOAD = 1024
_FULL = HEADER_BYTES + _PAYLOAD
_WORDS = _PAYLOAD // 4
_CHUNKS = 40  # of a rank's part
_SIZE = 3


def _moved(world: Any, body: Callable[[Worker], Any]) -> tuple[list[Any], list[dict[str, int]]]:
    """What every rank got, and by how much its counters rose."""
    before = [worker.counters() for worker in world.workers]
    results = world.run(body)
    after = [worker.counters() for worker in world.workers]
    return results, [
        {name: late[name] - early[name] for name in late} for early, late in zip(before, after, strict=True)
    ]


def _sent(counts: dict[str, int], full: int, headers: int) -> None:
    """So many packets with elements and without were sent, but for what was sent again."""
    bytes_once = full * _FULL + headers * HEADER_BYTES
    more = counts["retransmissions"] * _FULL + counts["packets_asked_for"] * HEADER_BYTES
    assert bytes_once <= counts["bytes_sent"] <= bytes_once + more
    assert counts["packets_sent"] == full + headers + counts["retransmissions"] + counts["packets_asked_for"]


def _sent_alone(world: Any, counts: dict[str, int], chunks: int, others: int) -> None:
    """So many chunks of words that no other rank gives were sent; in memory they are a row, and no chunks."""
    if _in_memory(world):
        assert counts["packets_sent"] == 1
        assert counts["bytes_sent"] == _FULL + chunks * _PAYLOAD
    else:
        _sent(counts, 1 + chunks, others)


def _received_alone(world: Any, counts: dict[str, int], chunks: int, headers: int) -> None:
    if _in_memory(world):
        assert counts["packets_received"] == 1
        assert counts["bytes_received"] == _FULL + chunks * _PAYLOAD
    else:
        _received(counts, 1 + chunks, headers)


def _received(counts: dict[str, int], full: int, headers: int) -> None:
    assert counts["packets_received"] == full + headers
    assert counts["bytes_received"] == full * _FULL + headers * HEADER_BYTES


def _words(rank: int, chunks: int) -> np.ndarray:
    return np.random.default_rng(rank).integers(1, 2**31 - 1, chunks * _WORDS, np.int32)


def _floats(rank: int, chunks: int) -> np.ndarray:
    return np.random.default_rng(rank).standard_normal(chunks * _WORDS).astype(np.float32)


def _prologue(world: Any, chunks: int) -> int:
    """Packets before the chunks of a sum of floats: with the descriptor go all exponents of so few chunks but the last."""
    return min(int(world.workers[0].window), chunks) if _in_memory(world) else 1


def _in_memory(world: Any) -> bool:
    return bool(world.workers[0].transport == "memory")


def _kept_back(world: Any) -> int:
    """Of elements that a rank alone wants: 1 where its own ones do not travel; in memory there is no way that they could save."""
    return int(not _in_memory(world))


def test_all_gather_sends_a_rank_s_own_bytes_once(transport_worlds: Any) -> None:
    world = transport_worlds(_SIZE, payload=_PAYLOAD)
    given = [_words(rank, _CHUNKS) for rank in range(_SIZE)]
    results, counts = _moved(world, lambda worker: worker.allgather(given[worker.rank]).wait())
    for result, count in zip(results, counts, strict=True):
        assert np.array_equal(result, np.array(given))
        _sent_alone(world, count, _CHUNKS, (_SIZE - 1) * _CHUNKS)
        # Its own go to their place with the others'.
        own = int(_in_memory(world))
        _received_alone(world, count, (_SIZE - 1 + own) * _CHUNKS, _CHUNKS)


def test_broadcast_is_sent_by_its_root_alone(transport_worlds: Any) -> None:
    world = transport_worlds(_SIZE, payload=_PAYLOAD)
    given = _words(7, _CHUNKS)

    def broadcast(worker: Worker) -> np.ndarray:
        array = given.copy() if worker.rank == 1 else np.zeros_like(given)
        return worker.broadcast(array, 1).wait()

    results, counts = _moved(world, broadcast)
    for rank, (result, count) in enumerate(zip(results, counts, strict=True)):
        assert np.array_equal(result, given)
        _sent_alone(world, count, _CHUNKS if rank == 1 else 0, 0 if rank == 1 else _CHUNKS)
        in_place = rank == 1 and _in_memory(world)
        _received_alone(world, count, 0 if in_place else _CHUNKS, 0)


def test_an_exact_gather_sends_a_rank_s_own_bytes_once(transport_worlds: Any) -> None:
    world = transport_worlds(_SIZE, payload=_PAYLOAD)
    given = [_floats(rank, _CHUNKS).astype(np.float64) for rank in range(_SIZE)]
    results, counts = _moved(world, lambda worker: worker.allreduce(given[worker.rank].copy(), "max").wait())
    for result, count in zip(results, counts, strict=True):
        assert np.array_equal(result, np.max(given, axis=0))
        _sent_alone(world, count, 2 * _CHUNKS, (_SIZE - 1) * 2 * _CHUNKS)


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_reduce_scatter_takes_of_a_rank_the_others_parts_and_brings_its_own(
    transport_worlds: Any, kind: str
) -> None:
    world = transport_worlds(_SIZE, payload=_PAYLOAD)
    make = _words if kind == "int32" else _floats
    given = [make(rank, _SIZE * _CHUNKS).reshape(_SIZE, -1) for rank in range(_SIZE)]
    full = world.run(lambda worker: worker.allreduce(given[worker.rank].copy()).wait())[0]
    results, counts = _moved(world, lambda worker: worker.reduce_scatter(given[worker.rank]).wait())
    prologue = _prologue(world, _SIZE * _CHUNKS) if kind == "float32" else 0
    kept = _kept_back(world)
    for rank, (result, count) in enumerate(zip(results, counts, strict=True)):
        assert result.tobytes() == full[rank].tobytes(), "the bits of an allreduce"
        _sent(count, 1 + (_SIZE - kept) * _CHUNKS, prologue + kept * _CHUNKS)
        _received(count, 1 + _CHUNKS, prologue + (_SIZE - 1) * _CHUNKS)


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_reduce_brings_the_sums_to_its_root_alone(transport_worlds: Any, kind: str) -> None:
    world = transport_worlds(_SIZE, payload=_PAYLOAD)
    make = _words if kind == "int32" else _floats
    given = [make(rank, _CHUNKS) for rank in range(_SIZE)]
    full = world.run(lambda worker: worker.allreduce(given[worker.rank].copy()).wait())[0]

    def reduce(worker: Worker) -> tuple[np.ndarray, np.ndarray]:
        array = given[worker.rank].copy()
        return worker.reduce(array, 2).wait(), array

    results, counts = _moved(world, reduce)
    prologue = _prologue(world, _CHUNKS) if kind == "float32" else 0
    for rank, ((result, array), count) in enumerate(zip(results, counts, strict=True)):
        assert array.tobytes() == (full if rank == 2 else given[rank]).tobytes()
        assert result.tobytes() == (full.tobytes() if rank == 2 else b"")
        kept = _CHUNKS * _kept_back(world) if rank == 2 else 0
        _sent(count, 1 + _CHUNKS - kept, prologue + kept)
        _received(count, 1 + (_CHUNKS if rank == 2 else 0), prologue + (0 if rank == 2 else _CHUNKS))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int8", "float64"])
@pytest.mark.parametrize("op", ["sum", "max"])
@pytest.mark.parametrize("length", [1, 100, 1000, 40_000])
def test_parts_that_are_no_whole_chunks(worlds: Any, dtype: str, op: str, length: int) -> None:
    """Chunks that several ranks want a part of, segments and small tensors: as an allreduce of which a part is kept."""
    world = worlds(_SIZE, payload=_PAYLOAD)
    rng = np.random.default_rng(length)
    given = [(rng.standard_normal((_SIZE, length)) * 50).astype(dtype) for _ in range(_SIZE)]
    full = world.run(lambda worker: worker.allreduce(given[worker.rank].copy(), op).wait())[0]
    parts = world.run(lambda worker: worker.reduce_scatter(given[worker.rank], op).wait())
    assert [part.tobytes() for part in parts] == [row.tobytes() for row in full]
    at_root = world.run(lambda worker: worker.reduce(given[worker.rank].copy(), 1, op).wait())
    assert [one.tobytes() for one in at_root] == [b"", full.tobytes(), b""]


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_a_part_that_goes_into_its_row_and_that_only_its_rank_has(worlds: Any, kind: str) -> None:
    world = worlds(_SIZE, payload=_PAYLOAD)
    make = _words if kind == "int32" else _floats
    given = [make(rank, _SIZE * _CHUNKS).reshape(_SIZE, -1) for rank in range(_SIZE)]
    for rank, rows in enumerate(given):
        rows[:, : 8 * _WORDS] = 0  # of all ranks
        rows[np.arange(_SIZE) != rank, 8 * _WORDS : 16 * _WORDS] = 0
    full = world.run(lambda worker: worker.allreduce(given[worker.rank].copy()).wait())[0]

    def scatter(worker: Worker) -> np.ndarray:
        rows = given[worker.rank].copy()
        return worker.reduce_scatter(rows, out=rows[worker.rank]).wait()

    for result, row in zip(world.run(scatter), full, strict=True):
        assert result.tobytes() == row.tobytes()


def test_average_of_parts(worlds: Any) -> None:
    world = worlds(2, payload=_PAYLOAD)
    given = [_floats(rank, 2 * _CHUNKS).reshape(2, -1) for rank in range(2)]
    full = world.run(lambda worker: worker.allreduce(given[worker.rank].copy(), "avg").wait())[0]
    parts = world.run(lambda worker: worker.reduce_scatter(given[worker.rank], "avg").wait())
    assert [part.tobytes() for part in parts] == [row.tobytes() for row in full]


def test_parts_with_blocks_that_are_exchanged_exactly(worlds: Any) -> None:
    world = worlds(2, payload=_PAYLOAD)
    given = [_floats(rank, 2 * _CHUNKS).reshape(2, -1)[:, 5:].copy() for rank in range(2)]
    given[1][0, 3], given[0][1, 700], given[1][0, -1] = np.inf, np.nan, 1e38
    with np.errstate(all="ignore"):
        full = world.run(lambda worker: worker.allreduce(given[worker.rank].copy()).wait())[0]
        parts = world.run(lambda worker: worker.reduce_scatter(given[worker.rank]).wait())
        at_root = world.run(lambda worker: worker.reduce(given[worker.rank].copy(), 0).wait())
    assert np.isinf(full[0, 3])
    assert np.isnan(full[1, 700])
    assert [part.tobytes() for part in parts] == [row.tobytes() for row in full]
    assert at_root[0].tobytes() == full.tobytes()


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_zeros_are_not_sent(transport_worlds: Any, kind: str) -> None:
    """A chunk that is zero on one rank goes as a header from it; one that is zero everywhere comes back as one."""
    world = transport_worlds(2, payload=_PAYLOAD)
    make = _words if kind == "int32" else _floats
    given = [make(rank, _CHUNKS).reshape(_CHUNKS, -1) for rank in range(2)]
    given[0][:30] = 0
    given[1][20:] = 0
    results, counts = _moved(world, lambda worker: worker.allreduce(given[worker.rank].copy()).wait())
    prologue = _prologue(world, _CHUNKS) if kind == "float32" else 0
    for result in results:
        assert result.tobytes() == results[0].tobytes()
        assert np.allclose(result, given[0] + given[1], atol=1e-6)
        assert not result[20:30].any()
    _sent(counts[0], 1 + 10, 30 + prologue)
    _sent(counts[1], 1 + 20, 20 + prologue)
    for count in counts:
        _received(count, 1 + 30, 10 + prologue)


@pytest.mark.parametrize("wire", ["int16", "int8"])
def test_narrow_wires(transport_worlds: Any, wire: str) -> None:
    """Lanes: absent where they are zero, and for the one that wants them, who learns their shift."""
    world = transport_worlds(_SIZE, payload=_PAYLOAD, wire=wire)
    lanes = {"int16": 2, "int8": 4}[wire]
    given = [_floats(rank, _SIZE * _CHUNKS).reshape(_SIZE, -1) for rank in range(_SIZE)]
    given[0][:, : 8 * _WORDS] = 0
    full = world.run(lambda worker: worker.allreduce(given[worker.rank].copy()).wait())[0]
    results, counts = _moved(world, lambda worker: worker.reduce_scatter(given[worker.rank]).wait())
    chunks = _CHUNKS // lanes
    prologue = _prologue(world, _SIZE * chunks)
    for rank, (result, count) in enumerate(zip(results, counts, strict=True)):
        assert result.tobytes() == full[rank].tobytes()
        zeros = _SIZE * 8 // lanes if rank == 0 else 0
        _sent(count, 1 + _SIZE * chunks - zeros, prologue + zeros)
        _received(count, 1 + chunks, prologue + (_SIZE - 1) * chunks)


def test_workers_by_shared_memory_and_by_udp_together(worlds: Any) -> None:
    world = worlds(
        _SIZE,
        payload=_PAYLOAD,
        each={0: {"transport": "shm"}, 1: {"transport": "udp"}, 2: {"transport": "udp"}},
    )
    given = [_floats(rank, _SIZE * _CHUNKS).reshape(_SIZE, -1) for rank in range(_SIZE)]
    full = world.run(lambda worker: worker.allreduce(given[worker.rank].copy()).wait())[0]
    results, counts = _moved(world, lambda worker: worker.reduce_scatter(given[worker.rank]).wait())
    prologue = _prologue(world, _SIZE * _CHUNKS)
    for rank, (result, count) in enumerate(zip(results, counts, strict=True)):
        assert result.tobytes() == full[rank].tobytes()
        _received(count, 1 + _CHUNKS, prologue + (_SIZE - 1) * _CHUNKS)


@pytest.mark.parametrize("wire", ["float32", "int8"])
@pytest.mark.parametrize("transport", ["shm", "udp"])
def test_loss_duplication_and_reordering(worlds: Any, transport: str, wire: str) -> None:
    """A result that was lost comes again with its elements to who wants them, and as a header to the others."""
    with Emulator(faults=new_faults(loss=0.03, duplicate=0.03, reorder=0.03, seed=5)) as faulty:
        world = worlds(_SIZE, switch=faulty.control_address, transport=transport, payload=_PAYLOAD, wire=wire)
        given = [_floats(rank, _SIZE * _CHUNKS).reshape(_SIZE, -1) for rank in range(_SIZE)]
        full = world.run(lambda worker: worker.allreduce(given[worker.rank].copy()).wait())[0]
        results, counts = _moved(world, lambda worker: worker.reduce_scatter(given[worker.rank]).wait())
        gathered = world.run(lambda worker: worker.allgather(given[worker.rank]).wait())
        world.close()
    chunks = _CHUNKS // (4 if wire == "int8" else 1)
    prologue = _prologue(world, _SIZE * chunks)
    for rank, (result, count) in enumerate(zip(results, counts, strict=True)):
        assert result.tobytes() == full[rank].tobytes()
        assert gathered[rank].tobytes() == np.array(given).tobytes()
        _received(count, 1 + chunks, prologue + (_SIZE - 1) * chunks)
