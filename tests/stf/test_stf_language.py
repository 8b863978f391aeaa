"""Scripts as statements, and what is said about lines that are none."""

from __future__ import annotations

import pytest

from switchml.stf.language import (
    Add,
    Call,
    CheckCounter,
    CheckRegister,
    Condition,
    Direct,
    Expect,
    NoPacket,
    Packet,
    Remove,
    SetDefault,
    Statement,
    StfError,
    Wait,
    integer,
    parse,
)

GOOD: dict[str, Statement] = {
    "packet 0 01 0203 ABcd": Packet(1, 0, bytes.fromhex("010203abcd")),
    "PACKET 511 00": Packet(1, 511, b"\0"),
    "packet 1 0a0b # and a comment": Packet(1, 1, b"\x0a\x0b"),
    "expect 3 0a** ***b $": Expect(1, 3, "0A*****B", True),
    "expect 3 0a": Expect(1, 3, "0A", False),
    "expect 3": Expect(1, 3, None, False),
    "expect 3 $": Expect(1, 3, "", True),
    "no_packet": NoPacket(1, None),
    "no_packet 7": NoPacket(1, 7),
    "wait": Wait(1, 1.0),
    "wait 3": Wait(1, 3.0),
    "add t k:1 a()": Add(1, "t", None, (("k", "1"),), Call("a", ()), ""),
    "add c.t 10 h.f:0x1* h.g[2].x:0b10*1 c.a(p:0x12, q:3) = one": Add(
        1, "c.t", 10, (("h.f", "0x1*"), ("h.g[2].x", "0b10*1")), Call("c.a", (("p", "0x12"), ("q", "3"))), "one"
    ),
    "add t a:1&&&0xf b:5..9 c:10.0 d:* e:0x0a/8 f:1->2 act(1, 2)".replace(" c:10.0", ""): Add(
        1, "t", None, (("a", "1&&&0xf"), ("b", "5..9"), ("d", "*"), ("e", "0x0a/8"), ("f", "1->2")),
        Call("act", (("", "1"), ("", "2"))), "",
    ),
    'add "a.t" 1 "h.f":0x1 "a.b"("p":0x2)': Add(1, "a.t", 1, (("h.f", "0x1"),), Call("a.b", (("p", "0x2"),)), ""),
    "add ex1 100 extra$0.h:0x25** act1(val:0x25)": Add(
        1, "ex1", 100, (("extra$0.h", "0x25**"),), Call("act1", (("val", "0x25"),)), ""
    ),
    "add t data.$valid:0b1 a()": Add(1, "t", None, (("data.$valid", "0b1"),), Call("a", ()), ""),
    "add t a()": Add(1, "t", None, (), Call("a", ()), ""),
    "setdefault c.t a(rej:0, bar:1)": SetDefault(1, "c.t", Call("a", (("rej", "0"), ("bar", "1")))),
    "remove all": Remove(1, "", True, None, ()),
    "remove all t": Remove(1, "t", True, None, ()),
    "remove $one": Remove(1, "$one", False, None, ()),
    "remove t 3 k:0x1": Remove(1, "t", False, 3, (("k", "0x1"),)),
    "check_counter c(10) packets == 2": CheckCounter(1, "c", "10", Condition("packets", "==", 2)),
    "check_counter c.d($A) bytes >= 0x10": CheckCounter(1, "c.d", "$A", Condition("bytes", ">=", 16)),
    "check_counter c($A)": CheckCounter(1, "c", "$A", None),
    "check_register r(3) != 4": CheckRegister(1, "r", 3, Condition("value", "!=", 4)),
    "mc_node_create 400 1 2 3": Direct(1, "mc_node_create", "", ("400", "1", "2", "3")),
    "register_write c.r 5 100": Direct(1, "register_write", "c.r", ("5", "100")),
    "register_read c.r": Direct(1, "register_read", "c.r", ()),
    "meter_set_rates c.m 2 0.000005:4 0.00002:5": Direct(
        1, "meter_set_rates", "c.m", ("2", "0.000005:4", "0.00002:5")
    ),
}  # fmt: skip


@pytest.mark.parametrize("line", GOOD)
def test_statement(line: str) -> None:
    assert parse(line) == [GOOD[line]]


def test_lines_are_counted_and_comments_left_out() -> None:
    text = "# a script\n\n  packet 1 00\n\t\nexpect 2 00\t# why\r\nwait\n"
    assert [statement.line for statement in parse(text)] == [3, 5, 6]


BAD = {
    "pakcet 1 00": "no statement begins with 'pakcet'",
    "packet": "port number is missing",
    "packet x 00": "port number expected, not 'x'",
    "packet 1\u136f 00": "port number expected, not '1\u136f'",
    "check_register r(\u00b2) == 0": "cannot read",
    "check_counter c(0x1*)": "an index or a handle expected, not '0x1*'",
    "packet 1": "a packet has data",
    "packet 1 000": "3 hexadecimal digits: one is missing",
    "packet 1 0g": "'g' is no hexadecimal digit",
    "packet 1 0*": "'*' is no hexadecimal digit",
    "expect 1 $ 00": "'$' is neither",
    "expect 1 0x": "'x' is neither",
    "no_packet 1 2": "'2' is one word too many",
    "add": "a table expected, not the end of the line",
    "add t k:1": "an action expected, not the end of the line",
    "add t k:1 a": "'(' after the action expected",
    "add t k:1 a(": "an argument expected, not the end of the line",
    "add t k:1 a(p:1": "',' or ')' expected, not the end of the line",
    "add t k:1 a(p:1 q:2)": "',' or ')' expected",
    "add t k:1 a() =": "a handle expected",
    "add t k:1 a() b": "'b' is one word too many",
    "add t k:zz a()": "what stands after 'k': is no match",
    "add t k:1 ?": "cannot read '?'",
    "add t 0x1* k:1 a()": "expected, not '0x1*'",
    "wait 0x" + "F" * 600: "a wait is of 86400 seconds at most",
    "remove": "'all', a table or a handle expected",
    "check_counter c 1": "'(' and an index expected",
    "check_counter c(1) frames == 2": "packets or bytes expected, not 'frames'",
    "check_counter c(1) packets = 2": "one of == != <= >= < > expected, not '='",
    "check_register r(x) == 2": "an index expected, not 'x'",
    "mc_node_associate 1": "mc_node_associate takes 2 arguments, not 1",
    "mc_node_create 1 x": "mc_node_create does not take 'x'",
    "mc_node_create": "mc_node_create takes 1 to 512 arguments, not 0",
    "register_read": "register_read needs a name",
    "meter_set_rates m 1 1.5": "meter_set_rates does not take '1.5'",
    "meter_set_rates m 1 15": "meter_set_rates does not take '15'",
    "meter_set_rates m 0.1:5 0.1:5": "meter_set_rates does not take '0.1:5'",
    "meter_set_rates m 1 " + "9" * 400 + ":5": "meter_set_rates does not take '999",
}


@pytest.mark.parametrize("digits", ["9" * 5000, "0" * 5000 + "1", "0x" + "F" * 9000, "0b" + "1" * 5000])
def test_a_number_of_thousands_of_digits_fits_nothing(digits: str) -> None:
    assert integer(digits).bit_length() > 2048
    [checked] = parse(f"check_register r(1) == {digits}")
    assert isinstance(checked, CheckRegister)
    assert not checked.condition.holds(1)
    assert len(str(checked.condition)) < 4300


@pytest.mark.parametrize("line", BAD)
def test_error_names_file_line_and_what_was_expected(line: str) -> None:
    with pytest.raises(StfError) as told:
        parse(f"wait\n\n{line}\nwait\n", "dir/some.stf")
    assert str(told.value).startswith("dir/some.stf:3: ")
    assert BAD[line] in str(told.value)
    assert told.value.line == 3
