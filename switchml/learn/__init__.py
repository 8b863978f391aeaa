"""Estimators with scikit-learn's interface that one process fits, or all ranks of a group together.

from switchml.learn import LogisticRegression
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from switchml.learn.group import over as over
    from switchml.learn.kmeans import KMeans as KMeans
    from switchml.learn.logistic_regression import LogisticRegression as LogisticRegression

# On demand, because scikit-learn takes seconds to load.
_LAZY = {
    "KMeans": "switchml.learn.kmeans",
    "LogisticRegression": "switchml.learn.logistic_regression",
    "over": "switchml.learn.group",
}

__all__ = ["KMeans", "LogisticRegression", "over"]


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
