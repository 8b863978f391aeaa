"""Which updates an entity takes (P4Runtime specification, section 9)."""

from __future__ import annotations

from switchml.p4runtime.refusals import exists, invalid, not_found


def only_modify(update: str, what: str) -> None:
    """Raises INVALID_ARGUMENT for an update of what can neither come nor go."""
    if update != "MODIFY":
        raise invalid(f"{what} is always there: it can only be modified")


def check_presence(update: str, number: int, present: bool, what: str) -> None:
    """Raises INVALID_ARGUMENT for the number 0, which is no id, ALREADY_EXISTS for a second insertion, else NOT_FOUND."""
    if number == 0:
        raise invalid(f"{what}: 0 is no id")
    if update == "INSERT" and present:
        raise exists(f"{what} is there already; use MODIFY")
    if update != "INSERT" and not present:
        raise not_found(f"{what} is not there")
