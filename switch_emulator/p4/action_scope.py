"""The function that is being written for an action, as expressions and primitives see it."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override

from switchml.errors import UnsupportedProgramError
from switchml.switch_emulator.p4.expression_code import Scope
from switchml.switch_emulator.p4.names import identifier
from switchml.switch_emulator.p4.program_model import ActionParam
from switchml.switch_emulator.p4.unit import Unit


class ActionScope(Scope):
    """A function being written for an action (or for a primitive in a parser state): its parameters, and the runs that
    are open as lists, which are put back before anything needs them whole.
    """

    def __init__(
        self, unit: Unit, params: tuple[ActionParam, ...] = (), look: Callable[[int, int], str] | None = None
    ):
        self.params = params
        self.unit = unit
        self._look = look
        # The underscore tells them from what `Names` gives out.
        self._names: list[str] = []
        for param in params:
            name = f"{identifier(param.name)}_"
            while name in self._names:
                name = f"{name}{len(self._names)}_"
            self._names.append(name)
        self._open: dict[str, str] = {}
        self._dirty: set[str] = set()

    @override
    def param_name(self, index: int) -> str:
        return self._names[index]

    @override
    def lookahead(self, offset: int, width: int) -> str:
        if self._look is None:
            raise UnsupportedProgramError("lookahead outside of the parser")
        return self._look(offset, width)

    @override
    def run_item(self, slot: str, width: int, position: int) -> str:
        if not slot.isidentifier():
            self.close()
            return f"words{width}.item(f[{slot}], {position})"
        return f"{self._opened(slot, width)}[{position}]"

    def set_run_item(self, slot: str, width: int, position: int, value: str) -> str:
        """The statement that stores one element."""
        if not slot.isidentifier():
            self.close()
            return f"f[{slot}] = words{width}.replace(f[{slot}], {position}, {value})"
        name = self._opened(slot, width)
        self._dirty.add(slot)
        return f"{name}[{position}] = {value}"

    def _opened(self, slot: str, width: int) -> str:
        if slot not in self._open:
            self._open[slot] = f"items_{slot}__"  # neither a parameter's nor any other object's name
            self.unit.out.line(f"{self._open[slot]} = words{width}.items(f[{slot}])")
        return self._open[slot]

    def close(self) -> None:
        """Write back the runs that have changed: what follows reads them by their slots."""
        for slot in sorted(self._dirty):
            self.unit.out.line(f"f[{slot}] = {self._open[slot]}")
        self._open.clear()
        self._dirty.clear()
