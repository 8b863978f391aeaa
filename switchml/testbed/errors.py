"""What a testbed raises."""

from __future__ import annotations

from switchml.errors import SwitchMLError


class TestbedError(SwitchMLError):
    """The network asked for cannot be built on this machine."""

    __test__ = False  # the name begins like a test class
