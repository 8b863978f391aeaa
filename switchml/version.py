"""`switchml version`."""

from __future__ import annotations

import platform
from importlib import metadata

STANDS_ON = ("numba", "numpy", "grpcio", "protobuf", "torch")


def version() -> None:
    """Show the versions of switchml and of what it stands on, one a line."""
    for name in ("switchml", *STANDS_ON):
        try:
            print(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            print(name, "not installed")
    print("python", platform.python_version())
    print("kernel", platform.release())
