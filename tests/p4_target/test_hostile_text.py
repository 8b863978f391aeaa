"""A program in JSON may come from anybody: none of its texts becomes code, whatever it says."""

from __future__ import annotations

import builtins
import copy
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from switchml.p4runtime.entries import ActionCall, CloneSession, Match, MatchKind, Replica, TableEntry
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4 import P4Device, P4Switch, compiler, load_program
from switchml.switch_emulator.p4runtime.pipeline_config import PipelineConfigs

_MARK = "SWITCHML_TEST_HOSTILE_TEXT"
_CODE = f"__import__('os').environ.__setitem__('{_MARK}', '1')"

# What ends a comment, a string or a replacement field, at every indentation that a writer uses.
PAYLOADS = {
    "newline": "".join(f"\n{' ' * indent}{_CODE}" for indent in (0, 4, 8, 12, 16)),
    "one line": f"\n{_CODE}\n",
    "inside a function": f"\n    {_CODE}\n#",
    "carriage return": f"\r{_CODE}\r",
    "form feed": f"\f\v\u2028\u0085{_CODE}",
    "braces": f"{{{_CODE}}}",
    "two braces": f"{{{{{_CODE}}}}} {{{_CODE}!r:>{{1}}}}",
    "quotes": f"' + str({_CODE}) + '",
    "double quotes": f'" + str({_CODE}) + "',
    "both quotes": f"'\" + str({_CODE}) + \"'",
    "docstring": f"'''\n\"\"\"{_CODE}",
    "backslash": f"\\' + str({_CODE}) #\\",
    "call": f"): {_CODE}; (",
    "null": f"\0{_CODE}",
    "half a character": f"\ud800{_CODE}",
    "letters that Python changes": "\U0001d429\U0001d41f \ufb01 \u00b2 \u212a",
}

# The switch knows these by name; those of parser, deparser and errors go into no source.
_RESERVED = {"ingress", "egress", "standard_metadata", "standard_metadata_t"}


@pytest.fixture(autouse=True)
def _only_the_first_wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Code that got in could do its work: what the compiler has behind `repr` and `identifier` is taken away."""
    monkeypatch.delenv(_MARK, raising=False)
    monkeypatch.setattr(compiler, "_BUILTINS", tuple(dir(builtins)))
    monkeypatch.setattr(compiler, "_NEVER_WRITTEN", ())
    yield
    assert _MARK not in os.environ


def _everything(builder: Any) -> Any:
    """A program with all that has a name, most of it on the way of a packet."""
    p = builder()
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


def _declared(item: Any) -> Iterator[str]:
    """Every name that the program gives to something, and what its source says."""
    match item:
        case dict():
            for key, value in item.items():
                if key in ("name", "filename", "source_fragment") and isinstance(value, str):
                    yield value
                elif key in ("fields", "headers") and value and isinstance(value[0], list):
                    yield from (entry[0] for entry in value)
                elif key == "parameters":
                    yield from (entry["value"] for entry in value if entry["type"] == "string")
                yield from _declared(value)
        case list():
            for value in item:
                yield from _declared(value)


def _renamed(item: Any, names: dict[str, str]) -> Any:
    match item:
        case dict():
            return {names.get(key, key): _renamed(value, names) for key, value in item.items()}
        case list():
            return [_renamed(value, names) for value in item]
        case str():
            return names.get(item, item)
    return item


def _names(program: dict[str, Any], payload: str) -> dict[str, str]:
    standard = {entry[0] for entry in program["header_types"][0]["fields"]}
    keys = {"name", "first", "input", "type", "value", "default", "header", "rate", "x", "y"}
    declared = set(_declared(program)) - _RESERVED - standard - keys
    assert {
        "an_action",
        "t",
        "a_hash",
        "everything.p4",
        "a message {}",
        "sum_3",
        "start",
        "options",
    } <= declared
    return {name: f"{name}{payload}" for name in declared}


def _played(switch: P4Switch, names: Callable[[str], str]) -> list[tuple[int, bytes]]:
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


def test_the_program_of_these_tests_goes_everywhere(builder: Any) -> None:
    lines: list[str] = []
    sent = _played(P4Switch(load_program(_everything(builder).build()), trace=lines.append), str)
    assert {port for port, _ in sent} == {2, 9}
    told = "\n".join(lines)
    for part in (
        "everything.p4:3",
        "a message",
        "16 x",
        "an_action(first = 0x5, second = 0x6)",
        "labels",
        "if ",
    ):
        assert part in told


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_a_program_with_hostile_names_does_what_it_does_with_others(builder: Any, payload: str) -> None:
    program = _everything(builder).build()
    names = _names(program, payload)
    expected = _played(P4Switch(load_program(program)), str)
    hostile = load_program(json.dumps(_renamed(program, names)).encode())
    assert _played(P4Switch(hostile), lambda name: names.get(name, name)) == expected
    lines: list[str] = []
    assert _played(P4Switch(hostile, trace=lines.append), lambda name: names.get(name, name)) == expected
    told = "\n".join(lines)
    for name in ("an_action", "t", "start", "h"):
        assert names[name] in told


def _places(item: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a text."""
    match item:
        case dict():
            for key, value in item.items():
                yield from _places(value, (*path, key))
        case list():
            for number, value in enumerate(item):
                yield from _places(value, (*path, number))
        case str():
            yield path


def test_a_hostile_text_in_any_one_place_runs_nothing(builder: Any) -> None:
    program = _everything(builder).build()
    program["errors"].append(["AnError", 9])
    payloads = list(PAYLOADS.values())
    for number, path in enumerate(_places(program)):
        changed = copy.deepcopy(program)
        inner = changed
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] += payloads[number % len(payloads)]
        with suppress(Exception):
            _played(P4Switch(load_program(changed), trace=lambda line: None), str)
        assert _MARK not in os.environ, path


def test_a_hostile_program_pushed_over_p4runtime_runs_nothing(builder: Any) -> None:
    program = _everything(builder).build()
    for action in ("VERIFY", "VERIFY_AND_SAVE", "COMMIT", "VERIFY_AND_COMMIT"):
        for payload in PAYLOADS.values():
            names = _names(program, payload)
            device = P4Device(1, trace=lambda line: None)
            configs = PipelineConfigs(device)
            config = pb.ForwardingPipelineConfig(
                p4_device_config=json.dumps(_renamed(program, names)).encode()
            )
            config.p4info.pkg_info.name = payload.encode("utf-8", "replace").decode()
            if action == "COMMIT":
                configs.set("VERIFY_AND_SAVE", config)
                configs.set("COMMIT", None)
            else:
                configs.set(action, config)
            device.process(1, bytes([7, 9]) + bytes(range(70)))
            assert _MARK not in os.environ


def test_the_second_wall_stops_code_that_got_in(monkeypatch: pytest.MonkeyPatch, builder: Any) -> None:
    monkeypatch.undo()
    monkeypatch.delenv(_MARK, raising=False)
    monkeypatch.setattr(compiler.ActionWriter, "write", lambda self: self.unit.out.line(_CODE))
    with pytest.raises(compiler.UnsupportedProgramError, match="Attribute"):
        P4Switch(load_program(_everything(builder).build()))
    monkeypatch.setattr(compiler.ActionWriter, "write", lambda self: self.unit.out.line("open('x')"))
    with pytest.raises(NameError):
        P4Switch(load_program(_everything(builder).build()))
