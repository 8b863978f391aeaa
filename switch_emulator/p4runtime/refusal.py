"""Refusals, by the gRPC status that the specification names for them."""

from __future__ import annotations

import logging

from switchml.switch_emulator.runtime import RuntimeRequestError

_log = logging.getLogger(__name__)


def failure(error: Exception, what: str) -> RuntimeRequestError:
    """For an error that is no refusal but a fault in the switch: INTERNAL, and the log has it."""
    _log.error("P4Runtime: %s failed", what, exc_info=error)
    return RuntimeRequestError("INTERNAL", f"{type(error).__name__}: {error}")


def invalid(message: str) -> RuntimeRequestError:
    return RuntimeRequestError("INVALID_ARGUMENT", message)


def not_found(message: str) -> RuntimeRequestError:
    return RuntimeRequestError("NOT_FOUND", message)


def exists(message: str) -> RuntimeRequestError:
    return RuntimeRequestError("ALREADY_EXISTS", message)


def denied(message: str) -> RuntimeRequestError:
    return RuntimeRequestError("PERMISSION_DENIED", message)


def too_many(message: str) -> RuntimeRequestError:
    return RuntimeRequestError("RESOURCE_EXHAUSTED", message)


def out_of_range(message: str) -> RuntimeRequestError:
    return RuntimeRequestError("OUT_OF_RANGE", message)


def precondition(message: str) -> RuntimeRequestError:
    return RuntimeRequestError("FAILED_PRECONDITION", message)


def unimplemented(message: str) -> RuntimeRequestError:
    return RuntimeRequestError("UNIMPLEMENTED", message)
