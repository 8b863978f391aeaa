"""Signatures: four words that say what a rank believes, and what is told when they differ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.worker.chunks import names_ranks
from switchml.worker.signature import (
    COLLECTIVES,
    DTYPES,
    OPERATIONS,
    Signature,
    broadcast_from,
    detail_of,
    explain_mismatch,
)

signatures = st.builds(
    Signature,
    st.sampled_from(COLLECTIVES),
    st.sampled_from(DTYPES),
    st.sampled_from(OPERATIONS),
    st.integers(0, 2**40 - 1),
    st.integers(0, 2**24 - 1),
    st.integers(0, 2**24 - 1),
)

SUM = Signature("allreduce", "float32", "sum", 1000, 3)


def _explain(*calls: Signature, rank: int = 0, named: bool = True) -> str:
    words = np.concatenate([call.words() for call in calls])
    return explain_mismatch(words, calls[rank].words(), rank, len(calls), named)


@given(signatures, signatures)
def test_words_are_equal_only_for_equal_calls(one: Signature, other: Signature) -> None:
    assert one.words().dtype == np.uint32
    assert one.words().shape == (4,)
    assert np.array_equal(one.words(), other.words()) == (one == other)


@given(signatures)
def test_words_are_read_back(signature: Signature) -> None:
    assert str(signature) in explain_mismatch(np.zeros(4, np.uint32), signature.words(), 0, 1, True)


def test_words_by_hand() -> None:
    words = Signature("broadcast", "int32", "none", 0x12_3456_789A, 0x1000005, 0xABCDEF).words()
    assert [hex(word) for word in words] == ["0x1010700", "0x3456789a", "0x12abcdef", "0x5"]


@given(signatures, st.integers(2, 300))
def test_no_single_different_rank_is_hidden_in_a_sum(signature: Signature, workers: int) -> None:
    """Where a packet has no room for all, it carries the sum of the signatures."""
    words = signature.words().astype(np.uint64)
    other = signature._replace(elements=signature.elements ^ 1).words().astype(np.uint64)
    mixed = (words * (workers - 1) + other) % 2**32
    assert not np.array_equal(mixed, words * workers % 2**32)


def test_room_for_names() -> None:
    assert names_ranks(8, 32)
    assert not names_ranks(9, 32)
    assert names_ranks(64, 256)


def test_a_mismatch_names_the_ranks_and_what_they_called() -> None:
    other = SUM._replace(elements=999)
    told = _explain(SUM, other, SUM, other)
    assert told.startswith(
        "rank 0 called allreduce(1000 x float32, sum; call 3), but ranks 1, 3: allreduce(999 x float32, sum;"
    )
    assert "rank 2" not in told
    assert "same order" in told
    assert _explain(SUM, other, SUM, SUM, rank=1).startswith(
        "rank 1 called allreduce(999 x float32, sum; call 3), but ranks 0, 2, 3:"
    )


def test_different_others_are_told_apart() -> None:
    told = _explain(SUM, SUM._replace(op="max"), Signature("barrier", "bytes", "none", 0, 3))
    assert "rank 1: allreduce(1000 x float32, max; call 3)" in told
    assert "rank 2: barrier(0 x bytes; call 3)" in told


def test_different_roots_are_told_as_such() -> None:
    told = _explain(broadcast_from(0, 256), broadcast_from(1, 256))
    assert told.startswith(
        "rank 0 called broadcast(256 x bytes, from rank 0; call 0), but rank 1: broadcast(256 x bytes, from rank 1; call 0)."
    )
    to_2 = Signature("reduce", "float32", "sum", 10, 3, detail_of(2))
    assert str(to_2) == "reduce(10 x float32, sum, to rank 2; call 3)"
    assert (
        str(to_2._replace(detail=to_2.detail + 5)) == "reduce(10 x float32, sum, to rank 2; call 3, part 5)"
    )


def test_without_room_for_names_it_says_so() -> None:
    told = _explain(SUM, SUM, named=False)
    assert "rank 0 called allreduce(1000 x float32, sum" in told
    assert "some other rank" in told


@pytest.mark.parametrize("word", [0, 2 << 24, 1 << 24 | 99 << 16, 1 << 24 | 99 << 8, 1 << 24 | 99])
def test_nonsense_is_called_so(word: int) -> None:
    words = np.array([word, 0, 0, 0], np.uint32)
    told = explain_mismatch(np.concatenate([SUM.words(), words]), SUM.words(), 0, 2, True)
    assert "rank 1: something that is no collective of this library" in told
