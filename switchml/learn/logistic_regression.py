"""Multinomial logistic regression with an L2 penalty, by L-BFGS: one all-reduce of loss and gradient an evaluation."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from typing_extensions import override

from switchml.errors import UsageError
from switchml.learn.group import Array, Group, current
from switchml.learn.rows import Rows, take_rows


class LogisticRegression(linear_model.LogisticRegression):  # type: ignore[misc]
    """scikit-learn's, but fitted by all ranks together; parameters, attributes and all other methods are inherited.

    It minimises what scikit-learn does with `solver="lbfgs"`, and in the same way, whatever other solver of the same function
    is named. Rows are gone through in blocks, so X may be a `numpy.memmap` that is larger than memory.
    """

    coef_: Array
    intercept_: Array

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, rows: str = "all") -> LogisticRegression:
        """Fit the model. All ranks call it, and end with the same bits.

        Args:
            X: (n, features), array or CSR matrix.
            y: (n,), classes.
            sample_weight: (n,); None = 1 each.
            rows: "all": X, y and weights are those of all ranks, and each takes its share; "own": they are this rank's share.

        Raises:
            UsageError: a penalty other than L2, or rows that do not fit together.
            ValueError: what scikit-learn refuses.
        """
        self._validate_params()
        inverse = self._strength()
        group = current()
        with group.sharing_cores():
            data = take_rows(self, X, y, sample_weight, group, rows, check_classification_targets)
            self.classes_, codes = _classes(data.labels, group)
            count = len(self.classes_)
            if count < 2:
                raise ValueError(
                    "This solver needs samples of at least 2 classes in the data, but the data contains only one class: "
                    f"{self.classes_[0]!r}"
                )
            weighted = group.total(np.bincount(codes, data.weights, count).astype(np.float64))
            if self.class_weight is None:
                factors = np.ones(count)
            elif self.class_weight == "balanced":
                factors = weighted.sum() / (count * weighted)
            else:
                factors = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)
            objective = Objective(
                data,
                codes,
                factors[codes] * data.weights,
                float(weighted @ factors),
                inverse,
                count,
                self.fit_intercept,
                group,
            )
            start = np.zeros(objective.shape)
            if self.warm_start and hasattr(self, "coef_"):
                start[:, : data.features] = self.coef_
                if self.fit_intercept:
                    start[:, -1] = self.intercept_
            found = minimize(
                objective,
                start.reshape(-1),
                method="L-BFGS-B",
                jac=True,
                # As scikit-learn has them, so that it takes as many iterations.
                options={
                    "maxiter": self.max_iter,
                    "maxls": 50,
                    "gtol": self.tol,
                    "ftol": 64 * np.finfo(float).eps,
                },
            )
        if not found.success:
            warnings.warn(
                f"lbfgs failed to converge after {found.nit} iteration(s) (status={found.status}): {found.message}; increase "
                "max_iter, or scale the data",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.n_iter_ = np.array([min(found.nit, self.max_iter)], np.int32)
        solution = found.x.reshape(objective.shape).astype(data.dtype)
        self.coef_ = solution[:, : data.features].copy()
        self.intercept_ = (
            solution[:, -1].copy() if self.fit_intercept else np.zeros(len(solution), data.dtype)
        )
        return self

    def _strength(self) -> float:
        """1 / C of the L2 penalty, 0 for none.

        Raises:
            UsageError: the parameters ask for something else.
        """
        penalty = getattr(self, "penalty", "l2")
        if penalty not in ("l2", "deprecated", None) or self.l1_ratio or self.solver == "liblinear":
            raise UsageError(
                f"penalty={penalty!r}, l1_ratio={self.l1_ratio!r}, solver={self.solver!r}: there is an L2 penalty, or none, and "
                "liblinear, which penalises the intercept too, minimises another function"
            )
        return 0.0 if penalty is None else 1.0 / self.C

    @override
    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = False
        return tags


def _classes(labels: Any, group: Group) -> tuple[Array, Array]:
    """All ranks' classes, sorted, and which of them each label here is."""
    own = np.unique(labels)
    objects = own.dtype == object
    found = [
        each for each in group.gather(own.astype(str) if objects and group.size > 1 else own) if each.size
    ]
    classes = np.unique(np.concatenate(found or [own]))
    if objects:
        classes = classes.astype(object)
    return classes, np.searchsorted(classes, labels)


class Objective:
    """Loss and gradient at flattened coefficients, (classes, features + 1) or, for two classes, those of the second alone.

    Mean of the rows' losses by weight, and half the squared coefficients over C and the weights' sum.

    Attributes:
        shape: of the coefficients.
    """

    def __init__(
        self,
        data: Rows,
        codes: Array,
        weights: Array,
        weight: float,
        inverse: float,
        classes: int,
        intercept: bool,
        group: Group,
    ) -> None:
        self._data, self._codes, self._group = data, codes, group
        self._weights = weights.astype(data.dtype)
        self._weight = weight or 1.0
        self._penalty = inverse / self._weight
        self._intercept = intercept
        self.shape = 1 if classes == 2 else classes, data.features + intercept

    def __call__(self, flat: Array) -> tuple[float, Array]:
        """Loss and gradient, the same bits on all ranks."""
        total = self._group.total(self._share(flat), flat.tobytes(), (1,))
        penalised = flat.copy()
        if self._intercept:
            penalised.reshape(self.shape)[:, -1] = 0
        gradient = total[1:] / self._weight + self._penalty * penalised
        return total[0] / self._weight + 0.5 * self._penalty * (penalised @ penalised), gradient

    def _share(self, flat: Array) -> Array:
        """This rank's part: of the loss, then of the gradient."""
        data, features = self._data, self._data.features
        part: Array = np.zeros(1 + flat.size)
        gradient: Array = part[1:].reshape(self.shape)
        coefficients: Array = flat.reshape(self.shape).astype(data.dtype)
        slopes: Array = np.ascontiguousarray(coefficients[:, :features].T)
        for where, block in data.blocks():
            scores: Array = block @ slopes
            if self._intercept:
                scores += coefficients[:, -1]
            losses = _to_residuals(scores, self._codes[where])
            weights = self._weights[where]
            part[0] += np.dot(weights, losses)
            scores *= weights[:, None]
            gradient[:, :features] += scores.T @ block
            if self._intercept:
                gradient[:, -1] += scores.sum(0)
        return part


def _to_residuals(scores: Array, codes: Array) -> Array:
    """Turn scores into probabilities less 1 at the true class, in place; returns the losses, (n,)."""
    if scores.shape[1] == 1:
        column = scores[:, 0]
        losses: Array = np.logaddexp(0, column) - codes * column
        expit(column, out=column)
        column -= codes
        return losses
    every = np.arange(len(codes))
    scores -= scores.max(1, keepdims=True)
    losses = -scores[every, codes]
    np.exp(scores, out=scores)
    sums = scores.sum(1)
    losses += np.log(sums)
    scores /= sums[:, None]
    scores[every, codes] -= 1
    return losses
