"""How collectives are cut into transfers: alike on all ranks, with bounded staging memory, whatever the order of their ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from switchml.link.records import new_records
from switchml.worker.collectives import (
    BroadcastBytes,
    Converted,
    Direct,
    ExactBlocks,
    Gathered,
    GatheredBytes,
    Part,
    Pipeline,
    Strategy,
    nothing,
)
from switchml.worker.signature import Signature
from switchml.worker.transfer import Listed, Share, Transfer
from switchml.worker.window import BLOCKS, WORDS, TransferRecord

SIGNATURE = Signature("allreduce", "float32", "sum", 10, 1, 5)
_STAGING = 1 << 20
_LANES = 3
RANKS = 3


def _switch(transfers: list[Transfer]) -> None:
    """What the switch does to one transfer of every rank: words are summed, blocks exactly."""
    total: Any = np.zeros(transfers[0].count, np.float64 if transfers[0].kind == BLOCKS else np.uint32)
    for transfer in transfers:
        total[transfer.first : transfer.first + transfer.source.size] += transfer.source
    for transfer in transfers:
        transfer.destination[...] = total
        transfer.highest = 3


def _run(make: Callable[[int], Strategy], *, backwards: bool = False) -> list[list[tuple[int, int]]]:
    """Run a strategy on all ranks; what each rank cut. backwards: of what is in flight, the last ends first."""
    ended: list[int] = []
    pipelines = [
        Pipeline(make(rank), SIGNATURE, 0, lambda highest: ended.append(highest), pytest.fail)
        for rank in range(RANKS)
    ]
    cuts: list[list[tuple[int, int]]] = [[] for _ in range(RANKS)]
    while not all(pipeline.exhausted() for pipeline in pipelines):
        flights: list[list[Transfer]] = []
        for rank, pipeline in enumerate(pipelines):
            flight = []
            while (transfer := pipeline.pull()) is not None:
                cuts[rank].append((transfer.kind, transfer.count))
                flight.append(transfer)
            assert 0 < len(flight) <= _LANES
            flights.append(flight)
        together = list(zip(*flights, strict=True))
        for transfers in together[::-1] if backwards else together:
            assert len({transfer.signature.tobytes() for transfer in transfers}) == 1
            _switch(list(transfers))
            for transfer in transfers:
                transfer.done(transfer)
    assert len(ended) == RANKS, "done is called once a rank"
    assert all(pipeline.pull() is None for pipeline in pipelines)
    assert cuts[0] == cuts[1] == cuts[2]
    return cuts


both_orders = pytest.mark.parametrize("backwards", [False, True])


@both_orders
@pytest.mark.parametrize("count", [1, 262_144, 262_145, 1_500_000])
def test_converted(count: int, backwards: bool) -> None:
    sources = [np.full(count, rank + 1, np.float16) for rank in range(RANKS)]
    sources[1][-1] = 100
    outs = [np.zeros(count, np.float16) for _ in range(RANKS)]
    made: list[Converted] = []

    def make(rank: int) -> Strategy:
        made.append(Converted(sources[rank], outs[rank], "float16", BLOCKS, Share(rank)))
        return made[-1]

    cuts = _run(make, backwards=backwards)
    assert sum(size for _, size in cuts[0]) == count
    assert {kind for kind, _ in cuts[0]} == {BLOCKS}
    assert max(size for _, size in cuts[0]) * 4 <= _STAGING
    for out in outs:
        assert (out[:-1] == 6).all()
        assert out[-1] == 104
    assert made[0]._staging.nbytes <= _LANES * _STAGING


@both_orders
@pytest.mark.parametrize(
    ("dtype", "op"), [("float64", "prod"), ("int8", "max"), ("complex128", "sum"), ("uint16", "bxor")]
)
@pytest.mark.parametrize("count", [1, 3, 400_001])
def test_gathered(dtype: str, op: str, count: int, backwards: bool) -> None:
    rng = np.random.default_rng(count)
    sources = [(rng.standard_normal(count) * 50 + 60).astype(dtype) for _ in range(RANKS)]
    outs = [np.zeros(count, dtype) for _ in range(RANKS)]
    made: list[Gathered] = []

    def make(rank: int) -> Strategy:
        made.append(Gathered(sources[rank], outs[rank], dtype, op, Share(rank), RANKS))
        return made[-1]

    _run(make, backwards=backwards)
    plain: Any = {"prod": np.multiply, "max": np.maximum, "sum": np.add, "bxor": np.bitwise_xor}[op]
    expected = plain(plain(sources[0], sources[1]), sources[2])
    assert all(out.tobytes() == expected.tobytes() for out in outs)
    assert made[0]._rows._all.nbytes <= _LANES * (_STAGING + 4 * RANKS)


@both_orders
@pytest.mark.parametrize("length", [1, 5, 1_400_001])
def test_gathered_bytes(length: int, backwards: bool) -> None:
    sources = [np.random.default_rng(rank).integers(0, 256, length, np.uint8) for rank in range(RANKS)]
    outs = [np.zeros((RANKS, length), np.uint8) for _ in range(RANKS)]
    _run(lambda rank: GatheredBytes(sources[rank], outs[rank], rank), backwards=backwards)
    assert all(np.array_equal(out, np.stack(sources)) for out in outs)


@both_orders
@pytest.mark.parametrize("length", [1, 5, (1 << 20) - 1, 5_000_003])
def test_broadcast_bytes(length: int, backwards: bool) -> None:
    arrays = [np.random.default_rng(rank).integers(0, 256, length, np.uint8) for rank in range(RANKS)]
    wanted = arrays[1].copy()
    _run(lambda rank: BroadcastBytes(arrays[rank], rank == 1), backwards=backwards)
    assert all(np.array_equal(array, wanted) for array in arrays)


@both_orders
def test_exact_blocks(backwards: bool) -> None:
    block, count = 256, 256 * 1_999 + 7
    sources = [np.full(count, rank, np.float32) for rank in range(RANKS)]
    sources[2][3] = np.inf
    outs = [np.full(count, -1, np.float32) for _ in range(RANKS)]
    flags = np.zeros(2_000, np.uint8)
    flags[[0, 5, 1_999]] = 1
    flags[100:1_500] = 1

    def make(rank: int) -> Strategy:
        transfer = Transfer(
            BLOCKS, count, sources[rank], outs[rank], SIGNATURE.words(), lambda _: None, pytest.fail, 0
        )
        transfer.flags = flags
        strategy = ExactBlocks(transfer, block, rank, RANKS)
        assert strategy.blocks == 1_403
        return strategy

    _run(make, backwards=backwards)
    expected = np.where(np.repeat(flags, block)[:count] == 1, np.float32(3), np.float32(-1))
    expected[3] = np.inf
    assert all(np.array_equal(out, expected) for out in outs)


def test_a_barrier_is_a_descriptor_alone() -> None:
    assert _run(lambda rank: nothing()) == [[(WORDS, 0)]] * RANKS


def test_the_signature_tells_the_segment() -> None:
    source = np.zeros(600_000, np.float16)
    pipeline = Pipeline(
        Converted(source, source, "float16", BLOCKS, Share(0)), SIGNATURE, 9, lambda _: None, pytest.fail
    )
    transfers = [pipeline.pull() for _ in range(3)]
    words = [transfer.signature.tolist() for transfer in transfers if transfer is not None]
    assert words == [SIGNATURE._replace(detail=5 + segment).words().tolist() for segment in range(3)]
    assert pipeline.exhausted()
    assert pipeline.pull() is None


def test_the_highest_exponent_is_that_of_all_segments() -> None:
    source = np.zeros(600_000, np.float16)
    told: list[int] = []
    pipeline = Pipeline(
        Converted(source, source, "float16", BLOCKS, Share(0)), SIGNATURE, 0, told.append, pytest.fail
    )
    for highest in (-5, 12, 3):
        transfer = pipeline.pull()
        assert transfer is not None
        transfer.highest = highest
        transfer.done(transfer)
    assert told == [12]


def test_a_direct_transfer_is_over_the_caller_s_memory() -> None:
    array = np.arange(10, dtype=np.float32)
    pipeline = Pipeline(Direct(Part(BLOCKS, 10, array, array)), SIGNATURE, 77, lambda _: None, pytest.fail)
    transfer = pipeline.pull()
    assert transfer is not None
    record = new_records(TransferRecord, 1)
    record[0] = transfer.record(4)
    entry = record[0]
    assert entry["source"] == entry["destination"] == array.ctypes.data
    assert (entry["kind"], entry["chunks"], entry["count"], entry["deadline"]) == (BLOCKS, 3, 10, 77)
    assert entry["signature"].tolist() == SIGNATURE.words().tolist()
    assert transfer.flags is not None
    assert (entry["flags"], transfer.flags.tolist()) == (transfer.flags.ctypes.data, [0, 0, 0])


def test_a_list_of_transfers_fails_as_a_whole() -> None:
    errors: list[BaseException] = []
    empty = np.zeros(0, np.uint32)
    transfers = [
        Transfer(WORDS, 0, empty, empty, SIGNATURE.words(), lambda _: None, errors.append, 0)
        for _ in range(2)
    ]
    listed = Listed(transfers)
    assert listed.pull() is transfers[0]
    listed.fail(RuntimeError("over"))
    assert [str(error) for error in errors] == ["over"]
    assert listed.exhausted()


@pytest.mark.parametrize("size", [1, 7, 12, 13])
@pytest.mark.parametrize("cut", [1, 5, 12])
def test_shares_of_segments_are_the_share_of_the_whole(size: int, cut: int) -> None:
    """Cut into segments or not: every element goes to the place that it has in what its rank wants."""
    values = np.arange(size)
    for part, origin in ((4, 0), (size, 0), (size, 2 * size), (5, 3)):
        for rank in range(RANKS):
            share = Share(rank, part, origin)
            whole = values[share.of(slice(0, size))]
            assert [(origin + int(value)) // part for value in whole] == [rank] * whole.size
            assert whole.size == sum((origin + value) // part == rank for value in range(size))
            out = np.full(whole.size, -1)
            for begin in range(0, size, cut):
                where = slice(begin, min(begin + cut, size))
                out[share.place(where)] = values[where][share.of(where)]
            assert np.array_equal(out, whole)
