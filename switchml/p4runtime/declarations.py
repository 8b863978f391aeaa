"""What a program declares of fields and actions, whatever it was read from: a P4Info, or BMv2's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from switchml.p4runtime.entries import ActionCall, MatchKind
from switchml.p4runtime.refusals import invalid


@dataclass(frozen=True)
class FieldInfo:
    """A field of a key, or of a packet's metadata."""

    id: int
    name: str
    width: int
    kind: MatchKind = MatchKind.EXACT


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter of an action; width: bits."""

    id: int
    name: str
    width: int


@dataclass(frozen=True)
class ActionInfo:
    """An action and its parameters in order."""

    id: int
    name: str
    parameters: tuple[ParameterInfo, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    def call(self, arguments: Mapping[str, int]) -> ActionCall:
        """A call with arguments by name. Raises INVALID_ARGUMENT when they are not the action's."""
        if set(self.names) != set(arguments):
            raise invalid(
                f"action {self.name} takes {', '.join(self.names) or 'no parameters'}, not {', '.join(arguments)}"
            )
        return ActionCall(self.name, tuple(arguments[name] for name in self.names))

    def arguments(self, call: ActionCall) -> dict[str, int]:
        """The arguments of a call by name."""
        return dict(zip(self.names, call.arguments, strict=True))
