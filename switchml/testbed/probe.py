"""Whether this machine can build a testbed."""

from __future__ import annotations

import importlib.util

from switchml.errors import TestbedError
from switchml.testbed.shape import LinkShape


def why_unavailable(*, rate: bool = True, loss: bool = False, delay: bool = False) -> str | None:
    """None when a star can be built here, otherwise the reason in words. Tries the smallest one."""
    if importlib.util.find_spec("pyroute2") is None:
        return "pyroute2 is not installed: pip install 'switchml[testbed]'"
    from switchml.testbed.star import Star

    try:
        shape = LinkShape(rate=10**9 if rate else 0, loss=0.5 if loss else 0.0, delay=0.001 if delay else 0.0)
        Star(1, shape).close()
    except TestbedError as error:
        return str(error)
    return None
