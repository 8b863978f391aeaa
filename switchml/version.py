"""`switchml version`."""

from __future__ import annotations

import platform
from importlib import metadata

STANDS_ON = ("numba", "numpy", "grpcio", "protobuf", "torch")
"""Distributions that the report names beside switchml itself."""


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution; None = it is not there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def version() -> None:
    """Show the versions of switchml and of what it stands on, one a line."""
    for name in ("switchml", *STANDS_ON):
        print(name, installed_version(name) or "not installed")
    print("python", platform.python_version())
    print("kernel", platform.release())
