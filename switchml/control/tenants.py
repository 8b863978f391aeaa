"""Who shares a switch, and how much of it each may have: a token for each tenant, in a TOML file.

[vision]
token = "..."
slots = 256                   # of the pool, all jobs together; without: any number
packets_per_second = 200_000  # likewise
"""

from __future__ import annotations

import hmac
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from switchml.control.control_messages import SMALLEST_DEFAULT_WINDOW
from switchml.errors import InvalidTokenError, UsageError

MAX_TENANTS = 255
_MOST = 1_000_000_000


@dataclass(frozen=True)
class Tenant:
    """Whoever shows a token.

    Attributes:
        name: for people.
        token: of its own.
        slots: of the pool, that all its jobs together may hold; 0 = any number.
        packets_per_second: that the switch takes of all its jobs together; 0 = any number.
        number: from 1; 0 = of no table.
    """

    name: str
    token: str
    slots: int = 0
    packets_per_second: int = 0
    number: int = 0


NOBODY = Tenant("", "")
"""Of a switch that nobody shares."""


def read_tenants(path: Path, token: str) -> tuple[Tenant, ...]:
    """The tenants of a file.

    Args:
        path: of the file.
        token: of the switch, which whoever looks after it shows, and which they must not know.

    Raises:
        UsageError: it cannot be read, or is not what it should be.
    """
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"tenants in {path}: {error}") from error
    if not 1 <= len(found) <= MAX_TENANTS:
        raise UsageError(f"tenants in {path}: {len(found)} of them; there may be 1 to {MAX_TENANTS}")
    tenants = tuple(
        _tenant(path, name, entry, number) for number, (name, entry) in enumerate(found.items(), 1)
    )
    if not token:
        raise UsageError(
            "--tenants: the switch needs a token of its own as well, for all else that it offers; give --token"
        )
    if len({token, *(tenant.token for tenant in tenants)}) <= len(tenants):
        raise UsageError(f"tenants in {path}: two have one token, or the switch's")
    return tenants


def _tenant(path: Path, name: str, entry: Any, number: int) -> Tenant:
    known = {field.name for field in fields(Tenant)} - {"name", "number"}
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str) or not entry["token"]:
        raise UsageError(f"tenant {name!r} in {path} has no token")
    if unknown := set(entry) - known:
        raise UsageError(
            f"tenant {name!r} in {path}: {', '.join(sorted(unknown))}: there is {', '.join(sorted(known))}"
        )
    for what in known - {"token"}:
        value = entry.get(what, 0)
        if type(value) is not int or not 0 <= value <= _MOST:
            raise UsageError(
                f"tenant {name!r} in {path}: {what} is {value!r}, not a number from 0 to {_MOST}"
            )
    if 0 < entry.get("slots", 0) < SMALLEST_DEFAULT_WINDOW:
        raise UsageError(f"tenant {name!r} in {path}: a job needs at least {SMALLEST_DEFAULT_WINDOW} slots")
    return Tenant(name, number=number, **entry)


class Doorkeeper:
    """Knows tenants by their tokens.

    Args:
        token: of the switch, which has no limits; "" lets everybody in where there are no tenants.
        tenants: that share it.
    """

    def __init__(self, token: str, tenants: Sequence[Tenant] = ()) -> None:
        self._known = [(tenant.token.encode(), tenant) for tenant in tenants]
        if token:
            self._known.append((token.encode(), NOBODY))

    @property
    def asks(self) -> bool:
        """Whether a token is needed."""
        return bool(self._known)

    def admit(self, token: str) -> Tenant:
        """Whose token it is.

        Raises:
            InvalidTokenError: nobody's.
        """
        if not self._known:
            return NOBODY
        # All are compared: how long it takes tells nothing.
        shown = token.encode()
        found = [tenant for known, tenant in self._known if hmac.compare_digest(shown, known)]
        if not found:
            what = "another token" if token else "no token"
            raise InvalidTokenError(
                f"this switch needs a join token and was shown {what}; set SWITCHML_TOKEN to the switch's"
            )
        return found[0]
