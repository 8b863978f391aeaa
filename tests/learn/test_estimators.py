"""The estimators beside scikit-learn's, alone and over several ranks."""

from __future__ import annotations

import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks_in_threads import on_ranks
from scipy import sparse
from sklearn import cluster, linear_model
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from switchml.errors import UsageError
from switchml.learn import KMeans, LogisticRegression
from switchml.learn import group as learn_group
from switchml.learn import rows as learn_rows
from switchml.learn.group import ALONE
from switchml.learn.kmeans import Search
from switchml.learn.logistic_regression import Objective
from switchml.learn.rows import Rows, share

IMAGES, NAMES = load_digits(return_X_y=True)
IMAGES = (IMAGES / 16)[:600]
NAMES = NAMES[:600]
WEIGHTS = np.random.default_rng(5).uniform(0, 2, len(IMAGES))
EXACT = {"tol": 1e-9, "max_iter": 1000}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn_rows, "BLOCK_BYTES", 100 * 64 * 8)


@pytest.mark.parametrize("estimator", [LogisticRegression(), KMeans()])
def test_scikit_learns_own_checks_pass(estimator: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = check_estimator(estimator, on_skip=None)
    assert {each["status"] for each in told} <= {"passed", "skipped"}
    assert len(told) > 50


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("options", [{}, {"class_weight": "balanced", "fit_intercept": False, "C": 0.1}])
def test_logistic_regression_is_scikit_learns(classes: int, options: dict[str, Any]) -> None:
    chosen = classes > NAMES
    data = IMAGES[chosen], NAMES[chosen], WEIGHTS[chosen]
    theirs = linear_model.LogisticRegression(**EXACT, **options).fit(*data)
    ours = LogisticRegression(**EXACT, **options).fit(*data)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-3)
    np.testing.assert_array_equal(ours.predict(IMAGES), theirs.predict(IMAGES))


def test_logistic_regression_takes_scikit_learns_iterations_and_says_when_they_are_too_few() -> None:
    with pytest.warns(ConvergenceWarning, match="failed to converge after 7 iteration"):
        ours = LogisticRegression(max_iter=7).fit(IMAGES, NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = linear_model.LogisticRegression(max_iter=7).fit(IMAGES, NAMES)
    assert ours.n_iter_ == theirs.n_iter_ == 7
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for model in (ours, theirs):
            model.set_params(warm_start=True, max_iter=3).fit(IMAGES, NAMES)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", [{"l1_ratio": 0.5}, {"solver": "liblinear"}])
def test_what_logistic_regression_has_not_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="there is an L2 penalty"):
        LogisticRegression(**options).fit(IMAGES, NAMES)


def test_kmeans_from_given_centers_is_scikit_learns() -> None:
    start = IMAGES[:10]
    theirs = cluster.KMeans(10, init=start, n_init=1).fit(IMAGES, sample_weight=WEIGHTS)
    ours = KMeans(10, init=start).fit(IMAGES, sample_weight=WEIGHTS)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-9)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, atol=1e-9)
    assert ours.score(IMAGES, sample_weight=WEIGHTS) == pytest.approx(-theirs.inertia_, rel=1e-9)
    np.testing.assert_array_equal(ours.predict(IMAGES[:50]), theirs.labels_[:50])


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_kmeans_starts_as_well_as_scikit_learn(init: str) -> None:
    theirs = cluster.KMeans(10, init=init, n_init=5, random_state=0).fit(IMAGES).inertia_
    ours = KMeans(10, init=init, n_init=5, random_state=0).fit(IMAGES).inertia_
    assert ours <= 1.02 * theirs


def test_kmeans_gives_empty_clusters_the_farthest_rows() -> None:
    data = np.array([[0.0], [1.0], [3.0], [50.0]])
    start = np.array([[1.0], [1000.0], [2000.0]])
    wanted = cluster.KMeans(3, init=start, n_init=1).fit(data)
    for found in on_ranks(2, lambda rank: KMeans(3, init=start).fit(data)):
        assert found.inertia_ == pytest.approx(wanted.inertia_)
        assert sorted(found.cluster_centers_[:, 0]) == sorted(wanted.cluster_centers_[:, 0])
    with pytest.warns(ConvergenceWarning, match=r"clusters \(1\) found smaller than n_clusters \(2\)"):
        KMeans(2).fit(np.ones((20, 2)))
    with pytest.raises(UsageError, match="a function"):
        KMeans(2, init=lambda X, n_clusters, random_state: X[:n_clusters]).fit(data)


@given(st.integers(1, 6), st.integers(0, 40))
def test_shares_are_all_rows_once_and_alike_in_number(size: int, total: int) -> None:
    shares = [share(total, rank, size) for rank in range(size)]
    assert [row for one in shares for row in range(total)[one]] == list(range(total))
    assert {one.stop - one.start for one in shares} <= {total // size, total // size + 1}


@given(
    st.lists(st.integers(0, 600), max_size=3), st.integers(0, 2**31), st.sampled_from([2, 10]), st.booleans()
)
@settings(max_examples=30, deadline=None)
def test_shares_of_rows_sum_to_what_one_process_has(
    cuts: list[int], seed: int, classes: int, as_sparse: bool
) -> None:
    images = sparse.csr_matrix(IMAGES) if as_sparse else IMAGES
    random = np.random.default_rng(seed)
    flat = random.standard_normal((1 if classes == 2 else classes) * 65)
    centers = random.standard_normal((7, 64))
    codes = NAMES % classes

    def shares(edges: list[int]) -> np.ndarray:
        every = []
        for start, stop in pairwise(edges):
            own = slice(start, stop)
            data = Rows(images[own], None, WEIGHTS[own], start, 600, np.dtype(np.float64))
            objective = Objective(data, codes[own], WEIGHTS[own], 1.0, 0.0, classes, True, ALONE)
            loss, gradient = objective(flat)
            search = Search(data, ALONE)
            inertia, weights, sums = search.assign(centers)
            drawn = search._uniform(seed, 3).sum()
            every.append(np.concatenate([[loss, inertia, drawn], gradient, weights, sums.ravel()]))
        return np.sum(every, 0)

    edges = [0, *sorted(cuts), 600]
    np.testing.assert_allclose(shares(edges), shares([0, 600]), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize(
    ("dtype", "as_sparse", "edges"),
    [
        (np.float32, False, [0, 1, 600]),
        (np.uint8, False, [0, 200, 450, 600]),
        (np.float64, True, [0, 599, 600]),
    ],
)
def test_ranks_end_alike_and_as_one_process(dtype: Any, as_sparse: bool, edges: list[int]) -> None:
    """With the rows of all, or with their own, however these are cut."""
    images = (IMAGES * 16).astype(dtype)
    given_ = sparse.csr_matrix(images) if as_sparse else images
    words = NAMES.astype(str).astype(object)

    def fit(rank: int, rows: str) -> tuple[Any, Any]:
        own = slice(edges[rank], edges[rank + 1]) if rows == "own" else slice(None)
        part = given_[own]
        model = LogisticRegression(max_iter=10).fit(part, words[own], WEIGHTS[own], rows=rows)
        clusters = KMeans(5, random_state=3, tol=0).fit(part, sample_weight=WEIGHTS[own], rows=rows)
        return model, clusters

    one, center = fit(0, "all")
    for rows in ("all", "own"):
        found = on_ranks(len(edges) - 1, partial(fit, rows=rows))
        assert len({model.coef_.tobytes() + near.cluster_centers_.tobytes() for model, near in found}) == 1
        model, near = found[0]
        assert model.classes_.tolist() == one.classes_.tolist()
        assert model.coef_.dtype == one.coef_.dtype
        np.testing.assert_allclose(model.coef_, one.coef_, atol=1e-3)
        assert near.inertia_ == pytest.approx(center.inertia_, rel=1e-5)
        labels = near.labels_ if rows == "all" else np.concatenate([each.labels_ for _, each in found])
        assert (labels == center.labels_).mean() > 0.99


def test_more_ranks_than_rows() -> None:
    for model in on_ranks(4, lambda rank: LogisticRegression().fit([[0.0], [1.0], [3.0]], ["a", "b", "b"])):
        assert model.predict([[0.0], [3.0]]).tolist() == ["a", "b"]


def test_what_one_rank_was_given_wrongly_ends_the_fit_of_all() -> None:
    def fit(rank: int) -> Any:
        images = IMAGES.copy()
        images[0, 0] = np.nan if rank == 1 else 0
        return KMeans(2).fit(images, rows="own")

    first, second, third = on_ranks(3, fit)
    assert "rank 1 was given cannot be used: Input X contains NaN" in str(first)
    assert str(second).startswith("Input X contains NaN")
    assert type(third) is ValueError
    for error in on_ranks(2, lambda rank: KMeans(2).fit(IMAGES[: 300 + rank])):
        assert isinstance(error, UsageError)
        assert "by rank, X has [64, 64] features and [300, 301] rows" in str(error)
    for error in on_ranks(2, lambda rank: KMeans(2).fit(IMAGES, rows="mine")):
        assert "rows='mine': use 'all' or 'own'" in str(error)


def test_rows_mapped_from_a_file_are_read_block_by_block(tmp_path: Path) -> None:
    """Bytes in the file, floats in a block alone: nowhere a copy of all."""
    shown = np.memmap(tmp_path / "images", np.uint8, "w+", shape=(600, 64))
    shown[:] = IMAGES * 16
    shown.flush()
    mapped = np.memmap(tmp_path / "images", np.uint8, "r", shape=(600, 64))
    taken = learn_rows.take_rows(KMeans(), mapped, learn_rows.NO_LABELS, None, ALONE, "all")
    assert np.shares_memory(taken.values, mapped)
    blocks = list(taken.blocks())
    assert [where.stop - where.start for where, _ in blocks] == [100] * 6
    assert {block.dtype for _, block in blocks} == {np.dtype(np.float64)}
    ours = KMeans(10, init=IMAGES[:10] * 16).fit(mapped)
    theirs = cluster.KMeans(10, init=IMAGES[:10] * 16, n_init=1).fit(IMAGES * 16)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-9)


def test_large_distances_do_not_round_away_how_many_rows_a_cluster_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learn_group, "GATHERED_BYTES", 0)
    random = np.random.default_rng(3)
    rows = 3e8 * random.standard_normal((600, 8))  # as bytes of traffic
    rows[301:] += 3e9
    model = KMeans(2, init=rows[[0, -1]], tol=0)
    expected = model.fit(rows).cluster_centers_
    for centers in on_ranks(2, lambda rank: KMeans(2, init=rows[[0, -1]], tol=0).fit(rows).cluster_centers_):
        np.testing.assert_allclose(centers, expected, rtol=1e-12)
