"""Makes the Wireshark dissector from the tables of the wire format: scripts/wireshark/switchml.lua.

python -m switchml.packets.dissector scripts/wireshark/switchml.lua
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from switchml.packets.made_macs import RANK_MAC, SWITCH_MAC
from switchml.protocol.header import FIELDS, HEADER_BYTES, PLACES
from switchml.protocol.messages import (
    ELEMENT_BYTES,
    LANE_BITS,
    MESSAGE_TYPES,
    PAYLOAD_SIZES,
    UDP_PORT_FIRST,
    UDP_PORT_LAST,
)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _value_strings(name: str) -> str:
    if name == "msg_type":
        return "{" + ", ".join(f"[{kind.code}] = {_quoted(kind.name)}" for kind in MESSAGE_TYPES) + "}"
    if name == "size":
        return "{" + ", ".join(f'[{size.code}] = "{size.payload} bytes"' for size in PAYLOAD_SIZES) + "}"
    return "nil"


def _field_lines() -> Iterator[str]:
    for name, field in FIELDS.items():
        place = PLACES[name]
        bits = 8 * place.width
        kind = f"{'int' if field.signed else 'uint'}{bits}"
        mask = "nil" if field.bits == bits else f"0x{place.mask << place.shift:X}"
        words = field.meaning.removesuffix(" (table below)")
        strings = _value_strings(name)
        names = f"{_quoted(f'switchml.{name}')}, {_quoted(name)}"
        yield f"  ProtoField.{kind}({names}, base.DEC, {strings}, {mask}, {_quoted(words)}),"


def _reader(name: str) -> str:
    place, field = PLACES[name], FIELDS[name]
    bits = 8 * place.width
    span = f"b({place.offset}, {place.width})"
    if field.bits == bits:
        return f"{span}:{'int' if field.signed else 'uint'}()"
    return f"{span}:bitfield({bits - place.shift - field.bits}, {field.bits})"


def _lines() -> Iterator[str]:
    yield "-- Wireshark dissector of SwitchML packets (docs/packets.md). Made by `make docs` from switchml/protocol's tables:"
    yield "-- do not edit. Use: wireshark -X lua_script:switchml.lua, or put it into the folder for personal Lua plugins."
    yield ""
    yield 'local switchml = Proto("switchml", "SwitchML in-network aggregation")'
    yield "local header = {"
    yield from _field_lines()
    yield "}"
    spans = ", ".join(f"{{{PLACES[name].offset}, {PLACES[name].width}}}" for name in FIELDS)
    yield f"local places = {{{spans}}}"
    yield "local read = {"
    yield from (f"  {name} = function(b) return {_reader(name)} end," for name in FIELDS)
    yield "}"
    yield f"local header_bytes = {HEADER_BYTES}"
    lanes = ", ".join(f"[{kind.code}] = {kind.lane_bits}" for kind in MESSAGE_TYPES if kind.lane_bits)
    yield f"local lanes = {{{lanes}}}"
    names = ", ".join(f"[{kind.code}] = {_quoted(kind.name)}" for kind in MESSAGE_TYPES)
    yield f"local names = {{{names}}}"
    yield f"local first_port, last_port = {UDP_PORT_FIRST}, {UDP_PORT_LAST}"
    yield f'local switch_mac, rank_mac = "{SWITCH_MAC}", "{RANK_MAC}"'
    yield f"local word = {8 * ELEMENT_BYTES}"
    yield _BODY
    lane_bits = sorted({bits for bits in LANE_BITS if bits > 0})
    if lane_bits != [8, 16, 32]:
        raise AssertionError(f"the dissector reads lanes of 8, 16 and 32 bits: {lane_bits}")


_BODY = """\
local rank = ProtoField.uint16("switchml.rank", "rank", base.DEC, nil, nil, "the worker's rank, from its made-up MAC address")
local to_switch = ProtoField.bool("switchml.to_switch", "to the switch", nil, nil, nil, "from the made-up MAC addresses")
local elements = ProtoField.uint32("switchml.elements", "number of elements")
local element = {
  [8] = ProtoField.int8("switchml.lane8", "element"),
  [16] = ProtoField.int16("switchml.lane16", "element"),
  [32] = ProtoField.int32("switchml.element", "element"),
}
local cut = ProtoExpert.new("switchml.cut", "shorter than a header", expert.group.MALFORMED, expert.severity.ERROR)
local all = {rank, to_switch, elements, element[8], element[16], element[32]}
for _, field in ipairs(header) do all[#all + 1] = field end
switchml.fields = all
switchml.experts = {cut}
switchml.prefs.values = Pref.bool("Show the elements", true, "Each element of a packet is a line")

local eth_source, eth_destination = Field.new("eth.src"), Field.new("eth.dst")

local function mac(field)
  local found = field()
  return found and found.range:bytes():tohex(true, ":") or ""
end

function switchml.dissector(buffer, pinfo, tree)
  pinfo.cols.protocol = "SwitchML"
  local branch = tree:add(switchml, buffer())
  if buffer:len() < header_bytes then
    branch:add_proto_expert_info(cut)
    pinfo.cols.info = "SwitchML, cut off after " .. buffer:len() .. " bytes"
    return buffer:len()
  end
  for index, field in ipairs(header) do
    branch:add(field, buffer(places[index][1], places[index][2]))
  end
  local source, destination = mac(eth_source), mac(eth_destination)
  local from = nil
  if destination == switch_mac then from = source elseif source == switch_mac then from = destination end
  local who = ""
  if from then
    branch:add(to_switch, destination == switch_mac):set_generated()
    if from:sub(1, #rank_mac) == rank_mac then
      local number = tonumber(from:sub(13, 14) .. from:sub(16, 17), 16)
      branch:add(rank, number):set_generated()
      who = (destination == switch_mac and " from" or " to") .. " rank " .. number
    end
  end
  local kind = read.msg_type(buffer)
  local bits = lanes[kind] or word
  local count = math.floor((buffer:len() - header_bytes) * 8 / bits)
  branch:add(elements, count):set_generated()
  if switchml.prefs.values then
    for index = 0, count - 1 do
      branch:add(element[bits], buffer(header_bytes + index * bits / 8, bits / 8))
    end
  end
  pinfo.cols.info = string.format(
    "%s%s job %d tsi %d slot %d version %d exponents %d,%d, %d elements", names[kind] or ("message " .. kind), who,
    read.job_number(buffer), read.tsi(buffer), read.slot(buffer), read.version(buffer), read.e0(buffer), read.e1(buffer), count)
  return buffer:len()
end

-- Switches on other ports are known by the MAC address that emulated ones have in captures of their own.
switchml:register_heuristic("udp", function(buffer, pinfo, tree)
  if mac(eth_source) ~= switch_mac and mac(eth_destination) ~= switch_mac then return false end
  switchml.dissector(buffer, pinfo, tree)
  return true
end)

DissectorTable.get("udp.port"):add(first_port .. "-" .. last_port, switchml)"""


def render() -> str:
    """The script, whole."""
    return "\n".join(_lines()) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Write the script to the files that are named."""
    for argument in arguments:
        Path(argument).write_text(render())


if __name__ == "__main__":
    main(sys.argv[1:])
