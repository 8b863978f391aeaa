"""Refusals, by the gRPC status that the specification names for them."""

from __future__ import annotations

from switchml.switch_emulator.runtime import RuntimeRequestError


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
