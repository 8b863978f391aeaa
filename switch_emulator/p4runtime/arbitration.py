"""Which client may write: primary and backups of each role (P4Runtime specification, section 5). No I/O.

Theory of operation. A client is a stream; it takes part from its first arbitration update until its stream ends. For each
role there is the highest election id ever seen. The client that holds that id is the primary, all others are backups; so
there is none when it has left or has lowered its id. Ids of the clients of a role differ.

    event                                          who is told
    update, the id is the highest (or equals it)   everyone of the role: there is a new primary
    update of the primary with a lower id, or none everyone of the role: there is no primary
    update of another client                       the sender
    the primary's stream ends                      everyone of the role that is left
    a backup's stream ends                         nobody

A role is a name with an election of its own; each has the whole pipeline, because no scheme of role configurations is
agreed upon, and a configuration is refused. "" is the default role.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from switchml.p4runtime.refusals import invalid, not_found, precondition, too_many

_LONGEST_ROLE = 255


@dataclass(frozen=True)
class Notice:
    """What a client is told.

    Attributes:
        election_id: the highest seen, None while there was none.
        status: OK to the primary, ALREADY_EXISTS to a backup, NOT_FOUND to all when there is no primary.
    """

    client: Hashable
    role: str
    election_id: int | None
    status: str


@dataclass
class _Role:
    highest: int | None = None
    clients: dict[Hashable, int | None] = field(default_factory=dict)

    def primary(self) -> Hashable | None:
        if self.highest is None:
            return None
        return next((client for client, chosen in self.clients.items() if chosen == self.highest), None)


class Arbiter:
    """The elections of one device.

    Args:
        max_clients: streams of one role at the same time.
        max_roles: whose highest election ids are remembered, which is for ever.
    """

    def __init__(self, device_id: int, max_clients: int = 64, max_roles: int = 256) -> None:
        self.device_id = device_id
        self._max_clients = max_clients
        self._max_roles = max_roles
        self._roles: dict[str, _Role] = {"": _Role()}
        self._role_of: dict[Hashable, str] = {}

    def update(
        self,
        client: Hashable,
        device_id: int,
        role: str,
        election_id: int | None,
        *,
        configured: bool = False,
    ) -> list[Notice]:
        """An arbitration update of `client`. Raises RuntimeRequestError, whose code its stream ends with.

        Args:
            client: the stream.
            device_id: of the device it means to control.
            role: "" for the default role.
            election_id: None for none, which is less than any.
            configured: the update carries a role configuration.
        """
        known = self._role_of.get(client)
        if device_id != self.device_id:
            message = f"there is no device {device_id}; this one is {self.device_id}"
            raise not_found(message) if known is None else precondition(message)
        if known is not None and role != known:
            raise precondition(f"this stream has the role {known!r}; open another one for {role!r}")
        if configured:
            raise invalid(
                "role configurations are not supported: leave `config` unset for the whole pipeline"
            )
        if role not in self._roles and (len(role) > _LONGEST_ROLE or len(self._roles) >= self._max_roles):
            raise too_many(
                f"{self._max_roles} roles of up to {_LONGEST_ROLE} characters is what this device remembers"
            )
        state = self._roles.get(role) or _Role()
        if election_id is not None and any(
            other != client and chosen == election_id for other, chosen in state.clients.items()
        ):
            raise invalid(f"election id {election_id} is another client's; choose one of your own")
        if known is None and len(state.clients) >= self._max_clients:
            raise too_many(f"role {role!r} has {self._max_clients} clients already")

        was_primary = state.primary() == client and known is not None
        self._roles[role] = state
        self._role_of[client] = role
        state.clients[client] = election_id
        if election_id is not None and (state.highest is None or election_id >= state.highest):
            state.highest = election_id
            return list(self._notices(role))
        if was_primary:
            return list(self._notices(role))
        return [notice for notice in self._notices(role) if notice.client == client]

    def disconnect(self, client: Hashable) -> list[Notice]:
        """The client's stream has ended."""
        role = self._role_of.pop(client, None)
        if role is None:
            return []
        state = self._roles[role]
        was_primary = state.primary() == client
        del state.clients[client]
        return list(self._notices(role)) if was_primary else []

    def has_role(self, role: str) -> bool:
        """Whether anyone has ever asked for this role."""
        return role in self._roles

    def is_primary(self, role: str, election_id: int | None) -> bool:
        """Is a request with this role and id the primary's?"""
        state = self._roles.get(role)
        return (
            state is not None
            and election_id is not None
            and election_id == state.highest
            and state.primary() is not None
        )

    def is_primary_client(self, client: Hashable) -> bool:
        """Whether this client is the primary of its role."""
        role = self._role_of.get(client)
        return role is not None and self._roles[role].primary() == client

    def primaries(self) -> list[Hashable]:
        """The primary of each role that has one: who gets packets and notifications."""
        found = (state.primary() for state in self._roles.values())
        return [client for client in found if client is not None]

    def _notices(self, role: str) -> Iterator[Notice]:
        state = self._roles[role]
        primary = state.primary()
        for client in state.clients:
            status = "NOT_FOUND" if primary is None else "OK" if client == primary else "ALREADY_EXISTS"
            yield Notice(client, role, state.highest, status)
