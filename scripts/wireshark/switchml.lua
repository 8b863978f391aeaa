-- Wireshark dissector of SwitchML packets (docs/packets.md). Made by `make docs` from switchml/protocol's tables:
-- do not edit. Use: wireshark -X lua_script:switchml.lua, or put it into the folder for personal Lua plugins.

local switchml = Proto("switchml", "SwitchML in-network aggregation")
local header = {
  ProtoField.uint8("switchml.msg_type", "msg_type", base.DEC, {[1] = "SUM", [2] = "EXPONENTS", [3] = "PROBE", [4] = "ABSENT", [5] = "ASK", [6] = "SUM16", [7] = "SUM8"}, 0xF0, "message type"),
  ProtoField.uint8("switchml.to_one", "to_one", base.DEC, nil, 0x8, "1: only the worker whose rank `e1` is wants the elements, all others the header alone"),
  ProtoField.uint8("switchml.size", "size", base.DEC, {[0] = "128 bytes", [1] = "256 bytes", [2] = "512 bytes", [3] = "1024 bytes", [4] = "2048 bytes", [5] = "4096 bytes", [6] = "8192 bytes", [7] = "16384 bytes"}, 0x7, "payload size of the job"),
  ProtoField.uint8("switchml.job_number", "job_number", base.DEC, nil, nil, "job on this switch"),
  ProtoField.uint32("switchml.tsi", "tsi", base.DEC, nil, nil, "sequence number of the chunk in its stream"),
  ProtoField.uint16("switchml.version", "version", base.DEC, nil, 0x8000, "which of the slot's two copies"),
  ProtoField.uint16("switchml.but_one", "but_one", base.DEC, nil, 0x4000, "1: the worker whose rank `e1` is wants no more than the header, all others the elements"),
  ProtoField.uint16("switchml.slot", "slot", base.DEC, nil, 0x3FFF, "slot, counted from the start of the job's range"),
  ProtoField.int8("switchml.e0", "e0", base.DEC, nil, nil, "exponent; the switch answers with the maximum over the workers"),
  ProtoField.int8("switchml.e1", "e1", base.DEC, nil, nil, "second exponent, treated like the first; with `to_one` or `but_one` a rank, as uint8; in a result of narrow lanes: bits they are shifted by"),
}
local places = {{0, 1}, {0, 1}, {0, 1}, {1, 1}, {2, 4}, {6, 2}, {6, 2}, {6, 2}, {8, 1}, {9, 1}}
local read = {
  msg_type = function(b) return b(0, 1):bitfield(0, 4) end,
  to_one = function(b) return b(0, 1):bitfield(4, 1) end,
  size = function(b) return b(0, 1):bitfield(5, 3) end,
  job_number = function(b) return b(1, 1):uint() end,
  tsi = function(b) return b(2, 4):uint() end,
  version = function(b) return b(6, 2):bitfield(0, 1) end,
  but_one = function(b) return b(6, 2):bitfield(1, 1) end,
  slot = function(b) return b(6, 2):bitfield(2, 14) end,
  e0 = function(b) return b(8, 1):int() end,
  e1 = function(b) return b(9, 1):int() end,
}
local header_bytes = 10
local lanes = {[1] = 32, [6] = 16, [7] = 8}
local names = {[1] = "SUM", [2] = "EXPONENTS", [3] = "PROBE", [4] = "ABSENT", [5] = "ASK", [6] = "SUM16", [7] = "SUM8"}
local first_port, last_port = 48864, 48879
local switch_mac, rank_mac = "02:53:4d:4c:00:01", "02:52:4b"
local word = 32
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

DissectorTable.get("udp.port"):add(first_port .. "-" .. last_port, switchml)
