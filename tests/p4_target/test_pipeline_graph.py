"""Pipelines of any shape against a plain walk from node to node."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchml.p4runtime.entries import ActionCall, Match, MatchKind, TableEntry
from switchml.switch_emulator.p4 import UnsupportedProgramError

# kind, then the nodes it can go on with, as distances ahead.
NODE = st.tuples(
    st.sampled_from(["condition", "hit", "action", "call", "exit"]),
    st.integers(1, 6),
    st.integers(1, 6),
)


class _Graph:
    """Node i tests bit i % 8 of h.bits and adds i + 1 to h.sum; node n means the end."""

    def __init__(self, builder: Any, nodes: list[tuple[str, int, int]]) -> None:
        self.nodes = nodes
        self.program = program = builder()
        program.simple(("bits", 8), ("sum", 32))
        for number, (kind, one, other) in enumerate(nodes):
            yes, no = self._name(number + one), self._name(number + other)
            add = program.assign(
                "h", "sum", program.op("+", program.field("h", "sum"), program.const(number + 1))
            )
            if kind == "condition":
                bit = program.op("&", program.field("h", "bits"), program.const(1 << number % 8))
                test = {"op": "!=", "left": bit, "right": program.const(0)}
                program.conditionals["ingress"].append(
                    {
                        "name": f"n{number}",
                        "id": number,
                        "expression": {"type": "expression", "value": test},
                        "true_next": yes,
                        "false_next": no,
                    }
                )
                continue
            if kind in ("call", "exit"):
                body = [add, *([program.call("exit")] if kind == "exit" else [])]
                act = program.action(f"do{number}", body)
                program.table(
                    f"n{number}",
                    [act],
                    default=act,
                    const=True,
                    following={f"do{number}": yes},
                    base_default_next=yes,
                )
                continue
            hit, miss = (program.action(f"{what}{number}", [add]) for what in ("hit", "miss"))
            following = (
                {"__HIT__": yes, "__MISS__": no}
                if kind == "hit"
                else {f"hit{number}": yes, f"miss{number}": no}
            )
            program.table(
                f"n{number}", [hit, miss], key=[("h", "bits", "ternary")], default=miss, following=following
            )
        program.first["ingress"] = self._name(0)

    def _name(self, number: int) -> str | None:
        return f"n{number}" if number < len(self.nodes) else None

    def switch(self) -> Any:
        switch = self.program.switch()
        for number, (kind, *_) in enumerate(self.nodes):
            if kind in ("hit", "action"):
                match = Match(MatchKind.TERNARY, 1 << number % 8, 1 << number % 8)
                switch.insert(f"n{number}", TableEntry({"hdr.h.bits": match}, ActionCall(f"hit{number}"), 1))
        return switch

    def walk(self, bits: int) -> int:
        total = number = 0
        while number < len(self.nodes):
            kind, one, other = self.nodes[number]
            taken = bool(bits >> number % 8 & 1) or kind in ("call", "exit")
            if kind != "condition":
                total += number + 1
            if kind == "exit":
                break
            number += one if taken else other
        return total


def _check(graph: _Graph, values: list[int]) -> None:
    switch = graph.switch()
    for bits in values:
        ((_, sent),) = switch.process(1, bytes([bits, 0, 0, 0, 0]))
        assert int.from_bytes(sent[1:], "big") == graph.walk(bits)


@given(
    nodes=st.lists(NODE, min_size=1, max_size=25),
    values=st.lists(st.integers(0, 255), min_size=1, max_size=8),
)
@settings(max_examples=60)
def test_a_pipeline_goes_where_its_nodes_say(
    builder: Any, nodes: list[tuple[str, int, int]], values: list[int]
) -> None:
    _check(_Graph(builder, nodes), values)


@pytest.mark.parametrize("kind", ["condition", "hit", "action"])
def test_a_deep_pipeline_becomes_several_functions(builder: Any, kind: str) -> None:
    # Every node but the first goes on to the next or to the end, 200 levels deep.
    graph = _Graph(builder, [(kind, 1, 200)] * 200)
    _check(graph, [0, 1, 0x7F, 0xFF])


def test_a_cycle_is_refused(builder: Any) -> None:
    program = builder()
    program.simple(("x", 8))
    act = program.action("a", [])
    for name, following in (("one", "two"), ("two", "one")):
        program.table(name, [act], key=[("h", "x", "exact")], following={"a": following})
    with pytest.raises(UnsupportedProgramError, match="cycle"):
        program.switch()
