"""A program in JSON may come from anybody: none of its texts becomes code, whatever it says."""

from __future__ import annotations

import builtins
import copy
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from everything_program import everything, played

from switchml.errors import SwitchMLError
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


def test_the_program_of_these_tests_goes_everywhere() -> None:
    lines: list[str] = []
    sent = played(P4Switch(load_program(everything().build()), trace=lines.append), str)
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
def test_a_program_with_hostile_names_does_what_it_does_with_others(payload: str) -> None:
    program = everything().build()
    names = _names(program, payload)
    expected = played(P4Switch(load_program(program)), str)
    hostile = load_program(json.dumps(_renamed(program, names)).encode())
    assert played(P4Switch(hostile), lambda name: names.get(name, name)) == expected
    lines: list[str] = []
    assert played(P4Switch(hostile, trace=lines.append), lambda name: names.get(name, name)) == expected
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


def test_a_hostile_text_in_any_one_place_runs_nothing() -> None:
    program = everything().build()
    program["errors"].append(["AnError", 9])
    payloads = list(PAYLOADS.values())
    for number, path in enumerate(_places(program)):
        changed = copy.deepcopy(program)
        inner = changed
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] += payloads[number % len(payloads)]
        with suppress(SwitchMLError):
            played(P4Switch(load_program(changed), trace=lambda line: None), str)
        assert _MARK not in os.environ, path


def test_a_hostile_program_pushed_over_p4runtime_runs_nothing() -> None:
    program = everything().build()
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


def test_the_second_wall_stops_code_that_got_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv(_MARK, raising=False)
    monkeypatch.setattr(compiler.ActionWriter, "write", lambda self: self.unit.out.line(_CODE))
    with pytest.raises(compiler.UnsupportedProgramError, match="Attribute"):
        P4Switch(load_program(everything().build()))
    monkeypatch.setattr(compiler.ActionWriter, "write", lambda self: self.unit.out.line("open('x')"))
    with pytest.raises(NameError):
        P4Switch(load_program(everything().build()))
