"""Multicast groups and mirror sessions in the runtime CLI's terms, which count nodes, on a runtime that has none."""

from __future__ import annotations

from collections.abc import Sequence

from switchml.errors import SwitchMLError
from switchml.p4runtime.entries import CloneSession, Replica
from switchml.switch_emulator.runtime import Runtime


class ReplicationError(SwitchMLError):
    """A verb whose node, group or session there is not."""


class Replication:
    """Nodes are numbered from 0 in the order of their creation, as BMv2 numbers them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._created = 0
        self._nodes: dict[int, tuple[Replica, ...]] = {}
        self._groups: dict[int, list[int]] = {}
        self._sessions: dict[int, int] = {}  # session -> group, of those that follow one

    def apply(self, verb: str, arguments: Sequence[int]) -> str:
        """Carry out one verb; what it tells.

        Raises:
            ReplicationError: it names something there is not.
            RuntimeRequestError: the runtime refuses.
        """
        first, *rest = arguments
        if verb == "mc_mgrp_create":
            self._groups[first] = []
            self._runtime.set_multicast_group(first, ())
        elif verb == "mc_mgrp_destroy":
            self._group(first)
            del self._groups[first]
            self._runtime.set_multicast_group(first, None)
        elif verb == "mc_node_create":
            self._nodes[self._created] = _replicas(first, rest)
            self._created += 1
        elif verb == "mc_node_update":
            self._nodes[first] = _replicas(self._node(first)[0].instance, rest)
            self._renew(first)
        elif verb == "mc_node_associate":
            self._node(rest[0])
            self._group(first).append(rest[0])
            self._renew(rest[0])
        elif verb == "mc_node_dissociate":
            if rest[0] not in self._group(first):
                raise ReplicationError(f"node {rest[0]} is not in multicast group {first}")
            self._group(first).remove(rest[0])
            self._program(first)
        elif verb == "mc_node_destroy":
            self._node(first)
            holders = [group for group, nodes in self._groups.items() if first in nodes]
            for group in holders:
                self._groups[group].remove(first)
                self._program(group)
            del self._nodes[first]
        else:
            return self._mirror(verb, first, rest)
        return ""

    def _mirror(self, verb: str, session: int, rest: Sequence[int]) -> str:
        if verb == "mirroring_add":
            self._sessions.pop(session, None)
            self._runtime.set_clone_session(session, CloneSession((Replica(rest[0]),)))
        elif verb == "mirroring_add_mc":
            self._sessions[session] = rest[0]
            self._runtime.set_clone_session(session, CloneSession(self._copies(rest[0])))
        elif verb == "mirroring_delete":
            self._sessions.pop(session, None)
            self._runtime.set_clone_session(session, None)
        elif verb == "mirroring_get":
            found = self._runtime.clone_sessions().get(session)
            if found is None:
                raise ReplicationError(f"there is no mirror session {session}")
            return ", ".join(f"port {copy.port} instance {copy.instance}" for copy in found.replicas)
        else:
            raise ReplicationError(f"no verb {verb!r}")
        return ""

    def _node(self, handle: int) -> tuple[Replica, ...]:
        if handle not in self._nodes:
            raise ReplicationError(f"there is no multicast node {handle}")
        return self._nodes[handle]

    def _group(self, group: int) -> list[int]:
        if group not in self._groups:
            raise ReplicationError(f"there is no multicast group {group}: mc_mgrp_create {group} makes it")
        return self._groups[group]

    def _copies(self, group: int) -> tuple[Replica, ...]:
        return tuple(copy for node in self._groups.get(group, ()) for copy in self._nodes[node])

    def _renew(self, node: int) -> None:
        for group, nodes in self._groups.items():
            if node in nodes:
                self._program(group)

    def _program(self, group: int) -> None:
        copies = self._copies(group)
        self._runtime.set_multicast_group(group, copies)
        for session, followed in self._sessions.items():
            if followed == group:
                self._runtime.set_clone_session(session, CloneSession(copies))


def _replicas(instance: int, ports: Sequence[int]) -> tuple[Replica, ...]:
    return tuple(Replica(port, instance) for port in sorted(set(ports)))
