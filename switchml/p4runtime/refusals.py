"""Refusals, by the gRPC status that the specification names for them."""

from __future__ import annotations

import logging

from switchml.errors import SwitchMLError

_log = logging.getLogger(__name__)


class RuntimeRequestError(SwitchMLError):
    """A request that the pipeline can't carry out: `code` is the name of the gRPC status (P4Runtime specification, section 9)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class P4RuntimeError(RuntimeRequestError):
    """A switch's refusal, as its controller sees it. `details`: one line for each update that failed."""

    def __init__(self, message: str, code: str = "UNKNOWN", details: tuple[str, ...] = ()) -> None:
        super().__init__(code, message)
        self.details = details

    def all_have_code(self, code: str) -> bool:
        """Whether every failure in it is of that kind."""
        return self.code == code or (
            bool(self.details) and all(line.startswith(f"{code}:") for line in self.details)
        )


class NotPrimaryError(P4RuntimeError):
    """Another controller with a higher election id has the switch (P4Runtime specification, section 5)."""


def failure(error: Exception, what: str) -> RuntimeRequestError:
    """For an error that is no refusal but a fault in the switch: INTERNAL, and the log has it."""
    _log.error("P4Runtime: %s failed", what, exc_info=error)
    return RuntimeRequestError("INTERNAL", f"{type(error).__name__}: {error}")


def invalid(message: str) -> RuntimeRequestError:
    """INVALID_ARGUMENT."""
    return RuntimeRequestError("INVALID_ARGUMENT", message)


def not_found(message: str) -> RuntimeRequestError:
    """NOT_FOUND."""
    return RuntimeRequestError("NOT_FOUND", message)


def exists(message: str) -> RuntimeRequestError:
    """ALREADY_EXISTS."""
    return RuntimeRequestError("ALREADY_EXISTS", message)


def denied(message: str) -> RuntimeRequestError:
    """PERMISSION_DENIED."""
    return RuntimeRequestError("PERMISSION_DENIED", message)


def too_many(message: str) -> RuntimeRequestError:
    """RESOURCE_EXHAUSTED."""
    return RuntimeRequestError("RESOURCE_EXHAUSTED", message)


def out_of_range(message: str) -> RuntimeRequestError:
    """OUT_OF_RANGE."""
    return RuntimeRequestError("OUT_OF_RANGE", message)


def precondition(message: str) -> RuntimeRequestError:
    """FAILED_PRECONDITION."""
    return RuntimeRequestError("FAILED_PRECONDITION", message)


def unimplemented(message: str) -> RuntimeRequestError:
    """UNIMPLEMENTED."""
    return RuntimeRequestError("UNIMPLEMENTED", message)
