"""A program that has one of everything, and packets that go everywhere in it."""

from __future__ import annotations

from collections.abc import Callable

from program_builder import ProgramBuilder

from switchml.p4runtime.entries import ActionCall, CloneSession, Match, MatchKind, Replica, TableEntry
from switchml.switch_emulator.p4 import P4Switch


def everything() -> ProgramBuilder:
    """A program with all that has a name, most of it on the way of a packet."""
    p = ProgramBuilder()
    said = {"filename": "everything.p4", "line": 3, "source_fragment": "something it says"}
    p.header("meta", [("kept", 8), ("index", 16), ("hashed", 16), ("colour", 8)], metadata=True)
    p.header("h", [("a", 8), ("b", 8), ("csum", 16)])
    p.header("run", [(f"e{i}", 32) for i in range(16)])
    p.header("var", [("len", 8), ("options", "*")])
    p.stack("labels", 2, [("label", 8)])
    members = [p.header("u_x", [("x", 8)]), p.header("u_y", [("y", 8)])]
    p.union_types.append({"name": "union_t", "id": 0, "headers": [["x", "u_x_t"], ["y", "u_y_t"]]})
    p.unions.append({"name": "a_union", "id": 0, "union_type": "union_t", "header_ids": members})
    p.value_sets.append({"name": "a_set", "id": 0, "compressed_bitwidth": 8})
    a, b, kept = p.field("h", "a"), p.field("h", "b"), p.field("meta", "kept")
    p.state("start", [p.extract("h")], [b], cases=[("a_set", None, "others")], default="data")
    p.state("others", [], [a], cases=[(f"0x{i:02x}", None, f"case_{i}") for i in range(5)])
    for i in range(5):
        p.state(f"case_{i}", [], default="data")
    p.state("data", [p.extract("run"), p.extract("labels", "stack"), p.extract("u_x")])
    p.order += ["h", "run", "labels[0]", "labels[1]", "u_x", "u_y", "var"]
    p.registers += [{"name": f"sum_{i}", "id": i, "size": 4, "bitwidth": 32} for i in range(16)]
    p.registers.append({"name": "cells", "id": 16, "size": 4, "bitwidth": 8})
    p.counters.append({"name": "packets", "id": 0, "size": 4, "is_direct": False})
    p.meters += [
        {"name": "rate", "id": 0, "size": 4, "rate_count": 2, "type": "packets", "is_direct": False},
        {"name": "direct", "id": 1, "rate_count": 2, "type": "bytes", "is_direct": True, "binding": "t",
         "result_target": ["meta", "colour"]},
    ]  # fmt: skip
    p.calculations += [
        {
            "name": name,
            "id": number,
            "algo": algorithm,
            "input": [a, b, p.of("header", "run")][: 3 - 2 * number],
        }
        for number, (name, algorithm) in enumerate((("a_hash", "crc32"), ("a_sum", "xor16")))
    ]
    p.checksums.append(
        {"name": "a_checksum", "id": 0, "type": "generic", "target": ["h", "csum"], "calculation": "a_sum",
         "update": True, "verify": True, "if_cond": p.op("==", a, a)}
    )  # fmt: skip
    p.learn_lists.append({"id": 1, "name": "a_digest", "elements": [a, kept]})
    p.field_lists.append({"id": 1, "name": "a_list", "elements": [kept]})
    one = p.const(1)
    body = [
        p.assign("meta", "kept", p.param(0)),
        p.assign("h", "b", p.op("+", b, p.param(1))),
        p.call("register_read", kept, p.of("register_array", "cells"), one),
        p.call("register_write", p.of("register_array", "cells"), one, p.op("+", kept, one)),
        p.call("count", p.of("counter_array", "packets"), one),
        p.call("execute_meter", p.of("meter_array", "rate"), one, p.field("meta", "colour")),
        p.call(
            "modify_field_with_hash_based_offset",
            p.field("meta", "hashed"),
            p.const(0),
            p.of("calculation", "a_hash"),
            p.const(8),
        ),
        p.call("log_msg", p.of("string", "a message {}"), p.of("parameters_vector", [a])),
        p.call("add_header", p.of("header", "u_y")),
        p.call("push", p.of("header_stack", "labels"), one),
        p.call("generate_digest", p.const(0), one),
        p.call("clone_ingress_pkt_to_egress", p.const(5), one),
        p.assign("standard_metadata", "egress_spec", p.const(2)),
    ]
    act = p.action(
        "an_action", [item | {"source_info": said} for item in body], [("first", 8), ("second", 8)]
    )
    p.actions[act]["source_info"] = said
    p.table("t", [act], key=[("h", "a", "ternary")], default=act, arguments=[1, 2], direct_meters="direct")
    rounds = []
    for i in range(16):
        element = p.field("run", f"e{i}")
        register = p.of("register_array", f"sum_{i}")
        rounds += [
            p.call("register_read", element, register, one) | {"source_info": said},
            p.assign("run", f"e{i}", p.op("+", element, one)) | {"source_info": said},
            p.call("register_write", register, one, element) | {"source_info": said},
        ]
    p.run(rounds)
    p.run(
        [
            p.call("_jump_if_zero", a, p.const(2)) | {"source_info": said},
            p.assign("h", "b", one),
            p.assign("run", "e3", one),
            p.assign("h", "csum", b),
        ]
    )
    p.profiles.append(
        {"name": "a_profile", "id": 0, "max_size": 8, "selector": {"algo": "crc16", "input": [a]}}
    )
    p.table("chosen", [act], key=[("h", "b", "exact")], type="indirect_ws", action_profile="a_profile")
    p.tables["ingress"][-1]["next_tables"] = {"an_action": "if_1"}
    p.tables["ingress"][-1]["base_default_next"] = "if_1"
    p.run([p.assign("meta", "index", one)])
    last = p.tables["ingress"][-1]["name"]
    p.conditionals["ingress"].append(
        {"name": "if_1", "id": 0, "expression": p.op(">", a, one), "true_next": last, "false_next": None,
         "source_info": said}
    )  # fmt: skip
    p.run([p.assign("h", "b", p.field("meta", "hashed")) | {"source_info": said}], "egress")
    return p


def played(switch: P4Switch, names: Callable[[str], str]) -> list[tuple[int, bytes]]:
    """What leaves; goes through every part of the program."""
    action = names("an_action")
    key = {names("hdr.h.a"): Match(MatchKind.TERNARY, 7, 0xFF)}
    switch.insert(names("t"), TableEntry(key, ActionCall(action, (5, 6)), priority=3))
    switch.insert_member(names("a_profile"), 1, ActionCall(action, (1, 1)))
    switch.set_clone_session(5, CloneSession((Replica(9, 1),)))
    switch.set_value_set(names("a_set"), [[Match(MatchKind.EXACT, 9)]])
    sent = []
    for first in (0, 1, 7, 9):
        for second in (0, 9):
            sent += switch.process(1, bytes([first, second]) + bytes(range(70)))
    return sent
