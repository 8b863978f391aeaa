"""Every expression of a program, whatever it stands in."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator

from switchml.switch_emulator.p4.expressions import Expr, FieldRef, HeaderRef, walk
from switchml.switch_emulator.p4.program_model import (
    Advance,
    Conditional,
    Extract,
    Primitive,
    Program,
    SetField,
    Table,
    Verify,
)


def field_uses(program: Program) -> collections.Counter[FieldRef]:
    """How often the whole program names each field."""
    return collections.Counter(
        node for expression in expressions(program) for node in walk(expression) if isinstance(node, FieldRef)
    )


def expressions(program: Program, *, without: Collection[str] = ()) -> Iterator[Expr]:
    """Every expression of the program.

    Args:
        program: the program.
        without: primitives whose arguments are left out.
    """

    def arguments(primitives: Iterable[Primitive]) -> Iterator[Expr]:
        for item in primitives:
            if item.op not in without:
                yield from item.args

    for action in program.action_by_id.values():
        yield from arguments(action.body)
    for state in program.parser.states.values():
        yield from state.key
        for op in state.ops:
            match op:
                case Extract():
                    if op.length is not None:
                        yield op.length
                case SetField(target, value):
                    yield target
                    yield value
                case Verify(condition, error):
                    yield condition
                    yield error
                case Advance(bits):
                    yield bits
                case Primitive():
                    yield from arguments((op,))
    for pipeline in (program.ingress, program.egress):
        for node in pipeline.nodes.values():
            if isinstance(node, Conditional):
                yield node.expression
            elif isinstance(node, Table):
                yield from (key.target for key in node.key)
    for calculation in program.calculations.values():
        for entry in calculation.inputs:
            if entry.field is not None:
                yield entry.field
            if entry.header:
                yield HeaderRef(entry.header)
    for checksum in program.checksums:
        yield checksum.target
        if checksum.condition is not None:
            yield checksum.condition
    for profile in program.profiles.values():
        if profile.selector is not None:
            yield from profile.selector[1]
    for meter in program.meters.values():
        if meter.result is not None:
            yield meter.result
    for fields in (*program.field_lists.values(), *program.digests.values()):
        yield from fields.elements
    yield from arguments(program.deparser.primitives)
    yield from program.aliases.values()
    yield from (HeaderRef(name) for name in program.deparser.order)


def headers_used_whole(program: Program, *, without: Collection[str] = ()) -> set[str]:
    """Headers named as such, whose fields all count as used.

    Args:
        program: the program.
        without: as for `expressions`.
    """
    return {
        node.name
        for expression in expressions(program, without=without)
        for node in walk(expression)
        if isinstance(node, HeaderRef)
    }
