"""A rank's share of the rows, checked as scikit-learn does it, and gone through block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils.validation import _check_sample_weight, _num_samples, validate_data

from switchml.errors import UsageError
from switchml.learn.group import Array, Group

BLOCK_BYTES = 1 << 20
"""Of rows that are taken at once: what a core's cache holds, so that each row comes once from memory in a pass."""
NO_LABELS = "no_validation"  # as scikit-learn says it


@dataclass(frozen=True)
class Rows:
    """This rank's rows.

    Attributes:
        values: (n, features), an array, perhaps mapped from a file, or a CSR matrix; of any real dtype.
        labels: (n,), or None.
        weights: float64 (n,).
        first: which of all ranks' rows is the first here.
        total: rows of all ranks.
        dtype: in which to compute, float32 or float64; the same on all ranks.
    """

    values: Any
    labels: Array | None
    weights: Array
    first: int
    total: int
    dtype: np.dtype[Any]

    @property
    def features(self) -> int:
        """Columns."""
        return int(self.values.shape[1])

    def blocks(self) -> Iterator[tuple[slice, Any]]:
        """Which rows, and these in `dtype`."""
        count = self.values.shape[0]
        step = max(1, BLOCK_BYTES // max(1, self.features * self.dtype.itemsize))
        for start in range(0, count, step):
            where = slice(start, min(start + step, count))
            yield where, self.values[where].astype(self.dtype, copy=False)


def share(total: int, rank: int, size: int) -> slice:
    """Which of `total` rows are a rank's: as many as another's, or one more."""
    return slice(total * rank // size, total * (rank + 1) // size)


def take_rows(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    group: Group,
    rows: str,
    check: Callable[[Array], None] = lambda labels: None,
) -> Rows:
    """Check what `fit` was given. All ranks go on, or all raise an error.

    Args:
        estimator: gets scikit-learn's attributes of its features.
        X: the rows.
        y: their labels; NO_LABELS for an estimator without.
        sample_weight: their weights; None = 1 each.
        group: who fits.
        rows: "all": X has the rows of all ranks, the same on each, which takes its share; "own": X is this rank's share.
        check: raises an error if the labels are none for this estimator.

    Raises:
        UsageError: `rows` is neither, or the ranks' rows do not fit together.
        ValueError: the data cannot be used; on all ranks, and on others than that whose data it is with its number.
    """
    first = 0
    problem: Exception | None = None
    facts = np.zeros(4, np.int64)
    try:
        if rows not in ("all", "own"):
            raise UsageError(f"rows={rows!r}: use 'all' or 'own'")
        if rows == "all" and group.size > 1:
            check_consistent_length(*(part for part in (X, y, sample_weight) if not _is_one_for_all(part)))
            total = _num_samples(X)
            mine = share(total, group.rank, group.size)
            first = mine.start
            X, y, sample_weight = (
                np.asarray(part) if isinstance(part, list | tuple) else part for part in (X, y, sample_weight)
            )
            X, y, sample_weight = (
                part if _is_one_for_all(part) else _safe_indexing(part, mine)
                for part in (X, y, sample_weight)
            )
            facts[3] = total
        options = {
            "accept_sparse": "csr",
            "dtype": "numeric",
            "ensure_min_samples": 1 if group.size == 1 else 0,
        }
        labels = None
        if isinstance(y, str) and y == NO_LABELS:
            X = validate_data(estimator, X, **options)
        else:
            X, labels = validate_data(estimator, X, y, **options)
            if len(labels):
                check(labels)
        weights = _check_sample_weight(
            sample_weight, X, dtype=np.float64, allow_all_zero_weights=group.size > 1
        )
        facts[:3] = *X.shape, X.dtype == np.float32
    except Exception as error:
        problem = error
    said = group.gather(np.array("" if problem is None else f"{problem}"))
    if problem is not None:
        raise problem
    for rank, text in enumerate(said):
        if str(text):
            raise ValueError(f"what rank {rank} was given cannot be used: {text}")
    counts, features, floats, totals = np.stack(group.gather(facts)).T
    if len({*features}) > 1 or len({*totals}) > 1:
        raise UsageError(
            f"by rank, X has {features.tolist()} features and {(totals if totals.any() else counts).tolist()} rows: all ranks "
            "must give as many features and, but with rows='own', the same rows"
        )
    return Rows(
        values=X,
        labels=labels,
        weights=weights,
        first=first if rows == "all" else int(counts[: group.rank].sum()),
        total=int(counts.sum()),
        dtype=np.dtype(np.float32 if floats.all() else np.float64),
    )


def _is_one_for_all(part: Any) -> bool:
    return part is None or np.isscalar(part)
