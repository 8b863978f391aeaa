"""What can go wrong between a controller and a P4Runtime switch."""

from __future__ import annotations

from switchml.errors import SwitchMLError


class P4RuntimeError(SwitchMLError):
    """The switch refused a request. `code` is the name of the gRPC status; `details`, one line for each update that failed."""

    def __init__(self, message: str, code: str = "UNKNOWN", details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.details = details


class NotPrimaryError(P4RuntimeError):
    """Another controller with a higher election id has the switch (P4Runtime specification, section 5)."""


class UnknownNameError(P4RuntimeError):
    """The switch's program has no entity, field or parameter of that name."""


def all_have_code(error: P4RuntimeError, code: str) -> bool:
    """Whether every failure in `error` is of that kind."""
    return error.code == code or (
        bool(error.details) and all(line.startswith(f"{code}:") for line in error.details)
    )
