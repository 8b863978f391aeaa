"""k-means: a start by k-means||, then Lloyd's iterations, each with one all-reduce of sums and counts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn import cluster
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.extmath import row_norms
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from typing_extensions import override

from switchml.errors import UsageError
from switchml.learn.group import ALONE, Array, Group, current
from switchml.learn.rows import NO_LABELS, Rows, take_rows

_ROUNDS = 5
"""In which k-means|| draws candidates (Bahmani et al., "Scalable K-Means++", VLDB 2012: five are enough)."""
_OVERSAMPLING = 2
"""Candidates a round, as a multiple of the number of clusters."""
_RANDOM_STARTS = 10  # scikit-learn's n_init="auto" for init="random"


class KMeans(cluster.KMeans):  # type: ignore[misc]
    """scikit-learn's, but fitted by all ranks together; parameters, attributes and all other methods are inherited.

    `init="k-means++"` starts by k-means||, its distributed relative, which passes over the data six times; every `algorithm` is
    Lloyd's. Rows are gone through in blocks, so X may be a `numpy.memmap` that is larger than memory. For a given
    `random_state` (rank 0's counts) the random choices do not depend on the number of ranks.
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, rows: str = "all") -> KMeans:
        """Find the clusters. All ranks call it, and end with the same bits, but for `labels_` under rows="own".

        Args:
            X: (n, features), array or CSR matrix.
            y: ignored.
            sample_weight: (n,); None = 1 each.
            rows: "all": X and weights are those of all ranks, and each takes its share; "own": they are this rank's share, and
                `labels_` is about it alone.

        Raises:
            UsageError: a function as `init`, or rows that do not fit together.
            ValueError: what scikit-learn refuses.
        """
        self._validate_params()
        if callable(self.init):
            raise UsageError(
                "init: a function would have to see all rows at once; use 'k-means++', 'random' or an array"
            )
        given = None if isinstance(self.init, str) else np.array(self.init, np.float64)
        starts = self.n_init
        if starts == "auto":
            starts = _RANDOM_STARTS if given is None and self.init == "random" else 1
        group = current()
        with group.sharing_cores():
            data = take_rows(self, X, NO_LABELS, sample_weight, group, rows)
            if data.total < self.n_clusters:
                raise ValueError(f"n_samples={data.total} should be >= n_clusters={self.n_clusters}.")
            if given is not None and given.shape != (self.n_clusters, data.features):
                raise ValueError(
                    f"The shape of the initial centers {given.shape} does not match the number of clusters {self.n_clusters} and "
                    f"the number of features of the data {data.features}."
                )
            search = Search(data, group)
            random = check_random_state(self.random_state)
            best: Found | None = None
            for _ in range(starts if given is None else 1):
                seed = int(group.of_first(np.array([random.randint(2**31 - 1)]))[0])
                if given is not None:
                    centers = given
                elif self.init == "random":
                    centers = search.drawn(self.n_clusters, seed)
                else:
                    centers = search.scalable_start(self.n_clusters, seed)
                found = search.lloyd(centers, self.max_iter, self.tol)
                if best is None or found.inertia < best.inertia:
                    best = found
            assert best is not None
            labels = best.labels
            if rows == "all":
                labels = np.concatenate(group.gather(labels))
        if best.occupied < self.n_clusters:
            warnings.warn(
                f"Number of distinct clusters ({best.occupied}) found smaller than n_clusters ({self.n_clusters}). Possibly due "
                "to duplicate points in X.",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.cluster_centers_ = best.centers.astype(data.dtype)
        self._n_features_out = self.n_clusters  # scikit-learn's name, of what get_feature_names_out counts
        self.labels_, self.inertia_, self.n_iter_ = labels, best.inertia, best.iterations
        return self

    @override
    def predict(self, X: Any) -> Array:
        return self._lonely(X, None)[0]

    @override
    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        return -self._lonely(X, sample_weight)[1]

    def _lonely(self, X: Any, sample_weight: Any) -> tuple[Array, float]:
        """Labels and inertia of these rows, by this process alone."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype="numeric", reset=False)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        dtype = np.dtype(np.float32 if X.dtype == np.float32 else np.float64)
        search = Search(Rows(X, None, weights, 0, X.shape[0], dtype), ALONE)
        inertia = search.assign(self.cluster_centers_.astype(np.float64))[0]
        return search.labels, float(inertia)


@dataclass(frozen=True)
class Found:
    """What Lloyd's iterations came to; `labels` of this rank's rows."""

    centers: Array
    labels: Array
    inertia: float
    iterations: int
    occupied: int


class Search:
    """Passes over the rows. Centers are float64 (clusters, features).

    Attributes:
        labels: int32 (n,), the nearest center of each row here.
    """

    def __init__(self, data: Rows, group: Group) -> None:
        self._data, self._group = data, group
        count = len(data.weights)
        self.labels = np.full(count, -1, np.int32)
        self._weight = float(group.total(np.array([data.weights.sum()]))[0]) or 1.0
        mean = np.zeros(data.features)
        if not sparse.issparse(data.values):
            sums = np.zeros(data.features)
            for where, block in data.blocks():
                sums += data.weights[where].astype(data.dtype) @ block
            mean = group.total(sums) / self._weight
        # Distances are taken from here, so that little cancels in them. Of a sparse matrix 0, or it would not be sparse.
        self._origin = mean.astype(data.dtype)
        self._squares = np.empty(count)
        sums = np.zeros(data.features)
        for where, block in data.blocks():
            if sparse.issparse(block):
                sums += data.weights[where] @ block
            else:
                block = block - self._origin
            self._squares[where] = row_norms(block, squared=True)
        spread = (
            group.total(np.append(sums, self._squares @ data.weights), starts=(data.features,)) / self._weight
        )
        self._variance = float((spread[-1] - np.square(spread[:-1]).sum()) / data.features)

    def _distances(self, where: slice, block: Any, turned: Array, lengths: Array) -> Array:
        """Squared distances less the rows' own squares, (rows, centers). turned: (features, centers); lengths: their squares."""
        products: Array = block @ turned
        products *= -2
        products += lengths
        return products

    def _prepared(self, centers: Array) -> tuple[Array, Array]:
        # (x - o)(c - o) = x(c - o) - o(c - o): so the rows are taken as they are.
        moved = centers - self._origin
        turned = np.ascontiguousarray(moved.T, self._data.dtype)
        lengths = np.square(moved).sum(1) + 2 * (self._origin.astype(np.float64) @ turned.astype(np.float64))
        return turned, lengths.astype(self._data.dtype)

    def assign(self, centers: Array) -> tuple[float, Array, Array]:
        """Set `labels`. Returns inertia, weights a cluster and sums of weighted rows, of the rows here alone."""
        data, count = self._data, len(centers)
        turned, lengths = self._prepared(centers)
        inertia, weights, sums = 0.0, np.zeros(count), np.zeros(centers.shape)
        for where, block in data.blocks():
            distances = self._distances(where, block, turned, lengths)
            labels = distances.argmin(1)
            every = np.arange(len(labels))
            self.labels[where] = labels
            weight = data.weights[where]
            nearest = np.maximum(distances[every, labels] + self._squares[where], 0)
            inertia += float(nearest @ weight)
            weights += np.bincount(labels, weight, count)
            chosen = sparse.csr_matrix(
                (weight.astype(data.dtype), labels, np.arange(len(labels) + 1)), shape=(len(labels), count)
            )
            added = chosen.T @ block
            sums += added.toarray() if sparse.issparse(added) else added
        return inertia, weights, sums

    def lloyd(self, centers: Array, most: int, tol: float) -> Found:
        """Iterate as scikit-learn does: until no label changes, or the centers move by less than `tol` of the variance."""
        count = len(centers)
        iterations = 0
        settled = False
        while True:
            before = self.labels.copy()
            inertia, weights, sums = self.assign(centers)
            part = np.concatenate(
                [[inertia, np.count_nonzero(before != self.labels)], weights, sums.reshape(-1)]
            )
            total = self._group.total(part, centers.tobytes(), (1, 2, count + 2))
            inertia, changed, weights = total[0], total[1], total[2 : count + 2]
            if settled or iterations == most:
                break
            iterations += 1
            moved = self._moved(centers, weights, total[count + 2 :].reshape(centers.shape))
            if iterations > 1 and changed == 0:
                break
            settled = bool(np.square(moved - centers).sum() <= tol * self._variance)
            centers = moved
        occupied = np.count_nonzero(
            self._group.total(np.bincount(self.labels, minlength=count).astype(np.float64))
        )
        return Found(centers, self.labels.copy(), float(inertia), iterations, int(occupied))

    def _moved(self, centers: Array, weights: Array, sums: Array) -> Array:
        """The means; of empty clusters the rows farthest from their own centers, which these then lose."""
        (empty,) = np.nonzero(weights == 0)
        weights = weights.copy()
        if empty.size:
            turned, lengths = self._prepared(centers)
            far = np.empty(len(self.labels))
            for where, block in self._data.blocks():
                near = self._distances(where, block, turned, lengths)
                far[where] = near[np.arange(len(near)), self.labels[where]] + self._squares[where]
            chosen = self._smallest(np.where(self._data.weights > 0, -far, np.inf), empty.size)
            for cluster_, (old, weight, *row) in zip(empty, chosen, strict=False):
                sums[cluster_] = weight * np.array(row)
                sums[int(old)] -= sums[cluster_]
                weights[cluster_] = weight
                weights[int(old)] -= weight
        return np.where(weights[:, None] > 0, sums / np.where(weights > 0, weights, 1)[:, None], centers)

    def _smallest(self, keys: Array, count: int) -> Array:
        """The rows of all ranks with the smallest finite keys, smallest first: label, weight, values."""
        data = self._data
        here = np.argsort(keys, kind="stable")[:count]
        here = here[np.isfinite(keys[here])]
        table = np.column_stack(
            [keys[here], here + data.first, self.labels[here], data.weights[here], self._dense(here)]
        )
        every = np.concatenate(self._group.gather(table))
        return every[np.lexsort((every[:, 1], every[:, 0]))][:count, 2:]

    def _dense(self, which: Array) -> Array:
        values = self._data.values[which]
        dense = values.toarray() if sparse.issparse(values) else np.asarray(values)
        return dense.astype(np.float64)

    def _uniform(self, seed: int, number: int) -> Array:
        """A number in [0, 1) for each row here, which does not depend on who has the row."""
        generator = np.random.PCG64([seed, number])
        generator.advance(self._data.first)
        return np.random.Generator(generator).random(len(self.labels))

    def drawn(self, count: int, seed: int) -> Array:
        """Different rows, drawn with probabilities in proportion to their weights."""
        # The first arrivals of independent processes with the weights as their rates.
        with np.errstate(divide="ignore"):
            keys = -np.log1p(-self._uniform(seed, 0)) / self._data.weights
        chosen = self._smallest(np.where(self._data.weights > 0, keys, np.inf), count)[:, 2:]
        return chosen[np.arange(count) % len(chosen)]

    def scalable_start(self, count: int, seed: int) -> Array:
        """k-means||: candidates drawn by their distance from those before, then clustered by their weights.

        Where there would be as many candidates as rows, all rows are.
        """
        data, group = self._data, self._group
        if data.total <= _ROUNDS * _OVERSAMPLING * count:
            return self._start_from(*self._distinct(), count, seed)
        candidates = self.drawn(1, seed)
        nearest = np.full(len(self.labels), np.inf)
        owner = np.zeros(len(self.labels), np.int64)
        fresh = candidates
        for number in range(1, _ROUNDS + 2):
            turned, lengths = self._prepared(fresh)
            for where, block in data.blocks():
                distances = self._distances(where, block, turned, lengths)
                closest = distances.argmin(1)
                found = np.maximum(distances[np.arange(len(closest)), closest] + self._squares[where], 0)
                better = found < nearest[where]
                owner[where] = np.where(better, closest + len(candidates) - len(fresh), owner[where])
                nearest[where] = np.where(better, found, nearest[where])
            if number > _ROUNDS:
                break
            costs = nearest * data.weights
            cost = group.total(np.array([costs.sum()]), candidates.tobytes())[0]
            if cost <= 0:
                break
            chance = _OVERSAMPLING * count * costs / cost
            (chosen,) = np.nonzero(self._uniform(seed, number) < chance)
            fresh = np.concatenate(group.gather(self._dense(chosen)))
            if not len(fresh):
                break
            candidates = np.concatenate([candidates, fresh])
        weights = group.total(np.bincount(owner, data.weights, len(candidates)).astype(np.float64))
        return self._start_from(candidates, weights, count, seed)

    def _distinct(self) -> tuple[Array, Array]:
        """All ranks' different rows that weigh something, and their weights."""
        (here,) = np.nonzero(self._data.weights)
        table = np.column_stack([self._dense(here), self._data.weights[here]])
        every = np.concatenate(self._group.gather(table))
        values, which = np.unique(every[:, :-1], axis=0, return_inverse=True)
        return values, np.bincount(which.reshape(-1), every[:, -1], len(values))

    def _start_from(self, candidates: Array, weights: Array, count: int, seed: int) -> Array:
        if len(candidates) < count:
            return np.concatenate([candidates, self.drawn(count - len(candidates), seed + 1)])
        # By one rank: with other numbers of threads scikit-learn rounds otherwise.
        centers = candidates[:count]
        if self._group.rank == 0:
            chooser = cluster.KMeans(count, n_init=1, random_state=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                centers = chooser.fit(candidates, sample_weight=weights).cluster_centers_
        return self._group.of_first(centers)
