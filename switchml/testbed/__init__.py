"""Networks for experiments: namespaces joined by shaped and lossy links, made and removed by one process.

`Star` (`switchml.testbed.star`) needs pyroute2 and root; `why_unavailable` says what is missing.
"""

from __future__ import annotations

from switchml.errors import TestbedError
from switchml.testbed.namespace import Namespace
from switchml.testbed.probe import why_unavailable
from switchml.testbed.shape import LinkShape

__all__ = ["LinkShape", "Namespace", "TestbedError", "why_unavailable"]
