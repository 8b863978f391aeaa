"""Bodies of actions: statements one after the other, and jumps, whose targets count primitives.

p4c makes jumps of if statements and of loops. What is an if becomes one; a body that jumps in any other way becomes
its blocks inside a loop, of which each says which one is next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from switchml.errors import UnsupportedProgramError
from switchml.switch_emulator.p4.action_scope import ActionScope
from switchml.switch_emulator.p4.expression_code import ExpressionWriter
from switchml.switch_emulator.p4.expressions import Const, Expr
from switchml.switch_emulator.p4.program_model import Primitive
from switchml.switch_emulator.p4.repetition import Repeated
from switchml.switch_emulator.p4.source_writer import SourceWriter
from switchml.switch_emulator.p4.unit import comment

JUMP, JUMP_IF_ZERO = JUMPS = ("_jump", "_jump_if_zero")

Body = Sequence[Primitive | Repeated]
Statement = Callable[[Primitive | Repeated, ActionScope], None]


def write_body(
    body: Body, scope: ActionScope, out: SourceWriter, expressions: ExpressionWriter, statement: Statement
) -> None:
    """An action's body with jumps.

    Args:
        body: its primitives.
        scope: of the function that is being written.
        out: where the source goes.
        expressions: for the conditions of jumps.
        statement: writes one that is no jump.
    """
    primitives = [item for item in body if isinstance(item, Primitive)]
    if not any(item.op in JUMPS for item in primitives):
        for item in body:
            statement(item, scope)
    else:
        writer = _JumpWriter(primitives, scope, out, expressions, statement)
        if writer.is_ifs(0, len(body)):
            writer.ifs(0, len(body))
        else:
            writer.blocks()
    scope.close()


class _JumpWriter:
    def __init__(
        self,
        body: Sequence[Primitive],
        scope: ActionScope,
        out: SourceWriter,
        expressions: ExpressionWriter,
        statement: Statement,
    ) -> None:
        self._body = body
        self._scope = scope
        self._out = out
        self._expressions = expressions
        self._statement = statement

    def _target(self, position: int) -> int:
        item = self._body[position]
        target = _constant(item.args[0 if item.op == JUMP else 1])
        if not 0 <= target <= len(self._body):
            raise UnsupportedProgramError(
                f"a jump to primitive {target} of an action that has {len(self._body)}"
            )
        return target

    def _condition(self, position: int) -> str:
        return self._expressions.truth(self._body[position].args[0], self._scope)

    # If statements

    def _if_ends(self, position: int, end: int) -> tuple[int, int] | None:
        """Where the if that begins here has its else, and where it ends; the same place without one. None: it is no if."""
        otherwise = self._target(position)
        if not position < otherwise <= end:
            return None
        last = otherwise - 1
        if last == position or self._body[last].op != JUMP:
            return otherwise, otherwise
        after = self._target(last)
        return (otherwise, after) if otherwise <= after <= end else None

    def is_ifs(self, start: int, end: int) -> bool:
        position = start
        while position < end:
            match self._body[position].op:
                case "_jump":
                    return False
                case "_jump_if_zero":
                    ends = self._if_ends(position, end)
                    if ends is None:
                        return False
                    otherwise, after = ends
                    if not (
                        self.is_ifs(position + 1, _end_of_then(otherwise, after))
                        and self.is_ifs(otherwise, after)
                    ):
                        return False
                    position = after
                case _:
                    position += 1
        return True

    def ifs(self, start: int, end: int) -> None:
        position = start
        while position < end:
            if self._body[position].op != JUMP_IF_ZERO:
                self._statement(self._body[position], self._scope)
                position += 1
                continue
            ends = self._if_ends(position, end)
            assert ends is not None
            otherwise, after = ends
            condition = self._condition(position)
            self._scope.close()
            with self._out.block(f"if {condition}:", comment(self._body[position].source)):
                self.ifs(position + 1, _end_of_then(otherwise, after))
                self._scope.close()
            if after > otherwise:
                with self._out.block("else:"):
                    self.ifs(otherwise, after)
                    self._scope.close()
            position = after

    # Anything else

    def blocks(self) -> None:
        """A loop over the blocks between jumps and their targets; `step` is the primitive to go on with. `work` is what the
        frame has left.
        """
        jumps = [number for number, item in enumerate(self._body) if item.op in JUMPS]
        starts = sorted({0, *(number + 1 for number in jumps), *map(self._target, jumps)} - {len(self._body)})
        out = self._out
        out.line("step = 0")
        with out.block("while True:"):
            for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(self._body)], strict=True)):
                with out.block(f"{'elif' if number else 'if'} step == {start}:"):
                    self._block(start, end)
            with out.block("else:"):
                out.line("break")

    def _block(self, start: int, end: int) -> None:
        self._out.line(f"work[0] -= {end - start}")
        with self._out.block("if work[0] < 0:"):
            self._out.line("endless()")
        following = str(end)
        note = ""
        for position in range(start, end):
            item = self._body[position]
            if item.op in JUMPS:
                note = comment(item.source)
            match item.op:
                case "_jump":
                    following = str(self._target(position))
                case "_jump_if_zero":
                    following = f"{end} if {self._condition(position)} else {self._target(position)}"
                case _:
                    self._statement(item, self._scope)
        self._scope.close()
        self._out.line(f"step = {following}", note)


def _end_of_then(otherwise: int, after: int) -> int:
    """Without the jump over the else."""
    return otherwise - 1 if after > otherwise else otherwise


def _constant(expression: Expr) -> int:
    if not isinstance(expression, Const):
        raise UnsupportedProgramError("a jump inside an action to a place that is not constant")
    return expression.value
