"""Actions that a control plane has chosen, and the profiles they are shared in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from switchml.p4runtime.entries import ActionCall, GroupMember, GroupRef, MemberRef, TableAction
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4.program_model import Action, Program
from switchml.switch_emulator.p4.program_model import ActionProfile as ProfileType

ActionFunction = Callable[..., None]


@dataclass
class Call:
    """An action with its arguments, ready to run: function(p, f, *arguments)."""

    name: str
    function: ActionFunction
    arguments: tuple[int, ...]

    @property
    def request(self) -> ActionCall:
        """As a control plane asks for it."""
        return ActionCall(self.name, self.arguments)


class ActionResolver:
    """From names to what runs; checks what a control plane asks for."""

    def __init__(self, program: Program, functions: Mapping[int, ActionFunction]) -> None:
        self._program = program
        self._functions = functions

    def call(self, allowed: Mapping[str, int], request: ActionCall, where: str) -> Call:
        """The action that a control plane asks for.

        Args:
            allowed: ids of the actions by name.
            request: name and arguments.
            where: for messages.
        """
        ident = allowed.get(request.name)
        if ident is None:
            raise RuntimeRequestError("INVALID_ARGUMENT", f"{where} has no action {request.name}")
        action = self._program.action_by_id[ident]
        _check_arguments(action, request.arguments)
        return Call(action.name, self._functions[ident], request.arguments)

    def of_program(self, ident: int, arguments: tuple[int, ...]) -> Call:
        """An action that the program itself names: arguments are cut to their width."""
        action = self._program.action_by_id[ident]
        cut = tuple(v & ((1 << p.width) - 1) for v, p in zip(arguments, action.params, strict=True))
        return Call(action.name, self._functions[ident], cut)


def _check_arguments(action: Action, arguments: tuple[int, ...]) -> None:
    if len(arguments) != len(action.params):
        raise RuntimeRequestError(
            "INVALID_ARGUMENT",
            f"action {action.name} takes {len(action.params)} arguments, not {len(arguments)}",
        )
    for param, value in zip(action.params, arguments, strict=True):
        if not 0 <= value < 1 << param.width:
            raise RuntimeRequestError(
                "INVALID_ARGUMENT",
                f"action {action.name}: {value} does not fit {param.name}, which has {param.width} bits",
            )


class ProfileUser(Protocol):
    """A table that takes its actions from a profile."""

    def uses(self, action: TableAction) -> bool:
        """Whether an entry has this action."""

    def refresh(self) -> None:
        """Members or groups have changed."""


class Profile:
    """An action profile or selector."""

    def __init__(self, info: ProfileType, resolver: ActionResolver) -> None:
        self.info = info
        self.allowed: dict[str, int] = {}
        self.members: dict[int, Call] = {}
        self.groups: dict[int, tuple[GroupMember, ...]] = {}
        self.used_by: list[ProfileUser] = []
        self._resolver = resolver

    def insert_member(self, member: int, request: ActionCall) -> None:
        """Add a member.

        Raises:
            RuntimeRequestError: there is one of that number, the profile is full, or the action does not fit.
        """
        if member in self.members:
            raise RuntimeRequestError("ALREADY_EXISTS", f"{self.info.name} has a member {member}")
        if self.info.max_size and len(self.members) >= self.info.max_size:
            raise RuntimeRequestError(
                "RESOURCE_EXHAUSTED", f"{self.info.name} is full: {self.info.max_size} members"
            )
        self.members[member] = self._resolver.call(self.allowed, request, self.info.name)

    def modify_member(self, member: int, request: ActionCall) -> None:
        """Give a member another action; entries that use it follow.

        Raises:
            RuntimeRequestError: no such member, or the action does not fit.
        """
        self._need_member(member)
        self.members[member] = self._resolver.call(self.allowed, request, self.info.name)
        self._refresh()

    def delete_member(self, member: int) -> None:
        """Remove a member.

        Raises:
            RuntimeRequestError: no such member, or it is in use.
        """
        self._need_member(member)
        if any(member == m.member for group in self.groups.values() for m in group) or self._is_used(
            MemberRef(member)
        ):
            raise RuntimeRequestError("FAILED_PRECONDITION", f"member {member} of {self.info.name} is in use")
        del self.members[member]

    def insert_group(self, group: int, members: Sequence[GroupMember]) -> None:
        """Add a group.

        Raises:
            RuntimeRequestError: there is one of that number, or the profile has no selector or not these members.
        """
        self._need_selector()
        if group in self.groups:
            raise RuntimeRequestError("ALREADY_EXISTS", f"{self.info.name} has a group {group}")
        self._check_members(members)
        self.groups[group] = tuple(members)

    def modify_group(self, group: int, members: Sequence[GroupMember]) -> None:
        """Give a group other members; entries that use it follow.

        Raises:
            RuntimeRequestError: no such group, or a member that the profile has not.
        """
        self._need_group(group)
        self._check_members(members)
        self.groups[group] = tuple(members)
        self._refresh()

    def delete_group(self, group: int) -> None:
        """Remove a group.

        Raises:
            RuntimeRequestError: no such group, or it is in use.
        """
        self._need_group(group)
        if self._is_used(GroupRef(group)):
            raise RuntimeRequestError("FAILED_PRECONDITION", f"group {group} of {self.info.name} is in use")
        del self.groups[group]

    def choices(self, group: int) -> tuple[Call, ...]:
        """Every member as often as its weight says, in the order the members were inserted."""
        self._need_group(group)
        weights = {m.member: m.weight for m in self.groups[group]}
        return tuple(call for member, call in self.members.items() for _ in range(weights.get(member, 0)))

    def member(self, member: int) -> Call:
        """The action of a member.

        Raises:
            RuntimeRequestError: no such member.
        """
        self._need_member(member)
        return self.members[member]

    def need_selector(self) -> None:
        """Raise RuntimeRequestError unless the profile has a selector."""
        self._need_selector()

    def _need_selector(self) -> None:
        if self.info.selector is None:
            raise RuntimeRequestError(
                "INVALID_ARGUMENT", f"{self.info.name} is no selector: it has no groups"
            )

    def _need_member(self, member: int) -> None:
        if member not in self.members:
            raise RuntimeRequestError("NOT_FOUND", f"{self.info.name} has no member {member}")

    def _need_group(self, group: int) -> None:
        if group not in self.groups:
            raise RuntimeRequestError("NOT_FOUND", f"{self.info.name} has no group {group}")

    def _check_members(self, members: Sequence[GroupMember]) -> None:
        for m in members:
            self._need_member(m.member)
            if m.weight < 1:
                raise RuntimeRequestError(
                    "INVALID_ARGUMENT", f"member {m.member}: weight {m.weight}, at least 1"
                )
        if len({m.member for m in members}) != len(members):
            raise RuntimeRequestError("INVALID_ARGUMENT", "a group with a member twice: use its weight")

    def _is_used(self, action: TableAction) -> bool:
        return any(table.uses(action) for table in self.used_by)

    def _refresh(self) -> None:
        for table in self.used_by:
            table.refresh()
